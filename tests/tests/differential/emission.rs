//! Sends the rows of `sent` from a container of a lab, one after the other, and notes what leaves the host and
//! what comes back into the container.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use vxdp_lab::{
    Capture, Daemon, Family, Host, Injector, Lab, Mode, Segment, VXLAN_PORT, config_of, underlay_address,
    wait_until,
};

use crate::Subject;
use crate::counters::{Counters, ENCAP, engine, of_device};
use crate::fence::Fence;
use crate::inner;
use crate::policy::{POLICIES, Policy};
use crate::row::{Emitted, Origin, Sent};
use crate::wire::Packet;

/// Local rows that have not changed for so long stay as they are.
const SETTLED: Duration = Duration::from_millis(300);

/// What came of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The row's name and the overlay's settings.
    pub(crate) name: String,
    /// The outer packets, without what may differ.
    pub(crate) left: Vec<Vec<u8>>,
    /// What came back.
    pub(crate) returned: Vec<Vec<u8>>,
    /// What is wrong with it, whatever the other mode does.
    pub(crate) faults: Vec<String>,
}

/// A host with one overlay for each policy, and an empty one behind the wire.
struct Stage {
    lab: Lab,
    subject: Subject,
    family: Family,
    wire: Capture,
    fence: Fence,
    // Keeps the other host from answering that nobody listens.
    _silence: UdpSocket,
    // Killed before the lab goes.
    _daemon: Daemon,
}

/// One overlay of the stage.
struct Overlay {
    policy: &'static Policy,
    injector: Injector,
    nested: Injector,
    returns: Capture,
}

/// Runs the rows over `family`, in an overlay of each policy.
pub(crate) fn run(family: Family, subject: Subject, rows: &[Emitted]) -> Result<Vec<Outcome>> {
    let mut stage = Stage::build(family, subject)?;
    stay_here()?;
    let mut outcomes = Vec::new();
    for policy in POLICIES {
        let overlay = stage.enter(policy)?;
        for row in rows {
            let name = format!("{} ({})", row.name, policy.name);
            let outcome = stage.play(&overlay, row, name.clone());
            outcomes.push(outcome.with_context(|| format!("{}: {name}", subject.name))?);
        }
    }
    ensure!(
        !subject.mode.is_fast() || engine(stage.host())?.encap.frames > 100,
        "{} carried hardly a frame",
        subject.name
    );
    Ok(outcomes)
}

impl Stage {
    fn build(family: Family, subject: Subject) -> Result<Self> {
        let lab = Lab::builder("diff-tx").switched().dataplane(subject.dataplane).build()?;
        lab.take_xdp_frames()?;
        let (h1, peer) = (lab.h1(), underlay_address(lab.h2(), family));
        let segments = POLICIES.iter().map(|policy| policy.segment(peer)).collect::<Vec<Segment>>();
        for policy in POLICIES {
            // Nothing but our frames shall come out of the container.
            h1.container(policy.container)?.script(
                "for device in all default; do echo 1 > /proc/sys/net/ipv6/conf/$device/disable_ipv6; done",
            )?;
        }
        let daemon =
            h1.start_vxdp(&h1.write_config(&config_of(&lab, family, &segments, 1))?, subject.mode)?;
        for policy in POLICIES {
            crate::switch_bridge_netfilter_off(&h1.netns(policy.netns))?;
        }
        // A veth is no wire: it would let the kernel's checksums through unfinished.
        h1.exec(["ethtool", "-K", "eth0", "tx", "off"])?;
        let silence = lab.h2().enter(|| Ok(UdpSocket::bind(("::", VXLAN_PORT))?))?;
        let (place, device) = lab.wire();
        let wire = Capture::start(place, device)?;
        Ok(Self { lab, subject, family, wire, fence: Fence::default(), _silence: silence, _daemon: daemon })
    }

    fn host(&self) -> &Host {
        self.lab.h1()
    }

    /// Opens the container of a policy's overlay, and waits until it takes part.
    fn enter(&mut self, policy: &'static Policy) -> Result<Overlay> {
        let place = self.host().netns(policy.container);
        place.script(
            "ip link add outside type veth peer name inside
             ip link add nested type bridge mcast_snooping 0
             for device in inside eth1; do ip link set $device master nested; done
             for device in outside inside nested; do ip link set $device up; done",
        )?;
        // The kernel looks at carriers once a second at most, and a port without one drops frames.
        wait_until("the station's bridge forwards", Duration::from_secs(10), || {
            Ok(place.exec(["bridge", "link", "show"])?.matches("state forwarding").count() == 2)
        })?;
        let overlay = Overlay {
            policy,
            injector: Injector::open(&place, "eth1")?,
            nested: Injector::open(&place, "outside")?,
            returns: Capture::start(&place, "eth1")?,
        };
        let known = || -> Result<usize> { Ok(engine(self.host())?.locals) };
        let mut before = 0;
        if self.subject.mode.is_fast() {
            // Rows that were played have taught the bridge MACs, and the daemon takes away what it must not learn.
            let mut since = Instant::now();
            wait_until("the local rows have settled", Duration::from_secs(10), || {
                let last = std::mem::replace(&mut before, known()?);
                since = if last == before { since } else { Instant::now() };
                Ok(since.elapsed() > SETTLED)
            })?;
        }
        // The bridge learns where the container and the station are from their first frames.
        let hello = |mac| inner::between(mac, [0xff; 6], inner::frame(inner::EXPERIMENT, &[]));
        let introduce = || -> Result<()> {
            overlay.injector.send(&hello(inner::C1))?;
            overlay.nested.send(&hello(inner::NESTED))
        };
        introduce()?;
        if self.subject.mode.is_fast() {
            self.host().wait_for_fast_path()?;
            wait_until("userspace knows both", Duration::from_secs(10), || {
                // Again, because the overlay's port may have been made a moment ago.
                introduce()?;
                Ok(known()? == before + 2)
            })?;
        }
        self.fence(&overlay)?;
        Ok(overlay)
    }

    fn play(&mut self, overlay: &Overlay, row: &Emitted, name: String) -> Result<Outcome> {
        let before = self.counters(overlay)?;
        let (on_wire, returned) = (self.wire.frames().len(), overlay.returns.frames().len());
        for Sent { bytes, offload } in &row.sent {
            match row.origin {
                Origin::Container => overlay.injector.send_unfinished(bytes, *offload)?,
                Origin::Nested => overlay.nested.send_unfinished(bytes, *offload)?,
            }
        }
        self.fence(overlay)?;
        let mut faults = Vec::new();
        if let (Some(before), Some(after)) = (before, self.counters(overlay)?) {
            faults.extend(after.since(&before).stray(row.way, row.seen, ENCAP));
        }
        let mut left = Vec::new();
        let packets = self.wire.frames().split_off(on_wire).into_iter();
        for packet in packets.filter_map(|frame| Packet::read(frame, self.family)) {
            faults.extend(packet.faults(overlay.policy));
            left.push(packet.without_what_may_differ());
        }
        if let Some(wanted) = row.leaves.filter(|wanted| *wanted != left.len()) {
            faults.push(format!("{} packets left, and not {wanted}", left.len()));
        }
        let returned = overlay.returns.frames().split_off(returned);
        let returned = returned.into_iter().filter(crate::is_arrival).map(inner::finished).collect();
        Ok(Outcome { name, left, returned, faults })
    }

    /// Counters of the fast path, where there is one.
    fn counters(&self, overlay: &Overlay) -> Result<Option<Counters>> {
        match self.subject.mode {
            // Rows name the ways of the userspace engine; which ones the programs leave to the kernel is
            // `control/tests/engines_agree.rs`'s to know.
            Mode::Kernel | Mode::InKernel => Ok(None),
            Mode::Xdp => of_device(self.host(), "veth2", Some(overlay.policy.vni)).map(Some),
        }
    }

    /// Waits until a frame on either path, sent now, is on the wire, and the kernel's answer to a question is back:
    /// then all that were sent before are, too.
    fn fence(&mut self, overlay: &Overlay) -> Result<()> {
        let frames = self.fence.next();
        let (question, is_answer) = self.fence.question();
        for frame in frames.iter().chain([&question]) {
            overlay.injector.send(frame)?;
        }
        wait_until("the fence frames are on the wire", Duration::from_secs(5), || {
            let ends =
                |wanted: &Vec<u8>| self.wire.frames().iter().rev().any(|frame| frame.bytes.ends_with(wanted));
            let answered = || overlay.returns.frames().iter().rev().any(|frame| is_answer(&frame.bytes));
            Ok(frames.iter().all(ends) && answered())
        })
    }
}

/// Keeps this thread on the processor where it is: the kernel's own answers go through the backlog of the processor
/// that sent the question, and only there they keep their order.
fn stay_here() -> Result<()> {
    let mut here = CpuSet::new();
    here.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &here)?)
}
