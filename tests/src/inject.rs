//! Sending frames as they are, from an `AF_PACKET` socket.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::place::Place;
use crate::syscall::{self, PacketOption};

/// Longest wait for room in the device's queue.
const STALLED: Duration = Duration::from_secs(5);

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` of `linux/virtio_net.h`.
const NEEDS_CHECKSUM: u8 = 1;

/// What the sender of a frame leaves to the device, as a container's kernel does (`struct virtio_net_hdr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offload {
    /// Nothing: the frame is finished.
    #[default]
    None,
    /// A checksum (`CHECKSUM_PARTIAL`), and perhaps the cutting into segments.
    Checksum {
        /// Where the checksummed bytes start.
        start: u16,
        /// Where the checksum stands, counted from there.
        field: u16,
        /// The segments to be cut (`skb_shared_info`).
        segments: Option<Segments>,
    },
}

/// How a frame larger than any packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// `VIRTIO_NET_HDR_GSO_…`.
    pub kind: u8,
    /// Length of all headers.
    pub headers: u16,
    /// Payload of each segment.
    pub size: u16,
}

impl Segments {
    /// TCP over IPv4.
    pub const TCP4: u8 = 1;
    /// TCP over IPv6.
    pub const TCP6: u8 = 4;
    /// UDP datagrams of equal size (`UDP_SEGMENT`).
    pub const UDP: u8 = 5;
}

impl Offload {
    /// `struct virtio_net_hdr`, in the machine's byte order, as packet sockets want it.
    fn header(self) -> [u8; 10] {
        let mut header = [0; 10];
        if let Self::Checksum { start, field, segments } = self {
            header[0] = NEEDS_CHECKSUM;
            if let Some(Segments { kind, headers, size }) = segments {
                header[1] = kind;
                header[2..4].copy_from_slice(&headers.to_ne_bytes());
                header[4..6].copy_from_slice(&size.to_ne_bytes());
            }
            header[6..8].copy_from_slice(&start.to_ne_bytes());
            header[8..10].copy_from_slice(&field.to_ne_bytes());
        }
        header
    }
}

/// Sends frames out of one device.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
    device: LinkAddr,
}

impl Injector {
    /// Opens `device` of `place`.
    pub fn open(place: &Place, device: &str) -> Result<Self> {
        let open = || {
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            syscall::switch_on(&socket, PacketOption::VnetHeader)?;
            setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(STALLED.as_secs().cast_signed(), 0))?;
            // A device's own link-layer address is an address one may send to: it holds the index.
            let address = getifaddrs()?
                .filter(|entry| entry.interface_name == device)
                .find_map(|entry| entry.address?.as_link_addr().copied())
                .context("no such device")?;
            Ok(Self { socket, device: address })
        };
        place.enter(open).with_context(|| format!("while opening {device} in {}", place.label()))
    }

    /// Sends one frame, from the destination MAC on.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.send_unfinished(frame, Offload::None)
    }

    /// Sends one frame and leaves `offload` to the device.
    pub fn send_unfinished(&self, frame: &[u8], offload: Offload) -> Result<()> {
        let header = offload.header();
        let parts = [IoSlice::new(&header), IoSlice::new(frame)];
        loop {
            match sendmsg(self.socket.as_raw_fd(), &parts, &[], MsgFlags::empty(), Some(&self.device)) {
                // The device's queue is full for the moment.
                Err(Errno::ENOBUFS | Errno::EINTR) => std::thread::yield_now(),
                sent => return sent.map(drop).context("while sending a frame"),
            }
        }
    }
}
