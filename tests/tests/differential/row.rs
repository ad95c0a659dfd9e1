//! One row of a table: what is sent, what comes of it, and which way it takes in xdp mode.

use vxdp_dataplane::DropReason;
use vxdp_ebpf::Verdict;
use vxdp_lab::{Family, Offload};

use crate::outer::Outer;

/// A frame as it is handed to a packet socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) bytes: Vec<u8>,
    pub(crate) offload: Offload,
}

impl From<Vec<u8>> for Sent {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::None }
    }
}

/// Which way each frame of a row takes in xdp mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Userspace carries it.
    Fast,
    /// The XDP program leaves it to the kernel, for this reason.
    Kernel(Verdict),
    /// Userspace gets it and drops it.
    Dropped(DropReason),
}

/// The frames that the container gets for a packet.
type Arrivals = Box<dyn Fn(&Outer) -> Vec<Vec<u8>>>;

/// A packet on the underlay, and what the container behind the VTEP gets.
pub(crate) struct Received {
    /// A sentence, with "is delivered" or "is dropped" understood from `arrives`.
    pub(crate) name: String,
    pub(crate) families: &'static [Family],
    pub(crate) way: Way,
    /// Makes the row's packet of a valid one.
    pub(crate) make: Box<dyn Fn(&mut Outer)>,
    /// The frames on the wire.
    pub(crate) wire: fn(&Outer) -> Vec<Sent>,
    /// What the container gets.
    pub(crate) arrives: Arrivals,
}

const BOTH: &[Family] = &[Family::V4, Family::V6];

/// The inner frame arrives, carried by userspace.
pub(crate) fn fast(name: impl Into<String>, make: impl Fn(&mut Outer) + 'static) -> Received {
    Received {
        name: name.into(),
        families: BOTH,
        way: Way::Fast,
        make: Box::new(make),
        wire: |outer| vec![outer.bytes().into()],
        arrives: Box::new(|outer| vec![outer.inner.clone()]),
    }
}

/// The inner frame arrives, carried by the kernel.
pub(crate) fn kernel(
    name: impl Into<String>,
    verdict: Verdict,
    make: impl Fn(&mut Outer) + 'static,
) -> Received {
    Received { way: Way::Kernel(verdict), ..fast(name, make) }
}

/// Nothing arrives: the kernel drops it.
pub(crate) fn refused(
    name: impl Into<String>,
    verdict: Verdict,
    make: impl Fn(&mut Outer) + 'static,
) -> Received {
    kernel(name, verdict, make).arrives_not()
}

/// Nothing arrives: userspace drops it.
pub(crate) fn dropped(
    name: impl Into<String>,
    reason: DropReason,
    make: impl Fn(&mut Outer) + 'static,
) -> Received {
    Received { way: Way::Dropped(reason), ..fast(name, make) }.arrives_not()
}

impl Received {
    /// Only over this family.
    pub(crate) fn over(mut self, family: Family) -> Self {
        self.families = match family {
            Family::V4 => &[Family::V4],
            Family::V6 => &[Family::V6],
        };
        self
    }

    /// Other frames on the wire than the packet alone.
    pub(crate) fn sent_as(mut self, wire: fn(&Outer) -> Vec<Sent>) -> Self {
        self.wire = wire;
        self
    }

    /// The container gets something else than the inner frame.
    pub(crate) fn arrives_as(mut self, arrives: impl Fn(&Outer) -> Vec<u8> + 'static) -> Self {
        self.arrives = Box::new(move |outer| vec![arrives(outer)]);
        self
    }

    /// The container gets nothing.
    pub(crate) fn arrives_not(mut self) -> Self {
        self.arrives = Box::new(|_| Vec::new());
        self
    }
}

/// Who sends a container's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The container.
    Container,
    /// A station behind a bridge in the container. On its way in the bridge's port takes the tag off the bytes
    /// and keeps it beside them, and so it leaves through the container's veth as if by a VLAN device.
    Nested,
}

/// Frames from a container, and how many packets leave the host for them.
pub(crate) struct Emitted {
    /// What the frames are.
    pub(crate) name: String,
    pub(crate) way: Way,
    pub(crate) origin: Origin,
    pub(crate) sent: Vec<Sent>,
    /// Frames that the host's end of the veth sees: more than were sent, where they are cut on the way.
    pub(crate) seen: u64,
    /// Outer packets on the wire; `None` where that is the overlay's policy.
    pub(crate) leaves: Option<usize>,
}

/// A frame that userspace carries.
pub(crate) fn carried(name: impl Into<String>, frame: impl Into<Sent>) -> Emitted {
    Emitted {
        name: name.into(),
        way: Way::Fast,
        origin: Origin::Container,
        sent: vec![frame.into()],
        seen: 1,
        leaves: Some(1),
    }
}

/// A frame that is left to the kernel, and leaves the host.
pub(crate) fn left(name: impl Into<String>, verdict: Verdict, frame: impl Into<Sent>) -> Emitted {
    Emitted { way: Way::Kernel(verdict), ..carried(name, frame) }
}

/// A frame that is left to the kernel, and stays there.
pub(crate) fn kept(name: impl Into<String>, verdict: Verdict, frame: impl Into<Sent>) -> Emitted {
    Emitted { leaves: Some(0), ..left(name, verdict, frame) }
}
