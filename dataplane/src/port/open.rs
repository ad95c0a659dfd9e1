//! Opening AF_XDP sockets: in the right namespace, with patience for queues that are still being torn down.
//!
//! A socket belongs for life to the namespace of the thread that created it, and finds its device there.
//! So a short-lived thread enters the namespace and opens it; the calling thread stays where it is.
//! The sockets of one UMEM may live in different namespaces, but the UMEM must be created in that of its
//! first socket, whose file descriptor it shares.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sched::{CloneFlags, setns};
use thiserror::Error;

use super::Port;
use super::xsk::{SharedUmem, XskPort, XskUmem};

/// Descriptors in each of a socket's rings; powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSizes {
    /// Fill ring.
    pub fill: u32,
    /// Completion ring; at least as long as the TX ring, or the kernel sends only what fits it.
    pub completion: u32,
    /// RX ring.
    pub rx: u32,
    /// TX ring.
    pub tx: u32,
}

impl RingSizes {
    /// All rings with 2048 descriptors.
    ///
    /// 2048 frames are 2 ms of a million frames per second: as long as a worker may be off the processor
    /// before frames are lost. Too low: each delay of the worker loses frames.
    /// Too high: a slow worker makes a long queue instead of dropping, so latency grows, and the frames in
    /// use no longer fit the processor's cache.
    pub const DEFAULT: Self = Self { fill: 2048, completion: 2048, rx: 2048, tx: 2048 };
}

/// Whether the device is to read and write the UMEM itself.
///
/// The kernel binds all sockets of a UMEM in the mode of the first one (`xp_assign_dev_shared`), and a veth
/// has copy mode only. So zero-copy on the underlay excludes veth ports over the same UMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Copy mode, which every device has.
    Off,
    /// Zero-copy where the driver offers it.
    IfOffered,
    /// Zero-copy, or fail.
    Require,
}

/// The memory of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UmemSpec {
    /// Number of frames.
    pub frames: u32,
    /// Bytes per frame, 2048 or 4096, of which the kernel keeps 256 free in front of the packet.
    pub frame_size: u32,
    /// The rings of each socket.
    pub rings: RingSizes,
    /// Copy or zero-copy.
    pub zero_copy: ZeroCopy,
}

impl UmemSpec {
    /// Enough for the underlay and up to 63 ports per queue: 16384 frames of 2 KiB, 32 MiB per worker.
    ///
    /// Half of the frames wait for packets, half are for transmission; see [`crate::worker::Shares`].
    /// Too few: ports get short fill rings and lose bursts. Too many: memory that is pinned for nothing.
    pub const DEFAULT: Self =
        Self { frames: 16384, frame_size: 2048, rings: RingSizes::DEFAULT, zero_copy: ZeroCopy::Off };
}

/// One queue of one device in one namespace.
#[derive(Debug, Clone, Copy)]
pub struct DeviceQueue<'a> {
    /// The namespace that the device is in.
    pub netns: BorrowedFd<'a>,
    /// The device's name.
    pub device: &'a str,
    /// Its queue, from 0.
    pub queue: u32,
}

/// Why a socket could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A number or name that no kernel would accept.
    #[error("bad AF_XDP parameter: {what}")]
    Sizes {
        /// What is wrong with it.
        what: String,
    },
    /// The memory could not be registered.
    #[error("cannot register the UMEM")]
    Umem {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error("cannot enter the namespace of {device}")]
    Netns {
        /// The device.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket could not be bound.
    #[error("cannot bind an AF_XDP socket to queue {queue} of {device}")]
    Bind {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refuses the queue, as it does where there is no such queue.
    #[error(
        "cannot bind an AF_XDP socket to queue {queue} of {device}, which seems to have fewer queues: use \
         fewer `workers`, or give it more (ethtool -L)"
    )]
    Queue {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Zero-copy was required, and the device has none.
    #[error("{device} has no zero-copy mode, which `zero_copy = \"require\"` asks for")]
    ZeroCopyRefused {
        /// The device.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The UMEM is bound in zero-copy mode, and this device cannot do that.
    #[error("{device} has no zero-copy mode, which the underlay's socket asked for and both must share")]
    NoZeroCopy {
        /// The device.
        device: String,
    },
    /// The worker that owns the UMEM has ended.
    #[error("the worker has ended")]
    Ended,
}

/// How long a queue may stay busy after its last socket was closed.
///
/// The kernel tears a socket's buffer pool down from a work queue, after an RCU grace period: some 10 ms
/// here, more on a loaded machine. Too low: restarts fail now and then. Too high: a queue that somebody
/// else owns is reported late.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pause between two attempts within [`PATIENCE`].
const RETRY: Duration = Duration::from_millis(5);

/// Creates a UMEM with its first socket, and the means to open further ones.
pub(crate) fn open_umem(
    spec: &UmemSpec,
    at: &DeviceQueue<'_>,
) -> Result<(XskUmem, XskPort, Opener), OpenError> {
    inside(at, || {
        let umem = XskUmem::new(spec)?;
        let shared = umem.share();
        let open = || XskPort::open(&shared, at.device, at.queue, &spec.rings, spec.zero_copy);
        let port = patiently(open).map_err(|error| explained(error, spec.zero_copy))?;
        let zero_copy = port.zero_copy();
        let shared = Arc::new(Mutex::new(Some(shared)));
        Ok((umem, port, Opener { shared, rings: spec.rings, zero_copy }))
    })
}

/// Opens further sockets over a worker's UMEM.
#[derive(Debug, Clone)]
pub(crate) struct Opener {
    /// Empty when the worker has ended: a handle on the UMEM would keep the first socket open and bound,
    /// since the two share a file descriptor, and frames would be redirected to nobody.
    shared: Arc<Mutex<Option<SharedUmem>>>,
    rings: RingSizes,
    zero_copy: bool,
}

impl Opener {
    /// Opens and binds a socket; blocks for milliseconds, or up to two seconds where a queue is busy.
    pub(crate) fn open(&self, at: &DeviceQueue<'_>) -> Result<XskPort, OpenError> {
        let attempt = || {
            let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            let umem = shared.as_ref().ok_or(OpenError::Ended)?;
            XskPort::open(umem, at.device, at.queue, &self.rings, ZeroCopy::Off)
        };
        inside(at, || patiently(attempt)).map_err(|error| match explained(error, ZeroCopy::Off) {
            OpenError::Bind { device, source, .. }
                if self.zero_copy && source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                OpenError::NoZeroCopy { device }
            }
            other => other,
        })
    }

    /// Whether the UMEM's sockets are bound in zero-copy mode.
    pub(crate) fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Lets go of the UMEM: no socket can be opened any more.
    pub(crate) fn close(&self) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The kernel's answers to `bind` that mean one thing here (`xp_assign_dev`, net/xdp/xsk_buff_pool.c).
fn explained(error: OpenError, zero_copy: ZeroCopy) -> OpenError {
    match error {
        OpenError::Bind { device, queue, source } => match source.raw_os_error() {
            Some(libc::EINVAL) => OpenError::Queue { device, queue, source },
            Some(libc::EOPNOTSUPP) if zero_copy == ZeroCopy::Require => {
                OpenError::ZeroCopyRefused { device, source }
            }
            _ => OpenError::Bind { device, queue, source },
        },
        other => other,
    }
}

fn patiently<T>(attempt: impl Fn() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(OpenError::Bind { source, .. })
                if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(RETRY);
            }
            outcome => return outcome,
        }
    }
}

fn inside<T: Send>(
    at: &DeviceQueue<'_>,
    work: impl FnOnce() -> Result<T, OpenError> + Send,
) -> Result<T, OpenError> {
    let netns_error = |source: io::Error| OpenError::Netns { device: at.device.to_owned(), source };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("xsk-open".to_owned());
        let inside = thread
            .spawn_scoped(scope, || {
                setns(at.netns, CloneFlags::CLONE_NEWNET).map_err(|errno| netns_error(errno.into()))?;
                work()
            })
            .map_err(netns_error)?;
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
