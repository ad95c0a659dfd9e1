//! Sending frames as they are, from an `AF_PACKET` socket.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::place::Place;

/// Longest wait for room in the device's queue.
const STALLED: Duration = Duration::from_secs(5);

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
        loop {
            match sendto(self.socket.as_raw_fd(), frame, &self.device, MsgFlags::empty()) {
                // The device's queue is full for the moment.
                Err(Errno::ENOBUFS | Errno::EINTR) => std::thread::yield_now(),
                sent => return sent.map(drop).context("while sending a frame"),
            }
        }
    }
}
