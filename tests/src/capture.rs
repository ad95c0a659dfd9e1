//! Frames seen on one device of a place, from an `AF_PACKET` socket.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, UnknownCmsg,
    recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::place::Place;
use crate::syscall::{self, PacketOption};
use crate::wait::wait_until;

/// `PACKET_OUTGOING` of `linux/if_packet.h`.
const PACKET_OUTGOING: u8 = 4;

/// `PACKET_AUXDATA` as the type of a control message, and the two flags of `tp_status` that matter here.
const PACKET_AUXDATA: i32 = 8;
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;

/// How long the reading thread sleeps at most before it looks whether it shall end.
const TICK_MICROSECONDS: i64 = 20_000;

/// One frame as the socket saw it. Offloads have not happened yet: frames may be larger than the MTU, and
/// checksums unfinished.
#[derive(Debug, Clone)]
pub struct Frame {
    /// From the destination MAC to the end. A VLAN tag that the kernel keeps beside the frame has been put
    /// back into its place.
    pub bytes: Vec<u8>,
    /// Whether a checksum in it was left to a device (`CHECKSUM_PARTIAL`).
    pub unfinished: bool,
    /// Whether the device sent it, rather than received it.
    pub outgoing: bool,
}

/// Records the frames of a device until it is dropped.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    end: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts recording what `device` of `place` sends and receives.
    pub fn start(place: &Place, device: &str) -> Result<Self> {
        let (socket, index) = place
            .enter(|| Ok((open()?, nix::net::if_::if_nametoindex(device)?)))
            .with_context(|| format!("while capturing on {device} in {}", place.label()))?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let end = Arc::new(AtomicBool::new(false));
        let (sink, stop) = (frames.clone(), end.clone());
        let reader = std::thread::spawn(move || read(&socket, index as usize, &sink, &stop));
        Ok(Self { frames, end, reader: Some(reader) })
    }

    /// The frames so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a frame that `wanted` turns into something.
    pub fn wait_for<T>(&self, what: &str, wanted: impl Fn(&Frame) -> Option<T>) -> Result<T> {
        let mut found = None;
        wait_until(&format!("{what} is captured"), Duration::from_secs(5), || {
            found = self.frames().iter().find_map(&wanted);
            Ok(found.is_some())
        })?;
        found.context("found and lost")
    }

    /// Ends the recording and gives all frames, those included that were still on their way to us.
    pub fn stop(mut self) -> Result<Vec<Frame>> {
        self.finish();
        let frames = self.frames();
        ensure!(self.reader.is_none(), "the capture did not end");
        Ok(frames)
    }

    fn finish(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // It cannot panic; if it did, the frames so far are still there.
            let _ = reader.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A socket that sees every frame of every device of the namespace. It is not bound to the device, as that
/// would need an address that only unsafe code can make; other devices are sorted out while reading.
fn open() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    syscall::switch_on(&socket, PacketOption::AuxData)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, TICK_MICROSECONDS))?;
    // Bursts of a bulk transfer; root may exceed rmem_max.
    setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20))?;
    Ok(socket)
}

fn read(socket: &OwnedFd, index: usize, sink: &Mutex<Vec<Frame>>, end: &AtomicBool) {
    let mut buffer = vec![0; 1 << 17];
    let mut control = nix::cmsg_space!([u8; AuxData::SIZE]);
    loop {
        match receive(socket, &mut buffer, &mut control) {
            Ok((frame, from)) if from == Some(index) => {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
            }
            // Another device; the socket also reports here that a device went down (ENETDOWN).
            Ok(_) | Err(Errno::EINTR | Errno::ENETDOWN) => {}
            // Only when nothing is left to read, so that frames sent before the end are seen.
            Err(_) if end.load(Ordering::Relaxed) => return,
            Err(Errno::EAGAIN) => {}
            Err(_) => return,
        }
    }
}

/// Receives one frame, and the index of the device it was on.
fn receive(socket: &OwnedFd, buffer: &mut [u8], control: &mut [u8]) -> Result<(Frame, Option<usize>), Errno> {
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(control), MsgFlags::empty())?;
    let aux = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Unknown(UnknownCmsg { cmsg_header, data_bytes })
            if cmsg_header.cmsg_type == PACKET_AUXDATA =>
        {
            AuxData::read(&data_bytes)
        }
        _ => None,
    });
    let (from, length) = (message.address, message.bytes);
    let aux = aux.unwrap_or_default();
    let mut bytes = buffer[..length].to_vec();
    if let Some(tag) = aux.tag.filter(|_| length >= 12) {
        bytes.splice(12..12, tag);
    }
    let outgoing = from.is_some_and(|from| from.pkttype() == PACKET_OUTGOING);
    Ok((Frame { bytes, unfinished: aux.unfinished, outgoing }, from.map(|from| from.ifindex())))
}

/// `struct tpacket_auxdata` of `linux/if_packet.h`: what the kernel keeps beside a frame's bytes.
#[derive(Debug, Clone, Copy, Default)]
struct AuxData {
    tag: Option<[u8; 4]>,
    unfinished: bool,
}

impl AuxData {
    /// Bytes of the kernel's structure.
    const SIZE: usize = 20;

    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let status = u32::from_ne_bytes(*bytes.first_chunk()?);
        let (control, protocol) = (word(16)?.to_be_bytes(), word(18)?.to_be_bytes());
        let tag = [protocol[0], protocol[1], control[0], control[1]];
        Some(Self {
            tag: (status & TP_STATUS_VLAN_VALID != 0).then_some(tag),
            unfinished: status & TP_STATUS_CSUMNOTREADY != 0,
        })
    }
}
