//! A device of the fast path: its program, its sockets in the workers, and what was changed for them.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use vxdp_dataplane::worker::{DeviceQueue, SocketStats, Worker};
use vxdp_dataplane::{OverlayId, PortId};

use super::EngineError;
use super::board::ShownDevice;
use super::report::DeviceReport;
use crate::causes::chain;
use crate::config::{Attach, Container, XdpAttach};
use crate::container;
use crate::offload::{self, GRO, SwitchedOff, SwitchedOn, TX_CHECKSUM, TX_VLAN, TX_VLAN_STAG};
use crate::xdp::{AttachError, Attached, Classifier, Device, Instance};

/// How long a port's last frames may take when it leaves. A veth takes them at once; a device that is down
/// never does, and nothing must wait for it long.
const PATIENCE: Duration = Duration::from_millis(50);

/// A container port that the fast path serves, or tried to.
pub(super) struct ServedPort {
    pub(super) id: PortId,
    pub(super) overlay: OverlayId,
    /// Position in the overlay's list of containers.
    pub(super) position: usize,
    pub(super) device: Device,
    vni: u32,
    program: Option<Program>,
    sockets: Vec<Arc<SocketStats>>,
    offloads: Option<Offloads>,
    trouble: Option<String>,
}

/// What takes the frames off the device.
enum Program {
    Xdp(Instance, Attached),
    Tc(Classifier),
}

/// What hides tags from an XDP program, on the container's end.
pub(super) const HIDING_TAGS: &[&str] = &[TX_VLAN, TX_VLAN_STAG];
/// The same, and what leaves frames unfinished.
pub(super) const HIDING_ALL: &[&str] = &[TX_VLAN, TX_VLAN_STAG, TX_CHECKSUM];

/// Offloads of a container's end that were switched. The namespace is found again when they are
/// restored: holding it would keep a dead container's namespace, and the veth in it, alive.
struct Offloads {
    container: Attach,
    off: Option<SwitchedOff>,
    on: Option<SwitchedOn>,
}

impl ServedPort {
    /// A port that does not take part yet.
    pub(super) fn new(id: PortId, overlay: OverlayId, position: usize, device: Device, vni: u32) -> Self {
        let (program, sockets, offloads, trouble) = (None, Vec::new(), None, None);
        Self { id, overlay, position, device, vni, program, sockets, offloads, trouble }
    }

    /// The same, before it was tried.
    pub(super) fn anew(&self) -> Self {
        Self::new(self.id, self.overlay, self.position, self.device.clone(), self.vni)
    }

    /// Gives every worker its queue and attaches the program. On an error the port takes no part, and the
    /// error stands in its report.
    pub(super) fn attach(
        &mut self,
        mut instance: Instance,
        workers: &[Worker],
        mode: XdpAttach,
    ) -> Result<(), EngineError> {
        let served = self.attach_all(&mut instance, workers, mode);
        match served {
            Ok(attached) => {
                self.program = Some(Program::Xdp(instance, attached));
                Ok(())
            }
            Err(error) => {
                self.trouble = Some(chain(&error));
                drop(instance);
                self.leave(workers);
                Err(error)
            }
        }
    }

    /// Attaches a program that needs no workers. On an error the port takes no part, and the error stands in its
    /// report.
    pub(super) fn classify(&mut self, mut program: Classifier) -> Result<(), AttachError> {
        match program.attach(&self.device) {
            Ok(()) => {
                self.program = Some(Program::Tc(program));
                Ok(())
            }
            Err(error) => {
                self.trouble = Some(chain(&error));
                Err(error)
            }
        }
    }

    fn attach_all(
        &mut self,
        instance: &mut Instance,
        workers: &[Worker],
        mode: XdpAttach,
    ) -> Result<Attached, EngineError> {
        for (queue, worker) in (0..).zip(workers) {
            let at = DeviceQueue { netns: self.device.netns.as_fd(), device: &self.device.name, queue };
            let install = |socket: std::os::fd::BorrowedFd<'_>| {
                instance.set_socket(queue, socket).map_err(io::Error::other)
            };
            self.sockets.push(worker.attach(self.id, &at, install)?);
        }
        Ok(instance.attach(&self.device, mode, None)?)
    }

    /// Switches off what would hide something of a frame from the program, on the container's end.
    pub(super) async fn switch_offloads_off(
        &mut self,
        container: &Container,
        features: &[&'static str],
    ) -> Result<(), String> {
        let netns = container::resolve(&container.attach).await.map_err(|error| chain(&error))?.netns;
        let device = container.interface.as_str();
        let off = offload::switch_off(&netns, device, features).await.map_err(|error| chain(&error))?;
        self.offloads = Some(Offloads { container: container.attach.clone(), off, on: None });
        Ok(())
    }

    /// Has the container's end take frames that an XDP program sends to ours.
    pub(super) async fn take_xdp_frames(&mut self, container: &Container) -> Result<(), String> {
        let netns = container::resolve(&container.attach).await.map_err(|error| chain(&error))?.netns;
        let device = container.interface.as_str();
        let on = offload::switch_on(&netns, device, GRO).await.map_err(|error| chain(&error))?;
        if let Some(offloads) = &mut self.offloads {
            offloads.on = on;
        }
        Ok(())
    }

    /// Why the port takes no part.
    pub(super) fn give_up(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    /// Why the port takes no part; empty if it does.
    pub(super) fn trouble(&self) -> &str {
        self.trouble.as_deref().unwrap_or_default()
    }

    /// Whether frames of the port may be redirected.
    pub(super) fn serves(&self) -> bool {
        self.program.is_some()
    }

    /// Takes the port out: first its sockets from the map, then from the workers, then the program.
    pub(super) async fn detach(mut self, workers: &[Worker]) {
        match self.program.take() {
            Some(Program::Xdp(mut instance, _)) => tokio::task::block_in_place(|| {
                for (queue, _) in (0..).zip(workers) {
                    let _ = instance.remove_socket(queue);
                }
                self.leave(workers);
                drop(instance);
            }),
            Some(Program::Tc(program)) => tokio::task::block_in_place(|| drop(program)),
            None => {}
        }
        self.restore_offloads().await;
    }

    /// A worker that has ended, or never had the port, has nothing to give back.
    fn leave(&self, workers: &[Worker]) {
        for worker in workers {
            let _ = worker.detach(self.id, PATIENCE);
        }
    }

    async fn restore_offloads(&mut self) {
        let Some(Offloads { container, off, on }) = self.offloads.take() else { return };
        if off.is_none() && on.is_none() {
            return;
        }
        // A container that is gone took its device along.
        let Ok(found) = container::resolve(&container).await else { return };
        let mut answers = Vec::new();
        if let Some(off) = off {
            answers.push(off.restore(&found.netns).await);
        }
        if let Some(on) = on {
            answers.push(on.restore(&found.netns).await);
        }
        for error in answers.into_iter().filter_map(Result::err) {
            tracing::warn!(device = self.device.name, "cannot restore offloads: {}", chain(&error));
        }
    }

    /// The port as it is shown, with its counters.
    pub(super) fn shown(&self) -> ShownDevice {
        let off = self.offloads.iter().filter_map(|offloads| offloads.off.as_ref());
        let switched = off.flat_map(SwitchedOff::features);
        let (regime, limits, verdicts) = match &self.program {
            Some(Program::Xdp(instance, attached)) => {
                let regime = attached.regime.to_string();
                (Some(regime), instance.limits().collect(), Some(instance.verdicts()))
            }
            Some(Program::Tc(program)) => (Some("tc".to_owned()), Vec::new(), Some(program.verdicts())),
            None => (None, Vec::new(), None),
        };
        let report = DeviceReport {
            device: self.device.name.clone(),
            vni: Some(self.vni),
            regime,
            limits,
            switched_off: switched.map(|name| (*name).to_owned()).collect(),
            trouble: self.trouble.clone(),
            ..DeviceReport::default()
        };
        ShownDevice { report, verdicts, sockets: self.sockets.clone() }
    }
}
