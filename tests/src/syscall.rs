//! The one system call of the lab for which there is no safe wrapper.
#![allow(unsafe_code, reason = "nix has no packet socket options beyond the ring's")]

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{self, c_int};

/// A yes-or-no option of a packet socket (`packet(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum PacketOption {
    /// Say of each received frame what stands beside its bytes, such as a VLAN tag.
    AuxData = libc::PACKET_AUXDATA,
    /// Expect a `virtio_net_hdr` before each frame that is sent.
    VnetHeader = libc::PACKET_VNET_HDR,
}

/// Switches `option` of the packet socket `socket` on.
pub(crate) fn switch_on(socket: &OwnedFd, option: PacketOption) -> Result<(), Errno> {
    let on: c_int = 1;
    // SAFETY: the descriptor is open, and the kernel reads one `int`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option as c_int,
            (&raw const on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}
