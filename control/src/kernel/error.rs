//! What can go wrong with the kernel overlay, said so that the reader knows what to do.

use std::fmt;

use nix::errno::Errno;

use super::ledger::LedgerError;
use super::netlink::Refusal;
use super::place::{LinkAt, Place};
use super::step::Step;

/// Why the overlay could not be observed, built or removed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A namespace could not be looked at.
    #[error("cannot look into {place}: {refusal}")]
    Observe {
        /// Which.
        place: Place,
        /// The answer.
        refusal: Refusal,
    },
    /// The configuration does not fit what stands on the host; nothing was touched.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A step failed; what the call had made was taken back.
    #[error(transparent)]
    Step(Box<Failure>),
    /// Some removals failed; the others were done, and these stay in the ledger for the next attempt.
    #[error("could not remove everything: {}", list(.0))]
    Down(Vec<Failure>),
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A device's name is taken.
    #[error(
        "{at} is {found}, not {wanted}; rename or remove it, or choose another name in the configuration"
    )]
    Taken {
        /// The device.
        at: LinkAt,
        /// What it is.
        found: String,
        /// What the configuration wants there.
        wanted: String,
    },
    /// The name under `/run/netns` is taken by something that is not a namespace.
    #[error("/run/netns/{name} is a plain file, not a namespace; remove it")]
    NotANamespace {
        /// File name.
        name: String,
    },
}

/// A step that failed.
#[derive(Debug)]
pub struct Failure {
    /// Which.
    pub step: Step,
    /// What the kernel answered.
    pub refusal: Refusal,
    /// Steps whose undo failed as well, each with the answer: what they made still stands, and is in the
    /// ledger.
    pub left_behind: Vec<(Step, Refusal)>,
}

impl Failure {
    pub(super) fn new(step: &Step, refusal: Refusal) -> Self {
        Self { step: step.clone(), refusal, left_behind: Vec::new() }
    }
}

impl From<Failure> for KernelError {
    fn from(failure: Failure) -> Self {
        Self::Step(Box::new(failure))
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.step, self.refusal)?;
        if let Some(advice) = advice(&self.step, &self.refusal) {
            write!(f, "; {advice}")?;
        }
        for (step, refusal) in &self.left_behind {
            write!(f, "; could not undo “{step}” either: {refusal}")?;
        }
        Ok(())
    }
}

/// What to try, where the answer alone does not tell.
fn advice(step: &Step, refusal: &Refusal) -> Option<&'static str> {
    let is = |errno| refusal.is(errno);
    Some(match step {
        _ if is(Errno::EPERM) || is(Errno::EACCES) => {
            "run it as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
        }
        Step::CreateVxlan { .. } if is(Errno::EEXIST) => {
            "another vxlan device made in the underlay's namespace has this VNI and port, perhaps moved into \
             another namespace since; find it with `ip -d link show type vxlan` in each"
        }
        Step::CreateVxlan { .. } if is(Errno::EADDRINUSE) => {
            "another program or tunnel holds this UDP port; find it with `ss -ulpn`, or choose another port"
        }
        Step::CreateVxlan { .. } | Step::CreateBridge { .. } | Step::CreateVeth { .. }
            if is(Errno::EOPNOTSUPP) =>
        {
            "the kernel has no driver for this kind of device; load the module vxlan, bridge or veth"
        }
        Step::CreateVeth { .. } | Step::CreateBridge { .. } if is(Errno::EEXIST) => {
            "somebody else made a device of this name a moment ago; run again"
        }
        Step::AddAddress { .. } if is(Errno::EACCES) || is(Errno::EADDRNOTAVAIL) => {
            "for an IPv6 address, see whether net.ipv6.conf.*.disable_ipv6 is set in that namespace"
        }
        Step::SetMtu { .. } if is(Errno::EINVAL) => "the device does not allow this MTU; see `ip -d link`",
        _ if is(Errno::ENODEV) || is(Errno::ENOENT) || is(Errno::ESRCH) => {
            "it vanished while this was running; run again"
        }
        _ => return None,
    })
}

fn list(failures: &[Failure]) -> String {
    failures.iter().map(Failure::to_string).collect::<Vec<_>>().join("; ")
}
