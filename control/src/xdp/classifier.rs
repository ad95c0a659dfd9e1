//! One tc program, attached to the ingress of its device.
//!
//! From Linux 6.6 on by a link (tcx), which goes with its process. Before, by netlink, under a `clsact` qdisc: such
//! a filter outlives a killed process, and passes every packet once the daemon's sign of life is stale. The next
//! daemon, or `vxdp down`, knows it by its handle and removes it. The qdisc stays: others may have filters there.

use std::io;
use std::sync::Arc;

use aya::programs::links::Link as _;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use aya::{Ebpf, TestRun as _, TestRunOptions};

use super::device::Device;
use super::instance::AttachError;
use super::owner::Owner;
use super::programs::{self, VerdictCounters};
use crate::netns::Netns;

/// Behind filters that the kernel numbers by itself, from 49152 downwards (`tcf_auto_prio`, net/sched/cls_api.c).
const PRIORITY: u16 = 50_000;

/// A tc program loaded for one device. Dropping it detaches it.
pub struct Classifier {
    object: Ebpf,
    program: &'static str,
    counters: Arc<VerdictCounters>,
    owner: Owner,
    link: Option<(SchedClassifierLink, Device)>,
}

impl Classifier {
    pub(super) fn new(
        object: Ebpf,
        program: &'static str,
        counters: Arc<VerdictCounters>,
        owner: Owner,
    ) -> Self {
        Self { object, program, counters, owner, link: None }
    }

    /// Attaches the program behind whatever else is on the ingress of `device`.
    ///
    /// # Errors
    /// When the device is gone or another has its name, or the kernel refuses.
    pub fn attach(&mut self, device: &Device) -> Result<(), AttachError> {
        self.detach();
        let (object, program, owner) = (&mut self.object, self.program, self.owner);
        let link = device.netns.run(|| {
            // The library takes names; the name may have gone to another device.
            if nix::net::if_::if_nametoindex(device.name.as_str())? != device.index {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            }
            attach(object, program, owner, &device.name).map_err(io::Error::other)
        });
        let link = link.map_err(|source| AttachError::Device { device: device.to_string(), source })?;
        self.link = Some((link, device.clone()));
        Ok(())
    }

    /// Takes the program off its device.
    pub fn detach(&mut self) {
        let Some((link, device)) = self.link.take() else { return };
        // A netlink attachment is removed in the namespace of its device. If that fails the device is gone.
        let _ = device.netns.run(|| link.detach().map_err(io::Error::other));
    }

    /// Runs the program over a frame that nobody sent (`BPF_PROG_TEST_RUN`), and writes what it made of it into
    /// `out`: the action, and how many bytes that is.
    ///
    /// # Errors
    /// The kernel's answer: it runs no program on a frame whose Ethernet or IP header is cut short.
    pub fn run(&self, frame: &[u8], out: &mut [u8]) -> Result<(u32, usize), ProgramError> {
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(out), ..TestRunOptions::default() };
        let program: &SchedClassifier =
            self.object.program(self.program).expect("the embedded object has it").try_into()?;
        let ran = program.test_run(options)?;
        Ok((ran.return_value, ran.data_size_out as usize))
    }

    /// How often the program decided what, for whoever wants to read it.
    pub fn verdicts(&self) -> Arc<VerdictCounters> {
        Arc::clone(&self.counters)
    }
}

impl Drop for Classifier {
    fn drop(&mut self) {
        self.detach();
    }
}

fn attach(
    object: &mut Ebpf,
    program: &str,
    owner: Owner,
    device: &str,
) -> Result<SchedClassifierLink, ProgramError> {
    let program = programs::tc(object, program)?;
    let id = if links_go_with_their_process() {
        program.attach(device, TcAttachType::Ingress)?
    } else {
        there_is_fine(tc::qdisc_add_clsact(device))?;
        remove_filter(device, owner)?;
        let options = NlOptions { priority: PRIORITY, handle: owner.number().into(), classid: None };
        program.attach_with_options(device, TcAttachType::Ingress, TcAttachOptions::Netlink(options))?
    };
    program.take_link(id)
}

/// Whether tc programs are attached by links here, as the library decides (`SchedClassifier::attach`).
fn links_go_with_their_process() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// Removes the program that a killed daemon, `owner`, has left on the device `name` of `netns`, if any.
///
/// # Errors
/// When there is one, and the kernel does not let it go.
pub fn remove_left(netns: &Netns, name: &str, owner: Owner) -> io::Result<()> {
    if links_go_with_their_process() {
        return Ok(());
    }
    netns.run(|| remove_filter(name, owner).map_err(io::Error::other))
}

fn remove_filter(device: &str, owner: Owner) -> Result<(), ProgramError> {
    let handle = owner.number().into();
    let filter = SchedClassifierLink::attached(device, TcAttachType::Ingress, PRIORITY, handle, None);
    // Without the device there is no filter.
    let Ok(filter) = filter else { return Ok(()) };
    match filter.detach() {
        // No filter, or no qdisc.
        Err(ProgramError::NetlinkError(error))
            if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::EINVAL)) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn there_is_fine(result: Result<(), TcError>) -> Result<(), TcError> {
    match result {
        Err(TcError::AlreadyAttached) => Ok(()),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(nix::libc::EEXIST) => Ok(()),
        other => other,
    }
}
