//! One frame on its way through a worker: where it came from, its bytes, and where it goes.

use std::fmt;
use std::net::IpAddr;

use crate::DropReason;

/// Frames handled in one turn of a worker.
///
/// The tables are looked up for a whole batch before any frame is written, so that the memory accesses of
/// independent lookups overlap. Too small wastes that overlap and pays the per-turn work more often; too large
/// spoils the first-level cache (64 header lines are 8 KiB) and delays the first frame of the batch.
pub const BATCH: usize = 64;

/// Index of a container port within the daemon, given by control.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u16);

impl PortId {
    /// The port with this index.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The index.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The index, for arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port{}", self.0)
    }
}

/// A moment of the monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds, read once per batch by the worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Nanos(pub u64);

/// Address family of the underlay: one per host, since there is one local VTEP address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// IPv4 underlay.
    V4,
    /// IPv6 underlay.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bytes of the outer headers: Ethernet 14, IPv4 20 or IPv6 40, UDP 8, VXLAN 8 (RFC 7348, section 5).
    ///
    /// The XDP program on a port moves the packet's start back by so many bytes before it redirects the frame,
    /// so that the headers are written in place.
    pub const fn encap_room(self) -> usize {
        match self {
            Self::V4 => 50,
            Self::V6 => 70,
        }
    }
}

/// Where a frame came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ingress {
    /// From the NIC: a whole outer frame.
    Underlay,
    /// From a container: [`Family::encap_room`] bytes of any content, then the inner frame.
    Port(PortId),
}

/// Where a frame goes. Its bytes start at `data[0]`, and `len <= data.len()`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// Out of the NIC.
    ToUnderlay {
        /// Bytes to send.
        len: usize,
    },
    /// Into a container.
    ToPort {
        /// Which one.
        port: PortId,
        /// Bytes to send.
        len: usize,
    },
    /// Nowhere; already counted under this reason.
    Drop(DropReason),
}

/// One frame on its way through a worker: a view of a UMEM frame that the worker owns.
#[derive(Debug)]
pub struct Slot<'a> {
    /// Where it came in.
    pub ingress: Ingress,
    /// Its bytes, as the socket's descriptor delimits them.
    pub data: &'a mut [u8],
    /// Where it goes; set when the batch is processed.
    pub verdict: Verdict,
}

impl<'a> Slot<'a> {
    /// A frame that has just come in.
    pub fn new(ingress: Ingress, data: &'a mut [u8]) -> Self {
        Self { ingress, data, verdict: Verdict::Drop(DropReason::NotSpecified) }
    }
}
