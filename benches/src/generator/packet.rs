//! Frames from a packet socket: skbs, as programs in a container make them.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, sendmmsg, socket,
};
use vxdp_ebpf::bench::{FIRST_SOURCE_PORT, SEQUENCE_OFFSET};
use vxdp_lab::Place;

use super::{Generator, Pace, Sent, pace};
use crate::frame::destination;

/// Frames for one system call: NAPI's budget.
const BATCH: usize = 64;

/// Sends from an `AF_PACKET` socket with `sendmmsg`.
pub(super) struct Packet {
    socket: OwnedFd,
    device: LinkAddr,
    frames: Vec<Vec<u8>>,
    flow_mask: u64,
    destinations: u32,
    number: u64,
}

impl Packet {
    /// Opens `device`.
    pub(super) fn open(
        place: &Place,
        device: &str,
        frame: &[u8],
        [flows, destinations]: [u32; 2],
    ) -> Result<Self> {
        place.enter(|| {
            // Protocol 0: it only sends.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            // A device's own link-layer address is an address one may send to: it holds the index.
            let device = getifaddrs()?
                .filter(|entry| entry.interface_name == device)
                .find_map(|entry| entry.address?.as_link_addr().copied())
                .context("no such device")?;
            let frames = vec![frame.to_owned(); BATCH];
            Ok(Self { socket, device, frames, flow_mask: u64::from(flows - 1), destinations, number: 0 })
        })
    }

    /// Sends up to a batch; the number that the device took.
    fn batch(&mut self, frames: usize) -> Result<usize> {
        for (number, frame) in (self.number..).zip(&mut self.frames[..frames]) {
            let port = FIRST_SOURCE_PORT + (number & self.flow_mask) as u16;
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            if self.destinations > 1 {
                frame[..6].copy_from_slice(&destination(number as u32 & (self.destinations - 1)));
            }
            // In host order, low word first, as the generator program writes it.
            frame[SEQUENCE_OFFSET..SEQUENCE_OFFSET + 8].copy_from_slice(&number.to_ne_bytes());
        }
        let slices = self.frames[..frames].iter().map(|frame| [IoSlice::new(frame)]).collect::<Vec<_>>();
        let addresses = vec![Some(self.device); frames];
        let mut headers = MultiHeaders::preallocate(frames, None);
        loop {
            let sent =
                sendmmsg(self.socket.as_raw_fd(), &mut headers, &slices, &addresses, [], MsgFlags::empty());
            match sent {
                Ok(sent) => return Ok(sent.count()),
                // The queue of the device is full, or the socket's memory is in flight.
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
                Err(error) => return Err(error).context("while sending frames"),
            }
        }
    }
}

impl Generator for Packet {
    fn run(&mut self, pace: Pace, duration: Duration) -> Result<Sent> {
        pace::run(pace, duration, |frames| {
            let mut left = frames as usize;
            while left > 0 {
                let sent = self.batch(left.min(BATCH))?;
                self.number += sent as u64;
                left -= sent;
            }
            Ok(frames.into())
        })
    }
}
