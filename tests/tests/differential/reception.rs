//! Puts the rows of `received` onto the wire of a lab, one after the other, and notes what the container gets.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vxdp_lab::{
    Capture, Daemon, Family, Injector, Lab, Mode, Segment, config_of, underlay_address, wait_until,
};

use crate::Subject;
use crate::counters::{Counters, DECAP, engine, of_device};
use crate::fence::Fence;
use crate::inner::{self, C2};
use crate::outer::{Ends, Outer};
use crate::received::senders::{C4, ELSEWHERE, VXLAN_DEVICE, martians};
use crate::row::{Received, Sent};

/// Wider than the overlay's 1450, so that inner frames too long for the overlay arrive in one piece.
const UNDERLAY_MTU: u32 = 1600;

/// What came of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The row's name.
    pub(crate) name: String,
    /// What the table says that the container gets.
    pub(crate) expected: Vec<Vec<u8>>,
    /// What it got.
    pub(crate) arrived: Vec<Vec<u8>>,
    /// How the frames did not take the way that the table names.
    pub(crate) strayed: Option<String>,
}

/// Two hosts: on h1 is nobody but us, on h2 runs the daemon.
struct Stage {
    lab: Lab,
    subject: Subject,
    ends: Ends,
    injector: Injector,
    arrivals: Capture,
    fence: Fence,
    // Killed before the lab goes.
    _daemon: Daemon,
}

/// Runs the rows for `family`.
pub(crate) fn run(family: Family, subject: Subject, rows: &[Received]) -> Result<Vec<Outcome>> {
    let mut stage = Stage::build(family, subject)?;
    let rows = rows.iter().filter(|row| row.families.contains(&family));
    let outcomes = rows
        .map(|row| stage.play(row).with_context(|| format!("{}: {}", subject.name, row.name)))
        .collect::<Result<_>>()?;
    ensure!(
        !subject.mode.is_fast() || engine(stage.lab.h2())?.decap.frames > 40,
        "{} carried hardly a frame",
        subject.name
    );
    Ok(outcomes)
}

impl Stage {
    fn build(family: Family, subject: Subject) -> Result<Self> {
        let lab = Lab::builder("diff-rx").mtu(UNDERLAY_MTU).dataplane(subject.dataplane).build()?;
        lab.take_xdp_frames()?;
        let segment =
            Segment::scenario().setting("mtu = 1450").member(2, "c4", "02:42:0a:00:00:04", "10.0.0.4/24");
        let h2 = lab.h2();
        for name in ["c2", "c4"] {
            // The frames are for an address that the container has not: it shall keep silent.
            h2.container(name)?.script("echo 0 > /proc/sys/net/ipv4/ip_forward")?;
        }
        let config = h2.write_config(&config_of(&lab, family, std::slice::from_ref(&segment), 2))?;
        let daemon = h2.start_vxdp(&config, subject.mode)?;
        let overlay = h2.netns("overlay");
        crate::switch_bridge_netfilter_off(&overlay)?;
        let mut rows = vec![(ELSEWHERE, elsewhere(family))];
        rows.extend(martians().into_iter().map(|(mac, address, ..)| (mac, address)));
        for (mac, address) in rows.into_iter().filter(|(_, at)| at.is_ipv4() == (family == Family::V4)) {
            let (mac, address) = (text(mac), address);
            // Userspace carries what both tables name.
            overlay.script(&format!(
                "bridge fdb add {mac} dev vxlan1 self dst {address}
                 bridge fdb add {mac} dev vxlan1 master static"
            ))?;
        }
        overlay.exec(["ip", "link", "set", "vxlan1", "address", &text(VXLAN_DEVICE)])?;
        let ends = Ends {
            macs: (mac_of(&lab.h1().underlay_mac())?, mac_of(&lab.h2().underlay_mac())?),
            addresses: (underlay_address(lab.h1(), family), underlay_address(lab.h2(), family)),
        };
        let injector = Injector::open(lab.h1(), "eth0")?;
        let c2 = h2.netns("c2");
        let arrivals = Capture::start(&c2, "eth1")?;
        for (name, mac) in [("c2", C2), ("c4", C4)] {
            // The bridge learns where a container is from its first frame.
            let hello = inner::between(mac, [0xff; 6], inner::frame(inner::EXPERIMENT, &[]));
            Injector::open(&h2.netns(name), "eth1")?.send(&hello)?;
        }
        let mut stage =
            Self { lab, subject, ends, injector, arrivals, fence: Fence::default(), _daemon: daemon };
        if subject.mode.is_fast() {
            stage.wait_for_fast_path()?;
        }
        stage.fence()?;
        Ok(stage)
    }

    /// Until userspace carries what the container gets, and knows the rows that were added.
    fn wait_for_fast_path(&self) -> Result<()> {
        let rows = 1 + martians()
            .iter()
            .filter(|(_, at, ..)| at.is_ipv4() == self.ends.addresses.0.is_ipv4())
            .count();
        wait_until("userspace knows every row", Duration::from_secs(10), || {
            let engine = engine(self.lab.h2())?;
            Ok(engine.locals == 2 && engine.remotes > rows)
        })
    }

    fn play(&mut self, row: &Received) -> Result<Outcome> {
        let mut outer = Outer::valid(&self.ends);
        (row.make)(&mut outer);
        let sent = (row.wire)(&outer);
        let before = self.counters()?;
        let first = self.arrivals.frames().len();
        for Sent { bytes, offload } in &sent {
            self.injector.send_unfinished(bytes, *offload)?;
        }
        self.fence()?;
        let arrived = self.arrivals.frames().split_off(first);
        let arrived = arrived.into_iter().filter(crate::is_arrival).map(inner::finished).collect();
        let strayed = match (before, self.counters()?) {
            (Some(before), Some(after)) => after.since(&before).stray(row.way, sent.len() as u64, DECAP),
            _ => None,
        };
        Ok(Outcome { name: row.name.clone(), expected: (row.arrives)(&outer), arrived, strayed })
    }

    /// Counters of the fast path, where there is one.
    fn counters(&self) -> Result<Option<Counters>> {
        match self.subject.mode {
            // As in `emission`.
            Mode::Kernel | Mode::InKernel => Ok(None),
            Mode::Xdp => of_device(self.lab.h2(), "eth0", None).map(Some),
        }
    }

    /// Waits until a frame on either path, sent now, has arrived: then all that were sent before have, too.
    fn fence(&mut self) -> Result<()> {
        let frames = self.fence.next();
        for frame in &frames {
            let mut outer = Outer::valid(&self.ends);
            outer.inner = frame.clone();
            self.injector.send(&outer.bytes())?;
        }
        wait_until("the fence frames arrive", Duration::from_secs(5), || {
            let arrived = self.arrivals.frames();
            Ok(frames.iter().all(|frame| arrived.iter().rev().any(|arrival| arrival.bytes == *frame)))
        })
    }
}

/// Where [`ELSEWHERE`] is.
fn elsewhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => [192, 168, 10, 29].into(),
        Family::V6 => [0xfd00, 0x10, 0, 0, 0, 0, 0, 0x29].into(),
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn mac_of(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    ensure!(bytes.len() == 6, "{text} is no MAC");
    Ok([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
}
