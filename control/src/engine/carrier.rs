//! Who carries the frames of an engine: workers in userspace, or the programs themselves.

use std::sync::Arc;

use vxdp_dataplane::OverlayId;
use vxdp_dataplane::table::{Change as TableChange, Port};
use vxdp_dataplane::wire::MacAddr;

use super::EngineError;
use super::board::{Counting, ShownDevice};
use super::inkernel::InKernel;
use super::port::ServedPort;
use super::userspace::Userspace;
use crate::capture::session::{Capture, TappedPort};
use crate::config::Container;
use crate::xdp::{Outer, Programs, Tables};

/// The part of an engine that differs with its kind.
pub(super) enum Carrier {
    Userspace(Box<Userspace>),
    InKernel(Box<InKernel>),
}

impl Carrier {
    /// Publishes the workers' tables. The programs alone need the maps only.
    pub(super) fn publish(&mut self, changes: &[TableChange]) -> Result<(), EngineError> {
        match self {
            Self::Userspace(carrier) => carrier.publish(changes),
            Self::InKernel(carrier) => {
                carrier.note(changes);
                Ok(())
            }
        }
    }

    /// Takes the frames of a port. What keeps the port out of the fast path stands in its report, and is no error.
    pub(super) async fn serve(
        &mut self,
        port: &mut ServedPort,
        container: &Container,
        row: Port,
        programs: &Programs,
    ) -> Result<(), EngineError> {
        match self {
            Self::Userspace(carrier) => carrier.serve(port, container, row, programs).await,
            Self::InKernel(carrier) => carrier.serve(port, container, programs).await,
        }
    }

    /// Gives a port back to the kernel; the maps pass its frames already.
    pub(super) async fn leave(&mut self, port: ServedPort) -> Result<(), EngineError> {
        match self {
            Self::Userspace(carrier) => carrier.leave(port).await,
            Self::InKernel(_) => {
                port.detach(&[]).await;
                Ok(())
            }
        }
    }

    /// What the programs must know of a port's outer headers, where they write them.
    pub(super) fn outer(&self, port: &ServedPort) -> Option<Outer> {
        match self {
            Self::Userspace(_) => None,
            Self::InKernel(carrier) => carrier.outer(port),
        }
    }

    /// The rows that traffic has used since the last time.
    pub(super) fn used(&mut self, maps: &mut Tables) -> Result<Vec<(OverlayId, MacAddr)>, EngineError> {
        match self {
            Self::Userspace(carrier) => Ok(carrier.used()),
            Self::InKernel(carrier) => carrier.used(maps),
        }
    }

    /// Every second: what has to be done now and then.
    ///
    /// # Errors
    /// When it cannot go on.
    pub(super) async fn tend(&mut self) -> Result<(), EngineError> {
        match self {
            Self::Userspace(carrier) => {
                carrier.tend();
                Ok(())
            }
            Self::InKernel(carrier) => carrier.tend().await,
        }
    }

    /// Shows frames to these captures. Those that the programs carry are there for packet sockets.
    pub(super) fn tap(&self, captures: &[Arc<Capture>], ports: &[TappedPort]) {
        match self {
            Self::Userspace(carrier) => carrier.tap(captures, ports),
            Self::InKernel(_) => {}
        }
    }

    /// Who counts what it carries.
    pub(super) fn counting(&self, programs: &Programs) -> Result<Counting, EngineError> {
        Ok(match self {
            Self::Userspace(carrier) => Counting::Workers(carrier.queues()),
            Self::InKernel(_) => Counting::Programs(Box::new(programs.flows()?)),
        })
    }

    /// The underlay's device as it is shown.
    pub(super) fn nic(&self) -> ShownDevice {
        match self {
            Self::Userspace(carrier) => carrier.nic(),
            Self::InKernel(carrier) => carrier.nic(),
        }
    }

    /// Waits until it cannot go on.
    pub(super) async fn lost(&mut self) -> EngineError {
        match self {
            Self::Userspace(carrier) => carrier.lost().await,
            Self::InKernel(_) => std::future::pending().await,
        }
    }

    /// Takes everything off; no frame is redirected any more.
    pub(super) async fn stop(self, ports: Vec<ServedPort>) {
        match self {
            Self::Userspace(carrier) => carrier.stop(ports).await,
            Self::InKernel(carrier) => carrier.stop(ports).await,
        }
    }
}
