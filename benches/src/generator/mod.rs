//! Generators: they send measuring frames out of container 1's `eth1`.

mod live;
mod pace;
mod packet;
mod pktgen;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use vxdp_lab::Place;

use live::Live;
use packet::Packet;
use pktgen::Pktgen;

use crate::rig::Traffic;

/// How frames are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// skbs of a packet socket, as any program in a container makes them; sleeps between bursts.
    Packet,
    /// XDP frames that a program redirects out of the device (`BPF_F_TEST_XDP_LIVE_FRAMES`): cheap for the
    /// machine, but no container's frames enter the host's veth like that, without an skb; and it spins.
    Live,
    /// skbs of the kernel's own packet generator, which needs its module; no less dear for the machine than a
    /// packet socket's, but without system calls, and it spins.
    Pktgen,
}

/// What the generators of a run need for its time.
#[derive(Debug)]
pub struct Needed {
    _pktgen: Option<pktgen::Module>,
}

impl Needed {
    /// Makes sure that all of `kinds` can be used.
    pub fn by(kinds: &[Kind]) -> Result<Self> {
        let pktgen = kinds.contains(&Kind::Pktgen).then(pktgen::Module::need).transpose()?;
        Ok(Self { _pktgen: pktgen })
    }
}

impl Kind {
    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Live => "live",
            Self::Pktgen => "pktgen",
        }
    }

    /// Whether it leaves its processor to others while no frame is due, so that processor time can be told
    /// apart from its own.
    pub fn sleeps(self) -> bool {
        self == Self::Packet
    }

    /// A generator of `frame` with the flows and destinations of `traffic`, out of `device` of `place`.
    pub fn open(
        self,
        place: &Place,
        device: &str,
        frame: &[u8],
        traffic: Traffic,
    ) -> Result<Box<dyn Generator>> {
        let Traffic { flows, destinations, .. } = traffic;
        ensure!(flows.is_power_of_two(), "{flows} flows: the number has to be a power of two");
        ensure!(
            destinations.is_power_of_two() && destinations <= 1 << 24,
            "{destinations} rows: the number has to be a power of two, 2^24 at most"
        );
        Ok(match self {
            Self::Packet => Box::new(Packet::open(place, device, frame, [flows, destinations])?),
            Self::Pktgen => Box::new(Pktgen::open(place, device, frame, [flows, destinations])?),
            Self::Live if destinations > 1 => bail!("the generator `live` has one destination only"),
            Self::Live => Box::new(Live::open(place, device, frame, flows)?),
        })
    }
}

/// Something that sends frames.
pub trait Generator: Send {
    /// Sends for `duration`.
    fn run(&mut self, pace: Pace, duration: Duration) -> Result<Sent>;
}

/// How fast to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as the generator can.
    Flat,
    /// Frames per second.
    Rate(f64),
}

/// What was sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// From the first to the end of the last one.
    pub elapsed: Duration,
}
