//! AF_XDP sockets over `xsk-rs`: the one file of this crate with unsafe code.
//!
//! # Safety boundary
//!
//! The UMEM is memory that the kernel writes to at its own time. What could go wrong, and what
//! prevents it:
//!
//! | hazard | prevented by |
//! |---|---|
//! | we touch a frame while the kernel has it | bytes are reachable only through `&mut Frame`; [`FillQueue::produce`] gets its frames from the free list, [`TxQueue::produce`] consumes their tokens |
//! | two slices over one frame | tokens are not `Clone`, and the [`FrameTable`] mints one only for a frame that the kernel had, whatever the rings say |
//! | a token or descriptor of another UMEM | tokens carry their UMEM's number, checked at each use; descriptors never leave [`XskUmem`]; a [`Port`] is built from the UMEM it is used with, checked in each call |
//! | a slice beyond the frame | address and length of each received descriptor are checked against the frame before its token leaves this file |
//! | a frame reused while a closed socket's device writes to it | `close` waits for the softirqs (`synchronize_net` in `xsk_unbind_dev`), so copy mode is safe at once; a zero-copy device gets its frames written off |
//! | memory unmapped under the kernel or under a slice | slices borrow the [`XskUmem`]; each socket holds the UMEM alive |
//! | one device and queue bound twice with a program loaded by libxdp | program loading is inhibited for every socket |
//!
//! `FrameDesc` cannot be made from an address: descriptors come from [`xsk_rs::Umem::new`] and from the
//! rings, and are kept per frame in [`XskUmem`], so that a transmitted frame starts where it arrived.
#![expect(unsafe_code, reason = "the safety boundary to the kernel's rings, see above")]

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::SndBufForce;
use nix::sys::socket::{MsgFlags, send, setsockopt};
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use crate::BATCH;

use super::open::{OpenError, RingSizes, UmemSpec, ZeroCopy};
use super::{Batch, Frame, FrameTable, KernelCounters, Kick, Port, SocketSlot, Umem};

/// `XDP_OPTIONS` of `include/uapi/linux/if_xdp.h`.
const XDP_OPTIONS: libc::c_int = 8;
/// `XDP_OPTIONS_ZEROCOPY` of the same file.
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
/// `XDP_MAX_TX_SKB_BUDGET` of the same file, since Linux 6.17.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// What the kernel charges a socket for a full-sized frame in flight: 2 KiB of data and a `sk_buff`.
///
/// The send buffer has room for a whole TX ring of these. The default of 208 KiB stops after some 90 of
/// them, which a NIC that completes late (moderated interrupts) needs to stay busy. Too high: nothing, as
/// the TX ring is the limit then.
const SKB_TRUESIZE: usize = 2304;

/// The shared memory of a worker's sockets.
#[derive(Debug)]
pub struct XskUmem {
    umem: xsk_rs::Umem,
    frame_size: usize,
    /// The descriptor of each frame, as its last ring returned it.
    descs: Vec<FrameDesc>,
    table: FrameTable,
    /// Room for descriptors on their way to a ring or from one.
    scratch: [FrameDesc; BATCH],
}

impl XskUmem {
    /// Maps and registers the memory; call it inside the namespace of the first socket's device.
    ///
    /// libxdp makes the UMEM's own descriptor the first socket, so that one must be bound in the
    /// namespace where the UMEM was created, or bind finds no such device.
    pub(super) fn new(spec: &UmemSpec) -> Result<Self, OpenError> {
        let invalid = |what: &dyn std::fmt::Display| OpenError::Sizes { what: what.to_string() };
        let frames = NonZeroU32::new(spec.frames).ok_or_else(|| invalid(&"no frames"))?;
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(spec.frame_size).map_err(|error| invalid(&error))?)
            .fill_queue_size(queue_size(spec.rings.fill)?)
            .comp_queue_size(queue_size(spec.rings.completion)?)
            .build()
            .map_err(|error| invalid(&error))?;
        let (umem, descs) = xsk_rs::Umem::new(config, frames, false)
            .map_err(|error| OpenError::Umem { source: io_error(&error) })?;
        let table = FrameTable::new(spec.frames);
        let scratch = [FrameDesc::default(); BATCH];
        Ok(Self { umem, frame_size: spec.frame_size as usize, descs, table, scratch })
    }

    /// A handle that further sockets over this memory are opened with.
    pub(super) fn share(&self) -> SharedUmem {
        SharedUmem { umem: self.umem.clone(), number: self.table.umem() }
    }

    /// Whether a received descriptor lies within the frame that it names.
    fn is_sound(&self, desc: &FrameDesc) -> bool {
        let offset = desc.addr() & (self.frame_size - 1);
        offset + desc.lengths().data() <= self.frame_size && !desc.has_more_frames()
    }

    fn index(&self, desc: &FrameDesc) -> usize {
        desc.addr() / self.frame_size
    }
}

impl Umem for XskUmem {
    fn table(&self) -> &FrameTable {
        &self.table
    }

    fn table_mut(&mut self) -> &mut FrameTable {
        &mut self.table
    }

    fn bytes<'a>(&'a mut self, batch: &'a mut [Frame], sink: &mut dyn FnMut(&'a mut [u8])) {
        for frame in batch {
            let desc = &mut self.descs[self.table.own(frame)];
            let len = desc.lengths().data();
            // SAFETY: the descriptor is one of this UMEM's. No one else accesses its bytes: the kernel
            // does not have the frame while its token exists, and the token is borrowed for 'a.
            let mut data = unsafe { self.umem.data_mut(desc) };
            let start = data.contents_mut().as_mut_ptr();
            // SAFETY: `start` and `len` are those of the slice above, whose memory stays mapped as long
            // as `self.umem`, borrowed for 'a; it is exclusive for the reason given there.
            sink(unsafe { std::slice::from_raw_parts_mut(start, len) });
        }
    }

    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        let desc = &mut self.descs[self.table.own(frame)];
        // SAFETY: as in `bytes`; nothing is written but the length, which the cursor cuts to the frame.
        unsafe { self.umem.data_mut(desc) }.cursor().set_pos(len);
    }

    fn capacity(&self) -> usize {
        self.frame_size - XDP_PACKET_HEADROOM
    }
}

/// What the kernel keeps free in front of each received frame (`XDP_PACKET_HEADROOM`).
const XDP_PACKET_HEADROOM: usize = 256;

/// A handle on a UMEM that sockets are opened with.
#[derive(Debug)]
pub(super) struct SharedUmem {
    umem: xsk_rs::Umem,
    number: u32,
}

/// One bound AF_XDP socket.
#[derive(Debug)]
pub struct XskPort {
    slot: SocketSlot,
    /// Number of the UMEM whose memory the rings refer to.
    umem: u32,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    tx_ring: usize,
    zero_copy: bool,
}

impl XskPort {
    /// Opens and binds a socket; call it inside the namespace of `device`.
    ///
    /// The first socket over a UMEM decides about zero-copy and need-wakeup for all of them: the kernel
    /// refuses these flags on the others, and refuses the others if they cannot do the same.
    pub(super) fn open(
        shared: &SharedUmem,
        device: &str,
        queue: u32,
        rings: &RingSizes,
        zero_copy: ZeroCopy,
    ) -> Result<Self, OpenError> {
        let interface: Interface = device
            .parse()
            .map_err(|_| OpenError::Sizes { what: format!("device name {device:?} holds a zero byte") })?;
        let mut bind = BindFlags::XDP_USE_NEED_WAKEUP;
        match zero_copy {
            ZeroCopy::Off => bind |= BindFlags::XDP_COPY,
            ZeroCopy::Require => bind |= BindFlags::XDP_ZEROCOPY,
            ZeroCopy::IfOffered => {}
        }
        let config = SocketConfig::builder()
            .rx_queue_size(queue_size(rings.rx)?)
            .tx_queue_size(queue_size(rings.tx)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(bind)
            .build();
        // SAFETY: no program is loaded by libxdp, so none can be freed twice.
        let opened = unsafe { Socket::new(config, &shared.umem, &interface, queue) };
        let bind_error = |source| OpenError::Bind { device: device.to_owned(), queue, source };
        let (tx, rx, queues) = opened.map_err(|error| bind_error(io_error(&error)))?;
        let (fill, completion) = queues.ok_or_else(|| bind_error(Errno::EBUSY.into()))?;
        let zero_copy = is_zero_copy(rx.fd().as_raw_fd()).map_err(bind_error)?;
        // Kernels before 6.17 refuse the option, and then take 32 descriptors per kick.
        let _ = set_option(rx.fd().as_raw_fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, rings.tx);
        let slot = SocketSlot::UNDERLAY;
        let send_buffer = rings.tx as usize * SKB_TRUESIZE;
        // Refused without CAP_NET_ADMIN; then fewer frames are in flight at a time.
        let _ = setsockopt(&socket_of(&rx), SndBufForce, &send_buffer);
        Ok(Self {
            slot,
            umem: shared.number,
            rx,
            tx,
            fill,
            completion,
            tx_ring: rings.tx as usize,
            zero_copy,
        })
    }

    /// Panics if `umem` is not the memory of these rings, which only a bug in this crate can bring about.
    fn check(&self, umem: &XskUmem) {
        assert_eq!(self.umem, umem.table.umem(), "a socket belongs to one UMEM");
    }

    /// The socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        socket_of(&self.rx)
    }
}

fn socket_of(queue: &RxQueue) -> BorrowedFd<'_> {
    // SAFETY: the descriptor stays open as long as the queue, which is borrowed.
    unsafe { BorrowedFd::borrow_raw(queue.fd().as_raw_fd()) }
}

impl Port for XskPort {
    type Umem = XskUmem;

    fn set_slot(&mut self, slot: SocketSlot) {
        self.slot = slot;
    }

    fn refill(&mut self, umem: &mut XskUmem, target: usize) -> usize {
        self.check(umem);
        let mut missing = target.saturating_sub(umem.table.lent(self.slot).rx);
        while missing > 0 {
            let room = self.fill.nb_free(BATCH as u32) as usize;
            let wanted = missing.min(BATCH).min(room);
            let mut count = 0;
            while count < wanted
                && let Some(index) = umem.table.lend_free(self.slot)
            {
                umem.scratch[count] = umem.descs[index];
                count += 1;
            }
            // SAFETY: these frames were free, and the table has just lent them to this socket.
            let produced = unsafe { self.fill.produce(&umem.scratch[..count]) };
            debug_assert_eq!(produced, count, "the ring had room");
            missing -= count;
            if count < wanted {
                return missing;
            }
            if count == 0 {
                return 0;
            }
        }
        0
    }

    fn receive(&mut self, umem: &mut XskUmem, limit: usize, batch: &mut Batch) -> usize {
        self.check(umem);
        let limit = limit.min(batch.remaining_capacity());
        // SAFETY: the descriptors' frames were this socket's; the table mints their tokens below.
        let count = unsafe { self.rx.consume(&mut umem.scratch[..limit]) };
        let before = batch.len();
        for position in 0..count {
            let mut desc = umem.scratch[position];
            let index = umem.index(&desc);
            let Some(frame) = umem.table.received(self.slot, index) else { continue };
            if !umem.is_sound(&desc) {
                umem.table.distrust(frame);
                continue;
            }
            desc.set_options(0);
            umem.descs[index] = desc;
            batch.push(frame);
        }
        batch.len() - before
    }

    fn rx_waiting(&mut self) -> usize {
        self.rx.nb_avail(BATCH as u32) as usize
    }

    fn transmit(&mut self, umem: &mut XskUmem, batch: &mut Batch) -> usize {
        self.check(umem);
        let room = self.tx.nb_free(batch.len() as u32) as usize;
        let count = batch.len().min(room);
        for (position, frame) in batch.drain(..count).enumerate() {
            umem.scratch[position] = umem.descs[umem.table.lend_tx(self.slot, frame)];
        }
        // SAFETY: the tokens are consumed, and the table has just lent their frames to this socket.
        let produced = unsafe { self.tx.produce(&umem.scratch[..count]) };
        debug_assert_eq!(produced, count, "the ring had room");
        count
    }

    fn tx_room(&mut self) -> usize {
        self.tx.nb_free(BATCH as u32) as usize
    }

    fn tx_waiting(&mut self) -> usize {
        self.tx_ring - self.tx.nb_free_exact() as usize
    }

    fn reap(&mut self, umem: &mut XskUmem) -> usize {
        self.check(umem);
        let mut reaped = 0;
        loop {
            // SAFETY: completed frames are only put on the free list below, under the table's check.
            let count = unsafe { self.completion.consume(&mut umem.scratch) };
            for position in 0..count {
                let desc = umem.scratch[position];
                umem.table.completed(self.slot, umem.index(&desc));
            }
            reaped += count;
            if count < BATCH {
                return reaped;
            }
        }
    }

    fn needs_kick(&self) -> bool {
        self.tx.needs_wakeup()
    }

    fn kick(&mut self) -> Kick {
        // Not `TxQueue::wakeup`, which hides from us why the kernel did not send.
        match send(self.rx.fd().as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT) {
            Ok(_) => Kick::Done,
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Kick::Again,
            Err(Errno::EBUSY) => Kick::Refused,
            Err(Errno::ENETDOWN) => Kick::Down,
            Err(Errno::ENXIO) => Kick::Gone,
            Err(errno) => Kick::Failed(errno as i32),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }

    fn kernel_counters(&self) -> KernelCounters {
        let Ok(counted) = self.rx.fd().xdp_statistics() else { return KernelCounters::default() };
        KernelCounters {
            rx_dropped: counted.rx_dropped(),
            rx_ring_full: counted.rx_ring_full(),
            rx_fill_ring_empty: counted.rx_fill_ring_empty_descs(),
            tx_invalid_descs: counted.tx_invalid_descs(),
        }
    }

    fn zero_copy(&self) -> bool {
        self.zero_copy
    }
}

fn queue_size(size: u32) -> Result<QueueSize, OpenError> {
    QueueSize::new(size).map_err(|error| OpenError::Sizes { what: error.to_string() })
}

/// The system's error inside one of `xsk-rs`, which carries it as its source.
fn io_error(error: &dyn std::error::Error) -> io::Error {
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(source) => source
            .raw_os_error()
            .map_or_else(|| io::Error::new(source.kind(), error.to_string()), io::Error::from_raw_os_error),
        None => io::Error::other(error.to_string()),
    }
}

/// Reads back whether the kernel bound the socket in zero-copy mode.
fn is_zero_copy(socket: RawFd) -> io::Result<bool> {
    let mut flags = 0_u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: `struct xdp_options` is one u32; the pointers are to live values, the length is theirs.
    let status = unsafe {
        libc::getsockopt(socket, libc::SOL_XDP, XDP_OPTIONS, (&raw mut flags).cast(), &raw mut len)
    };
    if status == 0 { Ok(flags & XDP_OPTIONS_ZEROCOPY != 0) } else { Err(io::Error::last_os_error()) }
}

fn set_option(socket: RawFd, level: libc::c_int, option: libc::c_int, value: u32) -> io::Result<()> {
    let len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the pointer is to a live value, and the length is its own.
    let status = unsafe { libc::setsockopt(socket, level, option, (&raw const value).cast(), len) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
