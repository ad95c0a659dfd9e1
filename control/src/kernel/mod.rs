//! The kernel overlay: namespaces, bridges, vxlan devices, veths and rows, built by reconciliation.
//!
//! ```text
//!  Config, containers ──▶ desired ─┐
//!  netlink dumps ───────▶ observed ┼─▶ plan ──▶ steps ──▶ execute ──▶ netlink
//!  /run/vxdp/vxdp.ledger ─▶ ledger ┘   (pure)     │
//!                             ▲                   │
//!                             └── written first ──┘
//! ```
//!
//! What stands already and fits is adopted: used, repaired, never removed.
//! Only what the [`ledger`] names is removed, by [`Kernel::down`] or because the configuration changed.

pub mod desired;
mod error;
mod execute;
pub mod ledger;
mod message;
mod namespace;
pub(crate) mod netlink;
mod observe;
pub mod observed;
pub mod place;
pub mod plan;
pub mod step;
pub mod vxlan;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;

use self::desired::{Desired, Row, UnderlayFacts};
pub use self::error::{Failure, KernelError, PlanError};
use self::execute::Executor;
use self::ledger::{Entry, Ledger, LedgerError};
pub use self::netlink::Refusal;
use self::observed::Observed;
use self::place::{LinkAt, Place};
pub(crate) use self::place::{as_text, as_texts};
pub use self::plan::{Note, Plan, plan};
use self::step::Step;
use crate::config;
use crate::netns::Netns;

/// Rows sent to the kernel before the first answer is read. Fewer: each costs a round trip of the task
/// that drives the socket. More: the answers overflow the socket's receive buffer (about 270 fit).
const ROWS_AT_ONCE: usize = 64;

/// Called before each step; see [`Kernel::before_each_step`].
type Hook = Box<dyn FnMut(&Step) -> io::Result<()> + Send>;

/// The kernel overlay of one host, and the record of what we made of it.
pub struct Kernel {
    host: Netns,
    ledger: Ledger,
    hook: Option<Hook>,
}

/// What a call did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Changes made, in order; empty if everything was as it should be.
    pub steps: Vec<Step>,
    /// Things left as they are, though not as configured.
    pub notes: Vec<Note>,
}

impl Kernel {
    /// Opens the overlay of the host whose underlay is in the namespace `host`.
    pub async fn open(host: Netns, ledger_path: &Path) -> Result<Self, KernelError> {
        Ok(Self { host, ledger: Ledger::open(ledger_path)?, hook: None })
    }

    /// What this configuration has created and not yet removed.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Has `hook` called before each step, to tell somebody what comes next. If it returns an error, the
    /// step counts as failed with that error: so it can stop the work, and tests can make any step fail.
    pub fn before_each_step(&mut self, hook: impl FnMut(&Step) -> io::Result<()> + Send + 'static) {
        self.hook = Some(Box::new(hook));
    }

    /// Looks at everything that `desired` and the ledger name. Changes nothing.
    pub async fn observe(&mut self, desired: &Desired) -> Result<Observed, KernelError> {
        observe::observe(desired, self.ledger.created()).await
    }

    /// Makes the host look as desired; when it returns, new ports carry frames.
    ///
    /// On failure what this call created is removed again and what it changed is changed back, newest
    /// first; removals of what was not wanted any more stay.
    pub async fn reconcile(&mut self, desired: &Desired) -> Result<Report, KernelError> {
        let observed = self.observe(desired).await?;
        self.ledger.forget_gone(&observed)?;
        let Plan { steps, notes } = plan(desired, &observed, &self.ledger)?;
        let mut executor = Executor::new(self.host.clone(), &observed);
        self.carry_out(&mut executor, &steps).await?;
        executor.wait_for_carriers(&steps).await;
        Ok(Report { steps, notes })
    }

    /// Removes exactly what the ledger names. A second call finds nothing to do.
    ///
    /// What cannot be removed stays in the ledger, and the rest is removed all the same.
    pub async fn down(&mut self) -> Result<Report, KernelError> {
        let local = IpAddr::from([0, 0, 0, 0]);
        let underlay = UnderlayFacts { ifindex: 0, mtu: 0, local };
        let nothing = Desired { host: self.host.clone(), underlay, queues: 1, overlays: Vec::new() };
        let observed = self.observe(&nothing).await?;
        self.ledger.forget_gone(&observed)?;
        let Plan { steps, notes } = plan(&nothing, &observed, &self.ledger)?;
        let mut executor = Executor::new(self.host.clone(), &observed);
        let mut done = Vec::new();
        let mut failures = Vec::new();
        let mut rest = steps.as_slice();
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(batch_length(rest));
            rest = behind;
            for (step, outcome) in batch.iter().zip(self.perform(&mut executor, batch).await) {
                match outcome {
                    Ok(()) => done.push(step.clone()),
                    Err(refusal) => failures.push(Failure::new(step, refusal)),
                }
            }
        }
        if failures.is_empty() { Ok(Report { steps: done, notes }) } else { Err(KernelError::Down(failures)) }
    }

    /// Adds rows to a standing overlay without looking at the rest: for misses and for the API.
    /// A row that stands with another value is replaced.
    pub async fn install(&mut self, overlay: &config::Overlay, rows: &[Row]) -> Result<Report, KernelError> {
        let at = Arc::new(vxlan_of(overlay));
        let tunnel = (overlay.vni, overlay.port);
        let add = |&row: &Row| Step::AddRow { at: at.clone(), tunnel, row, was: None };
        self.carry_out_rows(rows.iter().map(add).collect()).await
    }

    /// Removes rows from a standing overlay, whoever added them. A row that is not there is a success.
    pub async fn remove_rows(
        &mut self,
        overlay: &config::Overlay,
        rows: &[Row],
    ) -> Result<Report, KernelError> {
        let at = Arc::new(vxlan_of(overlay));
        let tunnel = (overlay.vni, overlay.port);
        let remove = |&row: &Row| Step::RemoveRow { at: at.clone(), tunnel, row };
        self.carry_out_rows(rows.iter().map(remove).collect()).await
    }

    async fn carry_out_rows(&mut self, steps: Vec<Step>) -> Result<Report, KernelError> {
        let mut executor = Executor::new(self.host.clone(), &Observed::default());
        self.carry_out(&mut executor, &steps).await?;
        Ok(Report { steps, notes: Vec::new() })
    }

    /// Does the steps, or none of them.
    async fn carry_out(&mut self, executor: &mut Executor, steps: &[Step]) -> Result<(), KernelError> {
        let mut done: Vec<&Step> = Vec::new();
        let replaced = steps.iter().filter_map(Step::removes);
        let ours: HashSet<Entry> = replaced.filter(|entry| self.ledger.created().has(entry)).collect();
        let mut rest = steps;
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(batch_length(rest));
            rest = behind;
            let mut failed = None;
            for (step, outcome) in batch.iter().zip(self.perform(executor, batch).await) {
                match outcome {
                    Ok(()) => done.push(step),
                    Err(refusal) => failed = failed.or(Some(Failure::new(step, refusal))),
                }
            }
            if let Some(mut failure) = failed {
                failure.left_behind = self.undo(executor, &done, &ours).await;
                return Err(failure.into());
            }
        }
        Ok(())
    }

    /// Does a batch: the ledger first, then the kernel, then the ledger again for what has become of it.
    /// One outcome for each step, up to the first that was stopped before it began.
    async fn perform(&mut self, executor: &mut Executor, batch: &[Step]) -> Vec<Result<(), Refusal>> {
        let mut outcomes: Vec<Result<(), Refusal>> = Vec::with_capacity(batch.len());
        for step in batch {
            outcomes.push(self.hook.as_mut().map_or(Ok(()), |hook| hook(step).map_err(Refusal::from)));
        }
        let go = outcomes.iter().position(Result::is_err).unwrap_or(batch.len());
        outcomes.truncate(go + 1);
        let created = batch[..go].iter().flat_map(Step::creates);
        let new: Vec<Entry> = created.filter(|entry| !self.ledger.created().has(entry)).collect();
        if let Err(error) = self.ledger.add(&new) {
            return vec![Err(error.into())];
        }
        match &batch[..go] {
            [] => {}
            [step] if !step.is_row() => outcomes[0] = executor.perform(step).await,
            rows => {
                let answers = executor.perform_rows(rows).await;
                outcomes.splice(..go, answers);
            }
        }
        if let Err(error) = self.settle(executor, batch, &outcomes, &new).await {
            // The ledger names something that is gone, or does not know an index: both are allowed for.
            warn!(%error, "the ledger is behind");
        }
        outcomes
    }

    /// Brings the ledger up to date with what the steps have done.
    async fn settle(
        &mut self,
        executor: &mut Executor,
        batch: &[Step],
        outcomes: &[Result<(), Refusal>],
        new: &[Entry],
    ) -> Result<(), LedgerError> {
        let mut known = Vec::new();
        let mut gone = Vec::new();
        for (step, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                Ok(()) => {
                    gone.extend(step.removes());
                    for entry in step.creates() {
                        known.extend(identified(executor, entry).await);
                    }
                }
                Err(_) => gone.extend(step.creates().into_iter().filter(|entry| new.contains(entry))),
            }
        }
        self.ledger.add(&known)?;
        self.ledger.remove(&gone)
    }

    /// Takes steps back, newest first; returns those that could not be. Of the rows that were replaced
    /// and now come back, `ours` were in the ledger before.
    async fn undo(
        &mut self,
        executor: &mut Executor,
        done: &[&Step],
        ours: &HashSet<Entry>,
    ) -> Vec<(Step, Refusal)> {
        let hook = self.hook.take();
        let made: HashSet<&LinkAt> = done.iter().flat_map(|step| step.made()).collect();
        let mut left_behind = Vec::new();
        let mut gone = Vec::new();
        for step in done.iter().rev() {
            if step.made().is_empty() && step.link().is_some_and(|at| made.contains(at)) {
                gone.extend(step.creates());
                continue;
            }
            let Some(back) = step.undo() else { continue };
            let outcomes = self.perform(executor, std::slice::from_ref(&back)).await;
            match outcomes.into_iter().next() {
                Some(Err(refusal)) => left_behind.push((back, refusal)),
                _ => {
                    gone.extend(step.creates());
                    gone.extend(back.creates().into_iter().filter(|entry| !ours.contains(entry)));
                }
            }
        }
        if let Err(error) = self.ledger.remove(&gone) {
            warn!(%error, "the ledger is behind");
        }
        self.hook = hook;
        left_behind
    }
}

/// The entry with the identity of what was made, which is known only now.
async fn identified(executor: &mut Executor, entry: Entry) -> Option<Entry> {
    match entry {
        Entry::Netns { name, .. } => {
            let inode = executor.inode(&Place::Named(name.clone())).ok();
            Some(Entry::Netns { name, inode })
        }
        Entry::Link { at, .. } => {
            let index = executor.index(&at).await.ok();
            Some(Entry::Link { at, index })
        }
        Entry::Address { .. } | Entry::Row { .. } => None,
    }
}

/// How many of the steps are done at once: one, or a run of rows.
fn batch_length(steps: &[Step]) -> usize {
    let rows = steps.iter().take(ROWS_AT_ONCE).take_while(|step| step.is_row()).count();
    rows.max(1)
}

/// The overlay's vxlan device.
pub(crate) fn vxlan_of(overlay: &config::Overlay) -> LinkAt {
    LinkAt::new(&Place::Named(overlay.netns.to_string()), &overlay.vxlan)
}
