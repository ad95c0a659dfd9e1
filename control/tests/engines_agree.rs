//! Two engines, one result: random frames through the worker's `process` and through the programs of the
//! in-kernel engine at each hook.
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
use vxdp_control::netns::Netns;
use vxdp_control::xdp::{
    BpfFs, Capacity, Classifier, Device, Host, Instance, Outer, PortEntry, Programs, Tables as Maps,
};
use vxdp_dataplane::path::unfinished::{Checksum, finish};
use vxdp_dataplane::table::{
    Change as TableChange, Df, Overlay, Policy, Port, PortRange, Tos, Ttl, Underlay,
};
use vxdp_dataplane::wire::{Inner, MacAddr, Vni};
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

fn frames() -> usize {
    std::env::var("VXDP_FRAMES").map_or(30_000, |frames| frames.parse().expect("a number"))
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

/// Where the programs sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Tc,
    Xdp,
}

/// A program, loaded and not attached.
enum Program {
    Tc(Classifier),
    Xdp(Instance),
}

/// The programs of host 0 over maps of their own.
struct InKernel {
    port: Program,
    underlay: Program,
    directory: tempfile::TempDir,
}

impl InKernel {
    fn new(policy: Policy, hook: Hook) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let bpffs = BpfFs::open(&directory.path().join("bpf")).expect("root mounts");
        let capacity = Capacity { rows: 16, vteps: 16, ports: 16, overlays: 16 };
        let programs = Programs::new(bpffs, capacity).expect("loading");
        let mut maps = programs.tables().expect("the maps");
        fill(&mut maps, policy).expect("room in the maps");
        // Fresh for longer than any test runs.
        programs.heartbeats().expect("a map").beat(0, u64::MAX).expect("written");
        let (port, underlay) = match hook {
            Hook::Tc => (programs.tc_port(PORT).map(Program::Tc), programs.tc_underlay().map(Program::Tc)),
            Hook::Xdp => {
                (programs.xdp_port(PORT).map(Program::Xdp), programs.xdp_underlay().map(Program::Xdp))
            }
        };
        // Nothing is sent there: the kernel answers where it would be.
        let netns = Netns::current().expect("a namespace");
        let loopback = Device { netns, index: 1, name: "lo".to_owned() };
        let mut devices = programs.devices().expect("the maps");
        devices
            .set_underlay(&loopback)
            .and_then(|()| devices.set_port(PORT, &loopback))
            .expect("there is lo");
        Self { port: port.expect("the verifier"), underlay: underlay.expect("the verifier"), directory }
    }
}

impl Program {
    /// How many bytes of `out` it makes of the frame, and whether it redirects them; nothing where the kernel does
    /// not run it.
    fn run(&self, frame: &[u8], out: &mut [u8]) -> Option<(bool, usize)> {
        // The actions for a frame that passes and for one that is redirected (include/uapi/linux/{bpf,pkt_cls}.h).
        let (ran, [passed, redirected]) = match self {
            Self::Tc(program) => (program.run(frame, out), [u32::MAX, 7]),
            Self::Xdp(program) => (program.run(frame, out), [2, 4]),
        };
        let (action, length) = ran.ok()?;
        assert!(action == passed || action == redirected, "action {action}");
        Some((action == redirected, length))
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
/// kernel itself refuses to run a program at tc on an IP header that is cut short.
fn programmed(program: &Program, frame: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.clear();
    out.resize(frame.len() + ROOM, 0);
    let Some((redirected, length)) = program.run(frame, out) else {
        let cut = match frame[12..14] {
            [0x08, 0x00] => frame.len() < 14 + 20,
            [0x86, 0xdd] => frame.len() < 14 + 40,
            _ => false,
        };
        assert!(cut, "the kernel does not run the program on {frame:02x?}");
        return None;
    };
    out.truncate(length);
    assert!(redirected || out == frame, "a frame for the kernel was changed: {frame:02x?}");
    redirected.then_some(())
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

/// Whether the checksum of an inner frame looks as if its sender had left it to the device.
fn unfinished(frame: &[u8]) -> bool {
    let inner = Inner::parse(frame);
    finish(&mut frame.to_vec(), &inner) == Checksum::Finished
}

/// Whether two frames are equal but for two bytes in a row.
fn nearly_equal(program: &[u8], worker: &[u8]) -> bool {
    let differs = |(a, b): (&u8, &u8)| a != b;
    let first = program.iter().zip(worker).position(differs).unwrap_or(0);
    let last = program.iter().zip(worker).rposition(differs).unwrap_or(0);
    program.len() == worker.len() && last <= first + 1
}

/// How often what happened, so that a test that tests nothing fails.
#[derive(Debug, Default)]
struct Tally {
    carried: usize,
    left: usize,
    unfinished: usize,
}

impl Tally {
    /// The worker finishes what looks unfinished. For tc it is a mark beside the bytes that says so, which the program
    /// leaves alone.
    fn compare(&mut self, frame: &[u8], program: &[u8], worker: &[u8]) {
        let same = program == worker || unfinished(frame) && nearly_equal(program, worker);
        assert!(same, "of {frame:02x?}\nprogram {program:02x?}\nworker  {worker:02x?}");
        self.unfinished += usize::from(program != worker);
        self.carried += 1;
    }

    fn check(&self, frames: usize, hook: Hook) {
        assert!(self.carried > frames / 3 && self.left > frames / 20, "too much of one kind: {self:?}");
        assert_eq!(self.unfinished > frames / 100, hook == Hook::Tc, "unfinished frames: {self:?}");
    }
}

/// Whether the rules leave a container's frame to the kernel.
fn port_leaves(frame: &[u8], hook: Hook) -> bool {
    let packet = &frame[14..];
    hook == Hook::Xdp && unfinished(frame)
        || frame[..6] != THEIRS
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
fn underlay_leaves(packet: &[u8], hook: Hook) -> bool {
    let word = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    let (total, udp_length, udp_checksum) = (word(16), word(38), word(40));
    let plain = matches!(word(ROOM + 12), 0x0800 | 0x86dd);
    !plain
        || udp_checksum != 0
        || 14 + total != packet.len()
        || 20 + udp_length != total
        || packet.len() - ROOM > LONGEST
        || hook == Hook::Xdp && unfinished(&packet[ROOM..])
        // A checksum behind extension headers.
        || hook == Hook::Xdp && word(ROOM + 12) == 0x86dd && matches!(packet[ROOM + 20], 0 | 43 | 44 | 60)
}

/// The fields that a sender chooses by itself: the identification must not be compared, the checksum over it is
/// right or not.
fn without_ident(outer: &mut [u8]) {
    let sum: u32 = outer[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the outer header's checksum: {outer:02x?}");
    outer[18..20].fill(0);
    outer[24..26].fill(0);
}

fn same_outer_packets(hook: Hook) {
    let mut dice = Dice::new(0x11);
    let (mut tally, mut local, mut out) = (Tally::default(), Local::new(0), Vec::new());
    for policy in policies() {
        let (tables, programs) = (tables(0, policy), InKernel::new(policy, hook));
        for _ in 0..frames() / 3 {
            let frame = frame(&mut dice, OURS, THEIRS);
            let carried = programmed(&programs.port, &frame, &mut out).is_some();
            assert_eq!(carried, !port_leaves(&frame, hook), "whether it is carried: {frame:02x?}");
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
    tally.check(frames(), hook);
}

fn same_inner_frames(hook: Hook) {
    let mut dice = Dice::new(0x22);
    let (mut tally, mut local, mut out) = (Tally::default(), Local::new(0), Vec::new());
    for policy in policies() {
        // Sent as the frame was: the worker of a peer would finish it.
        let mut sent = 0;
        let (peer, tables, programs) = (tables(1, policy), tables(0, policy), InKernel::new(policy, hook));
        while sent < frames() / 3 {
            let frame = frame(&mut dice, THEIRS, OURS);
            let mut packet = [&[0xa5; ROOM][..], &frame].concat();
            if worked(&peer, Ingress::Port(PORT), &mut packet, &mut local).is_err() {
                continue;
            }
            packet[ROOM..].copy_from_slice(&frame);
            disturb(&mut dice, &mut packet);
            sent += 1;
            let mut data = packet.clone();
            let judged = worked(&tables, Ingress::Underlay, &mut data, &mut local);
            match (programmed(&programs.underlay, &packet, &mut out), judged) {
                (Some(()), Ok(())) => tally.compare(&packet[ROOM..], &out, &data),
                (Some(()), Err(reason)) => panic!("only the program takes {packet:02x?}: {reason:?}"),
                (None, Ok(())) => {
                    assert!(underlay_leaves(&packet, hook), "only the worker takes {packet:02x?}");
                    tally.left += 1;
                }
                (None, Err(_)) => tally.left += 1,
            }
        }
    }
    tally.check(frames(), hook);
}

#[test]
#[ignore = "needs root"]
fn both_engines_make_the_same_outer_packets_of_a_containers_frames() {
    same_outer_packets(Hook::Tc);
}

#[test]
#[ignore = "needs root"]
fn both_engines_make_the_same_outer_packets_of_a_containers_frames_at_xdp() {
    same_outer_packets(Hook::Xdp);
}

#[test]
#[ignore = "needs root"]
fn both_engines_take_the_same_frames_out_of_a_tunnels_packets() {
    same_inner_frames(Hook::Tc);
}

#[test]
#[ignore = "needs root"]
fn both_engines_take_the_same_frames_out_of_a_tunnels_packets_at_xdp() {
    same_inner_frames(Hook::Xdp);
}
