//! One loaded program: attached to its device, kept there or replaced, with its sockets and counters.
//!
//! An instance is attached by a BPF link. Unless it is kept, it goes with its process. A kept link is pinned:
//! after the process the program stays on the device, finds no socket and passes every frame, until a new
//! process puts its own program into the same link, without a moment in which the device has none. That
//! is for NICs whose driver resets its queues when a program comes or goes, and for upgrades; on a veth an
//! attached program costs the peer its segmentation offload, so there it is better taken off.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{MapData, MapError, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, TestRun as _, TestRunOptions};
use nix::errno::Errno;
use vxdp_ebpf::{MAX_QUEUES, map};

use super::device::{Attached, Device, Regime};
use super::programs::{VerdictCounters, xdp};
use super::tables::TableError;
use crate::config::XdpAttach;

/// How long a removed link may still hold its device: many times the milliseconds it takes. Too short, and
/// a mode change fails on a busy machine; longer only delays the report of a failure.
const UNPIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two looks at the device: about what the kernel takes.
const UNPIN_PAUSE: Duration = Duration::from_millis(2);

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Somebody else's program is there; it was left alone.
    #[error(
        "{device} already carries another XDP program ({regime} mode, id {program}); it was left alone: \
         detach it, or use `mode = \"kernel\"`"
    )]
    Occupied {
        /// The device.
        device: String,
        /// The other program's regime.
        regime: Regime,
        /// The other program's number.
        program: u32,
    },
    /// The device did not take the program.
    #[error("{device} does not take an XDP program in {regime} mode")]
    Refused {
        /// The device.
        device: String,
        /// The regime tried last.
        regime: Regime,
        /// The answer.
        source: ProgramError,
    },
    /// The device could not be looked at.
    #[error("cannot read the state of {device}")]
    Device {
        /// The device.
        device: String,
        /// The answer.
        source: io::Error,
    },
    /// The link could not be read, pinned or replaced.
    #[error("cannot take over or keep the XDP link of {device}")]
    Link {
        /// The device.
        device: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A program loaded for one device, with the sockets and counters of that device.
///
/// Dropping it detaches it, unless it is attached to a kept link.
pub struct Instance {
    object: Ebpf,
    program: &'static str,
    sockets: XskMap<MapData>,
    counters: Arc<VerdictCounters>,
    link: Option<Link>,
    /// Why the program does not run in the driver, where it does not.
    limit: Option<String>,
}

struct Link {
    link: FdLink,
    device: Device,
    pin: Option<PathBuf>,
}

impl Instance {
    pub(super) fn new(
        object: Ebpf,
        program: &'static str,
        sockets: XskMap<MapData>,
        counters: Arc<VerdictCounters>,
    ) -> Self {
        Self { object, program, sockets, counters, link: None, limit: None }
    }

    /// Attaches the program to `device` and says where it runs now.
    ///
    /// With `keep`, a path of [`BpfFs::link`](super::BpfFs::link), the link is pinned there, so that the
    /// program stays on the device when this process ends; a link that an earlier process left there is
    /// taken over, unless `mode` rules its regime out. In generic mode no driver is touched and nothing is
    /// kept. A device that carries any other XDP program is left alone.
    pub fn attach(
        &mut self,
        device: &Device,
        mode: XdpAttach,
        keep: Option<&Path>,
    ) -> Result<Attached, AttachError> {
        self.detach();
        let left = keep.and_then(|path| PinnedLink::from_pin(path).ok()).map(FdLink::from);
        let link = match (look(device)?, left) {
            (Some(present), Some(left)) if program_of(&left) == Some(present.program) => {
                if allows(mode, present.regime) {
                    self.replace(device, left)?
                } else {
                    unpin(device, left, keep, present.program)?;
                    self.create(device, mode)?
                }
            }
            (Some(other), _) => return Err(other.occupies(device)),
            (None, left) => {
                // A link without its device: that one is gone, or has been made anew.
                if let (Some(_), Some(path)) = (left, keep) {
                    fs::remove_file(path).map_err(lost(device))?;
                }
                self.create(device, mode)?
            }
        };
        let present = look(device)?.ok_or_else(|| AttachError::Device {
            device: device.to_string(),
            source: io::Error::other("the program vanished at once"),
        })?;
        let keep = keep.filter(|_| present.regime != Regime::Generic);
        let link = match keep {
            Some(path) if !path.exists() => link.pin(path).map_err(lost(device))?.into(),
            _ => link,
        };
        self.link = Some(Link { link, device: device.clone(), pin: keep.map(Path::to_owned) });
        Ok(present)
    }

    /// Attaches afresh.
    fn create(&mut self, device: &Device, mode: XdpAttach) -> Result<FdLink, AttachError> {
        self.limit = (mode == XdpAttach::Generic).then(|| "generic as `attach` says".to_owned());
        let mut refused = None;
        for (mode, regime) in [(XdpMode::Driver, Regime::Driver), (XdpMode::Skb, Regime::Generic)]
            .into_iter()
            .filter(|&(_, regime)| allows(mode, regime))
        {
            match self.create_as(device, mode) {
                Ok(link) => return FdLink::try_from(link).map_err(lost(device)),
                // Somebody was faster than us.
                Err(source) if occupied(&source) => {
                    let other = look(device)?.unwrap_or(Attached { regime, program: 0 });
                    return Err(other.occupies(device));
                }
                Err(source) => {
                    self.limit = Some(format!("generic: no program in the driver ({})", reason(&source)));
                    refused = Some(AttachError::Refused { device: device.to_string(), regime, source });
                }
            }
        }
        Err(refused.expect("every mode allows a regime"))
    }

    fn create_as(&mut self, device: &Device, mode: XdpMode) -> Result<XdpLink, ProgramError> {
        let xdp = xdp(&mut self.object, self.program)?;
        // The kernel looks the index up in the namespace of the calling thread. The library falls back to an
        // attachment without a link where the kernel answers EINVAL; kernels that can load the program at all
        // know links, and refuse by either way what they refuse by one.
        let id = device
            .netns
            .run(|| Ok(xdp.attach_to_if_index(device.index, mode)))
            .map_err(ProgramError::IOError)??;
        xdp.take_link(id)
    }

    /// Puts our program into a link that an earlier process left.
    fn replace(&mut self, device: &Device, link: FdLink) -> Result<FdLink, AttachError> {
        let link = XdpLink::try_from(link).map_err(lost(device))?;
        let xdp = xdp(&mut self.object, self.program).map_err(lost(device))?;
        let id = xdp.attach_to_link(link).map_err(lost(device))?;
        let link = xdp.take_link(id).map_err(lost(device))?;
        FdLink::try_from(link).map_err(lost(device))
    }

    /// Takes the program off its device, a kept link, too, unless another process has taken that over.
    pub fn detach(&mut self) {
        let Some(Link { link, device, pin: Some(path) }) = self.link.take() else {
            return; // Closing an unpinned link detaches at once.
        };
        let ours = self.id().ok();
        if let (Some(ours), true) = (ours, program_of(&link) == ours) {
            // Whatever fails here: the program passes every frame without its sockets.
            let _ = unpin(&device, link, Some(&path), ours);
        }
    }

    /// Whether the program stays on its device when this value goes.
    pub fn is_kept(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.pin.is_some())
    }

    /// Why the program runs in a lesser regime than the driver's, if it does.
    pub fn limits(&self) -> impl Iterator<Item = String> + '_ {
        self.limit.iter().cloned()
    }

    /// The kernel's number of the program, as `bpftool prog` shows it.
    pub fn id(&self) -> Result<u32, ProgramError> {
        let program = self.object.program(self.program).expect("the embedded object has it");
        Ok(program.info()?.id())
    }

    /// Hands the frames of `queue` to an AF_XDP socket, which must be bound to that queue of the device.
    ///
    /// The kernel takes a socket out by itself when it is closed.
    pub fn set_socket(&mut self, queue: u32, socket: impl AsFd) -> Result<(), TableError> {
        let refused = |source| TableError::Map { table: map::XSKS, source };
        if queue >= MAX_QUEUES {
            return Err(TableError::Full { table: map::XSKS });
        }
        self.sockets.set(queue, socket.as_fd().as_raw_fd(), 0).map_err(refused)
    }

    /// Takes the socket of `queue` out: its frames pass from now on.
    pub fn remove_socket(&mut self, queue: u32) -> Result<(), TableError> {
        match self.sockets.unset(queue) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| TableError::Map { table: map::XSKS, source }),
        }
    }

    /// Runs the program over a frame that nobody sent (`BPF_PROG_TEST_RUN`), and writes what it made of it into
    /// `out`: the action, and how many bytes that is.
    ///
    /// # Errors
    /// The kernel's answer: it runs no program on less than an Ethernet header.
    pub fn run(&self, frame: &[u8], out: &mut [u8]) -> Result<(u32, usize), ProgramError> {
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(out), ..TestRunOptions::default() };
        let program: &Xdp =
            self.object.program(self.program).expect("the embedded object has it").try_into()?;
        let ran = program.test_run(options)?;
        Ok((ran.return_value, ran.data_size_out as usize))
    }

    /// How often the program decided what, for whoever wants to read it.
    pub fn verdicts(&self) -> Arc<VerdictCounters> {
        Arc::clone(&self.counters)
    }
}

impl Attached {
    fn occupies(self, device: &Device) -> AttachError {
        AttachError::Occupied { device: device.to_string(), regime: self.regime, program: self.program }
    }
}

/// Whether `program` is one that an instance has kept by a link at `path`.
pub fn is_kept_at(path: &Path, program: u32) -> bool {
    PinnedLink::from_pin(path).is_ok_and(|link| program_of(&FdLink::from(link)) == Some(program))
}

fn allows(mode: XdpAttach, regime: Regime) -> bool {
    match mode {
        XdpAttach::Auto => true,
        XdpAttach::Driver => regime == Regime::Driver,
        XdpAttach::Generic => regime == Regime::Generic,
    }
}

fn look(device: &Device) -> Result<Option<Attached>, AttachError> {
    device.attached().map_err(|source| AttachError::Device { device: device.to_string(), source })
}

fn program_of(link: &FdLink) -> Option<u32> {
    link.info().ok().map(|info| info.program_id())
}

/// Removes a kept link and waits until `program` is off the device: the kernel lets go of a removed pin
/// only after an RCU grace period, from a work queue, and a new attachment before that would be refused.
fn unpin(device: &Device, link: FdLink, pin: Option<&Path>, program: u32) -> Result<(), AttachError> {
    if let Some(path) = pin {
        fs::remove_file(path).map_err(lost(device))?;
    }
    drop(link);
    let deadline = Instant::now() + UNPIN_TIMEOUT;
    while look(device)?.is_some_and(|present| present.program == program) {
        if Instant::now() > deadline {
            return Err(lost(device)(io::Error::from(io::ErrorKind::TimedOut)));
        }
        std::thread::sleep(UNPIN_PAUSE);
    }
    Ok(())
}

fn lost<E: std::error::Error + Send + Sync + 'static>(device: &Device) -> impl Fn(E) -> AttachError + '_ {
    move |error| AttachError::Link { device: device.to_string(), source: Box::new(error) }
}

/// The kernel's own word, without the library's around it.
fn reason(error: &ProgramError) -> String {
    match error {
        ProgramError::SyscallError(error) => error.io_error.to_string(),
        other => other.to_string(),
    }
}

/// Another program in this mode (EBUSY), or in the other one (EEXIST).
fn occupied(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else {
        return false;
    };
    let answer = error.io_error.raw_os_error().map(Errno::from_raw);
    matches!(answer, Some(Errno::EBUSY | Errno::EEXIST))
}
