//! Two engines, one result: random frames through the worker's `process` and through the tc programs.
//!
//! Both get their tables from the same changes by the same compiler (`engine::compile`). What a program redirects
//! must be what the worker makes of the frame, byte by byte; what it leaves to the kernel it must leave for one
//! of the reasons in docs/architecture.md, "Two engines", written down here a second time.
//!
//! `VXDP_FRAMES=1000000` asks for that many frames in each direction.

mod random_frames;

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use random_frames::{Dice, LONGEST, ROOM, disturb, frame};
use vxdp_control::engine::compile::{self, Path};
use vxdp_control::mirror::nexthop::Resolution;
use vxdp_control::mirror::state::{Change, Place};
use vxdp_control::xdp::{BpfFs, Capacity, Classifier, Host, Outer, PortEntry, Programs, Tables as Maps};
use vxdp_dataplane::table::{
    Change as TableChange, Df, Overlay, Policy, Port, PortRange, Tos, Ttl, UdpChecksum, Underlay,
};
use vxdp_dataplane::wire::{MacAddr, Vni};
use vxdp_dataplane::{
    DropReason, Ingress, Local, Nanos, OverlayId, PortId, Slot, Tables, Verdict, VtepId, process,
};

const SEGMENT: OverlayId = OverlayId::new(0);
const PORT: PortId = PortId::new(0);
const UDP_PORT: u16 = 4789;
const OURS: [u8; 6] = [2, 0x42, 0x0a, 0, 0, 2];
const THEIRS: [u8; 6] = [2, 0x42, 0x0a, 0, 0, 3];
/// MACs of the hosts' devices.
const HOSTS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x21], [2, 0, 0, 0, 0, 0x22]];

/// What a tc program answers for a packet that it redirects.
const TC_ACT_REDIRECT: u32 = 7;

fn frames() -> usize {
    std::env::var("VXDP_FRAMES").map_or(60_000, |frames| frames.parse().expect("a number"))
}

fn address(host: usize) -> IpAddr {
    [192, 168, 10, 21 + host as u8].into()
}

/// How outer headers may look, as far as the programs write them.
fn policies() -> [Policy; 3] {
    let inherit = Policy { ttl: Ttl::Inherit, tos: Tos::Inherit, df: Df::Inherit, ..Policy::default() };
    let fixed = Policy {
        ttl: Ttl::Fixed(NonZeroU8::new(3).expect("not zero")),
        tos: Tos::Fixed(0xb8),
        df: Df::Set,
        source_ports: PortRange::new(60_000, 60_006),
        ..Policy::default()
    };
    [Policy::default(), inherit, fixed]
}

fn overlay(policy: Policy) -> Overlay {
    Overlay { vni: Vni::new(42).expect("small enough"), port: UDP_PORT, policy }
}

/// What the mirror would say on host 0 or 1 of two, each with one container.
fn facts(host: usize) -> [Change; 3] {
    let macs = [MacAddr::new(OURS), MacAddr::new(THEIRS)];
    let resolution = Resolution::Resolved { next_hop: MacAddr::new(HOSTS[1 - host]), mtu: None };
    let id = VtepId::new(0);
    let mac = |mac, place| Change::Mac { overlay: SEGMENT, mac, place: Some(place) };
    [
        Change::Vtep { id, address: address(1 - host), resolution },
        mac(macs[host], Place::Local(PORT)),
        mac(macs[1 - host], Place::Remote(id)),
    ]
}

const PATH: Path = Path { mtu: 1500, hop_limit: 64 };

/// The worker's tables on a host.
fn tables(host: usize, policy: Policy) -> Tables {
    let underlay = Underlay { local: address(host), mac: MacAddr::new(HOSTS[host]) };
    let mut changes = vec![
        TableChange::Overlay(SEGMENT, Some(overlay(policy))),
        TableChange::Port(PORT, Some(Port { overlay: SEGMENT, mtu: 1450 })),
    ];
    changes.extend(compile::changes(&facts(host), &compile::Vteps::new(), PATH).tables);
    Tables::new(underlay).with_changes(&changes).expect("valid")
}

/// The programs of host 0 over maps of their own.
struct InKernel {
    port: Classifier,
    underlay: Classifier,
    directory: tempfile::TempDir,
}

impl InKernel {
    fn new(policy: Policy) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let bpffs = BpfFs::open(&directory.path().join("bpf")).expect("root mounts");
        let capacity = Capacity { rows: 16, vteps: 16, ports: 16, overlays: 16 };
        let programs = Programs::new(bpffs, capacity).expect("loading");
        let mut maps = programs.tables().expect("the maps");
        fill(&mut maps, policy).expect("room in the maps");
        // Fresh for longer than any test runs.
        programs.heartbeats().expect("a map").beat(0, u64::MAX).expect("written");
        let (port, underlay) = (programs.tc_port(PORT), programs.tc_underlay());
        Self { port: port.expect("the verifier"), underlay: underlay.expect("the verifier"), directory }
    }
}

impl Drop for InKernel {
    fn drop(&mut self) {
        BpfFs::remove(&self.directory.path().join("bpf")).expect("unmounting");
    }
}

fn fill(maps: &mut Maps, policy: Policy) -> Result<(), vxdp_control::xdp::TableError> {
    maps.set_host(Host {
        local: address(0),
        mac: MacAddr::new(HOSTS[0]),
        max_frame: u32::MAX,
        heartbeat_max_age: Duration::from_secs(3600),
        device: 2,
    })?;
    maps.set_tunnel_ports([UDP_PORT])?;
    let overlay = overlay(policy);
    maps.set_overlay(overlay.vni, overlay.port, SEGMENT, true)?;
    let mac = MacAddr::new(OURS);
    let outer = Outer { vni: overlay.vni, udp_port: overlay.port, policy, index: 7, uplink: [8, 9], mac };
    let longest = LONGEST as u32;
    maps.set_port(
        PORT,
        PortEntry { overlay: SEGMENT, max_frame: longest, enabled: true, outer: Some(outer) },
    )?;
    for write in compile::changes(&facts(0), &compile::Vteps::new(), PATH).after {
        maps.write(write)?;
    }
    maps.set_switch(true)
}

/// What the program makes of a frame: nothing where it leaves it to the kernel, which must get it as it was. The
/// kernel itself refuses to run the program on an IP header that is cut short.
fn programmed(program: &Classifier, frame: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.clear();
    out.resize(frame.len() + ROOM, 0);
    let Ok((action, length)) = program.run(frame, out) else {
        let cut = match frame[12..14] {
            [0x08, 0x00] => frame.len() < 14 + 20,
            [0x86, 0xdd] => frame.len() < 14 + 40,
            _ => false,
        };
        assert!(cut, "the kernel does not run the program on {frame:02x?}");
        return None;
    };
    out.truncate(length);
    if action == TC_ACT_REDIRECT {
        return Some(());
    }
    assert_eq!(action, u32::MAX, "TC_ACT_UNSPEC");
    assert!(out == frame, "a frame for the kernel was changed: {frame:02x?}");
    None
}

/// What the worker makes of it.
fn worked(
    tables: &Tables,
    ingress: Ingress,
    data: &mut Vec<u8>,
    local: &mut Local,
) -> Result<(), DropReason> {
    let mut batch = [Slot::new(ingress, data)];
    process(Nanos(5_000_000_000), &mut batch, tables, local);
    match batch[0].verdict {
        Verdict::ToUnderlay { len } | Verdict::ToPort { len, .. } => {
            data.truncate(len);
            Ok(())
        }
        Verdict::Drop(reason) => Err(reason),
    }
}

/// Whether two frames are equal but for an inner checksum that the worker took for unfinished: a random field
/// looks like that once in 65,536 times. (For tc it is a mark beside the bytes that says so.)
fn equal(program: &[u8], worker: &[u8]) -> bool {
    let differing = program.iter().zip(worker).filter(|(a, b)| a != b).count();
    program.len() == worker.len() && differing <= 2 && {
        let first = program.iter().zip(worker).position(|(a, b)| a != b).unwrap_or(0);
        let last = program.iter().zip(worker).rposition(|(a, b)| a != b).unwrap_or(0);
        last <= first + 1
    }
}

/// How often what happened, so that a test that tests nothing fails.
#[derive(Debug, Default)]
struct Tally {
    carried: usize,
    left: usize,
    unfinished: usize,
}

impl Tally {
    fn compare(&mut self, frame: &[u8], program: &[u8], worker: &[u8]) {
        assert!(equal(program, worker), "of {frame:02x?}\nprogram {program:02x?}\nworker  {worker:02x?}");
        self.unfinished += usize::from(program != worker);
        self.carried += 1;
    }

    fn check(&self, frames: usize) {
        assert!(self.carried > frames / 3 && self.left > frames / 20, "too much of one kind: {self:?}");
        assert!(self.unfinished <= 3 + frames / 10_000, "the checksums differ: {self:?}");
    }
}

/// Whether the rules leave a container's frame to the kernel.
fn port_leaves(frame: &[u8]) -> bool {
    let packet = &frame[14..];
    frame[..6] != THEIRS
        || frame[6..12] != OURS
        || frame.len() > LONGEST
        || match frame[12..14] {
            [0x08, 0x00] => packet.len() < 20,
            // Extension headers, and a question for a neighbour.
            [0x86, 0xdd] => {
                packet.len() < 40
                    || matches!(packet[6], 0 | 43 | 44 | 60)
                    || packet[6] == 58 && packet.get(40..42) == Some(&[135, 0])
            }
            _ => true,
        }
}

/// Whether the rules leave to the kernel a tunnel's packet that a worker would carry.
fn underlay_leaves(packet: &[u8]) -> bool {
    let word = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    let (total, udp_length, udp_checksum) = (word(16), word(38), word(40));
    let plain = matches!(word(ROOM + 12), 0x0800 | 0x86dd);
    !plain
        || udp_checksum != 0
        || 14 + total != packet.len()
        || 20 + udp_length != total
        || packet.len() - ROOM > LONGEST
}

/// The fields that a sender chooses by itself: the identification must not be compared, the checksum over it is
/// right or not.
fn without_ident(outer: &mut [u8]) {
    let sum: u32 = outer[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the outer header's checksum: {outer:02x?}");
    outer[18..20].fill(0);
    outer[24..26].fill(0);
}

#[test]
#[ignore = "needs root"]
fn both_engines_make_the_same_outer_packets_of_a_containers_frames() {
    let mut dice = Dice::new(0x11);
    let (mut tally, mut local, mut out) = (Tally::default(), Local::new(0), Vec::new());
    for policy in policies() {
        let (tables, programs) = (tables(0, policy), InKernel::new(policy));
        for _ in 0..frames() / 3 {
            let frame = frame(&mut dice, OURS, THEIRS);
            let carried = programmed(&programs.port, &frame, &mut out).is_some();
            assert_eq!(carried, !port_leaves(&frame), "whether it is carried: {frame:02x?}");
            if !carried {
                tally.left += 1;
                continue;
            }
            let mut data = [&[0xa5; ROOM][..], &frame].concat();
            worked(&tables, Ingress::Port(PORT), &mut data, &mut local)
                .unwrap_or_else(|reason| panic!("the worker drops {frame:02x?}: {reason:?}"));
            without_ident(&mut out);
            without_ident(&mut data);
            tally.compare(&frame, &out, &data);
        }
    }
    tally.check(frames());
}

#[test]
#[ignore = "needs root"]
fn both_engines_take_the_same_frames_out_of_a_tunnels_packets() {
    let mut dice = Dice::new(0x22);
    let (mut tally, mut local, mut out) = (Tally::default(), Local::new(0), Vec::new());
    for policy in policies() {
        let computed = Policy { udp_checksum: UdpChecksum::Computed, ..policy };
        let (peer, summing_peer) = (tables(1, policy), tables(1, computed));
        let (tables, programs) = (tables(0, policy), InKernel::new(policy));
        let mut sent = 0;
        while sent < frames() / 3 {
            let frame = frame(&mut dice, THEIRS, OURS);
            let mut packet = [&[0xa5; ROOM][..], &frame].concat();
            let peer = if dice.one_in(16) { &summing_peer } else { &peer };
            if worked(peer, Ingress::Port(PORT), &mut packet, &mut local).is_err() {
                continue;
            }
            disturb(&mut dice, &mut packet);
            sent += 1;
            let mut data = packet.clone();
            let judged = worked(&tables, Ingress::Underlay, &mut data, &mut local);
            match (programmed(&programs.underlay, &packet, &mut out), judged) {
                (Some(()), Ok(())) => tally.compare(&packet, &out, &data),
                (Some(()), Err(reason)) => panic!("only the program takes {packet:02x?}: {reason:?}"),
                (None, Ok(())) => {
                    assert!(underlay_leaves(&packet), "only the worker takes {packet:02x?}");
                    tally.left += 1;
                }
                (None, Err(_)) => tally.left += 1,
            }
        }
    }
    tally.check(frames());
}
