//! The daemon's decisions: events in, a state, changes out. No I/O, no clock: time is part of an event.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use vxdp_dataplane::wire::MacAddr;

use crate::api::status::{RowStatus, Status};
use crate::api::{Answer as Reply, Request};
use crate::capture::Wanted;
use crate::config::{Config, Engine, Mode};
use crate::kernel::desired::Row;
use crate::misses::{Answer, Missed, Misses, Verdict};
use crate::segment::Segment;

pub mod remembered;
mod request;
pub mod say;
pub mod schedule;
mod status;
pub mod trouble;

use remembered::Remembered;
use say::Say;
use schedule::{Ended, Schedule};
use trouble::Troubles;

/// Answers to misses that may be on their way to the kernel at one time.
///
/// The kernel takes some ten thousand rows per second, so this many are there within a tenth of a second.
/// Fewer make a burst of new remotes wait for the next frame to each; more only wait longer in a queue.
const ANSWERS_UNDER_WAY: usize = 1024;

/// One client's question, until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The kernel reported changes in a namespace of ours.
    Noticed(Noticed),
    /// The kernel dropped such reports.
    Overflowed,
    /// A container's namespace, or an overlay's, came, went or was replaced.
    PlacesChanged,
    /// The kernel missed these.
    Missed(Vec<(Segment, Missed)>),
    /// The kernel dropped misses.
    MissesOverflowed,
    /// A reconciliation ended.
    Reconciled(Outcome),
    /// Answers to misses were written, or not.
    Installed {
        /// In this overlay.
        segment: Segment,
        /// These.
        answers: Vec<Answer>,
        /// Or this went wrong.
        error: Option<String>,
    },
    /// A client asks.
    Asked(Client, Request),
    /// Rows that a client asked for were read, or not.
    Shown(Client, Result<Vec<SeenRow>, String>),
    /// A write that a client asked for ended.
    Written(Client, Result<(), String>),
    /// The operator wants the configuration read again.
    Reload,
    /// It was read again.
    Loaded(Result<Arc<Config>, String>),
    /// The operator wants us to stop.
    Stop,
}

/// A row of the kernel's tables, and what a configuration would call it.
pub type SeenRow = (RowStatus, Option<Row>);

/// Changes in a namespace, as far as they may concern us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Noticed {
    /// Links or addresses changed.
    pub links: bool,
    /// Rows of vxlan devices of ours changed, or rows of bridges that point at those.
    pub macs: Vec<MacAddr>,
    /// Neighbours on vxlan devices of ours changed.
    pub addresses: Vec<IpAddr>,
}

/// How a reconciliation ended, and what it saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// What was done, in the order in which it was done.
    pub done: Vec<String>,
    /// What went wrong; then what was done has been undone.
    pub error: Option<String>,
    /// MTU of the underlay, in bytes.
    pub underlay_mtu: Option<u32>,
    /// Why a container could not be found, by overlay and device on the bridge. The others are attached.
    pub away: BTreeMap<(Segment, String), String>,
    /// What an operator should know although it worked.
    pub warnings: Vec<String>,
}

/// What the world should do.
#[derive(Debug)]
pub enum Change {
    /// Reconcile the kernel with this, and report [`Event::Reconciled`].
    Reconcile(Arc<Config>, Vec<(Segment, Vec<Row>)>),
    /// Write answers to misses, and report [`Event::Installed`].
    Install(Segment, Vec<Answer>),
    /// Write rows for a client, and report [`Event::Written`].
    Write(Client, Segment, Vec<Row>),
    /// Remove rows for a client, and report [`Event::Written`].
    Remove(Client, Segment, Vec<Row>),
    /// Remove what the kernel learned about a MAC for a client, and report [`Event::Written`].
    Forget(Client, Segment, MacAddr),
    /// Read rows for a client, of these MACs or of all, and report [`Event::Shown`].
    Show(Client, Vec<Segment>, Vec<MacAddr>),
    /// Note on disk what `fdb add` and `fdb del` did, so that a later daemon knows.
    Note(remembered::Note),
    /// Answer a client with this, once what is known of the modes has been added.
    Status(Client, Box<Status>),
    /// Change the mode of the overlays with this VNI, or of all, for a client.
    Mode(Client, Option<u32>, Mode, Option<Engine>),
    /// Show a client the frames that userspace carries.
    Capture(Client, Wanted),
    /// Answer a client.
    Reply(Client, Reply),
    /// Read the configuration again, and report [`Event::Loaded`].
    Load,
    /// Log.
    Log(Say),
    /// Stop.
    Stop(Ending),
}

/// Why the daemon stops, and who waits for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A signal; the overlay goes on forwarding.
    Told,
    /// A client wants everything removed.
    Removing(Client),
    /// Another daemon takes over; the overlay goes on forwarding.
    HandingOver(Client),
}

/// All that the daemon knows.
#[derive(Debug)]
pub struct State {
    config: Arc<Config>,
    schedule: Schedule,
    misses: Misses,
    remembered: Remembered,
    writing: BTreeMap<Client, request::Undo>,
    answers_under_way: usize,
    notifications: u64,
    overflows: u64,
    seen: Outcome,
    troubles: Troubles,
    stopping: bool,
}

impl State {
    /// The state of a daemon that starts at time zero and has built what `first` says.
    pub fn new(config: Arc<Config>, remembered: Remembered, first: Outcome) -> Self {
        let mut schedule = Schedule::new(Duration::ZERO);
        // The caller's own first pass; another one follows once the kernel's notifications are watched,
        // because what happened in between was seen by neither.
        let _ = schedule.start(Duration::ZERO);
        schedule.end(Duration::ZERO, Ended::Changed);
        let misses = Misses::new(&config.overlays);
        Self {
            config,
            schedule,
            misses,
            remembered,
            writing: BTreeMap::new(),
            answers_under_way: 0,
            notifications: 0,
            overflows: 0,
            seen: first,
            troubles: Troubles::default(),
            stopping: false,
        }
    }

    /// When the next [`Event::Tick`] is of use.
    pub fn deadline(&self) -> Option<Duration> {
        self.schedule.deadline().filter(|_| !self.stopping)
    }

    /// The configuration in force.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Rows that are wanted beside the static ones.
    pub fn remembered(&self) -> &Remembered {
        &self.remembered
    }
}

/// Takes one event into account. `now` is the time since the daemon's start.
pub fn apply(state: &mut State, now: Duration, event: Event) -> Vec<Change> {
    let mut changes = Vec::new();
    match event {
        Event::Tick => {}
        Event::Noticed(noticed) => notice(state, now, &noticed),
        Event::Overflowed => {
            state.overflows += 1;
            state.schedule.want(now);
            changes.push(Change::Log(Say::Overflowed));
        }
        Event::PlacesChanged => state.schedule.hurry(now),
        Event::Missed(missed) => answer(state, now, missed, &mut changes),
        Event::MissesOverflowed => {
            state.misses.counters.overflows += 1;
            changes.push(Change::Log(Say::MissesOverflowed));
        }
        Event::Reconciled(outcome) => reconciled(state, now, outcome, &mut changes),
        Event::Installed { segment, answers, error } => {
            installed(state, now, segment, &answers, error, &mut changes);
        }
        Event::Asked(client, request) => request::ask(state, now, client, request, &mut changes),
        Event::Shown(client, result) => request::shown(state, client, result, &mut changes),
        Event::Written(client, result) => request::written(state, now, client, result, &mut changes),
        Event::Reload => changes.push(Change::Load),
        Event::Loaded(result) => loaded(state, now, result, &mut changes),
        Event::Stop => {
            state.stopping = true;
            changes.extend([Change::Log(Say::Stopping), Change::Stop(Ending::Told)]);
        }
    }
    if !state.stopping && state.schedule.start(now) {
        changes.push(Change::Reconcile(Arc::clone(&state.config), state.remembered.rows()));
    }
    changes
}

/// A change of somebody else's row is not worth a look at everything: learning alone makes thousands.
fn notice(state: &mut State, now: Duration, noticed: &Noticed) {
    let ours = noticed.links
        || noticed.macs.iter().any(|mac| state.wants(Missed::Mac(*mac)))
        || noticed.addresses.iter().any(|address| state.wants(Missed::Address(*address)));
    if ours {
        state.notifications += 1;
        state.schedule.want(now);
    }
}

impl State {
    /// Whether some overlay has rows for it.
    fn wants(&self, key: Missed) -> bool {
        key == Missed::Mac(MacAddr::ZERO) || self.misses.knows(key) || self.remembered.knows(key)
    }
}

fn answer(state: &mut State, now: Duration, missed: Vec<(Segment, Missed)>, changes: &mut Vec<Change>) {
    let mut batches: BTreeMap<Segment, Vec<Answer>> = BTreeMap::new();
    for (segment, missed) in missed {
        match state.misses.ask(now, segment, missed) {
            Verdict::HeldDown => {}
            Verdict::Unknown => changes.push(Change::Log(Say::UnknownMissed { segment, missed })),
            Verdict::Answer(answer) => {
                if state.answers_under_way >= ANSWERS_UNDER_WAY {
                    state.misses.counters.dropped += 1;
                    state.misses.release(segment, missed);
                    continue;
                }
                state.answers_under_way += 1;
                // Wanted from now on: a reconciliation that starts before the answer is in the kernel must
                // not take it away again.
                state.remembered.installed(segment, answer);
                batches.entry(segment).or_default().push(answer);
            }
        }
    }
    changes.extend(batches.into_iter().map(|(segment, answers)| Change::Install(segment, answers)));
}

fn installed(
    state: &mut State,
    now: Duration,
    segment: Segment,
    answers: &[Answer],
    error: Option<String>,
    changes: &mut Vec<Change>,
) {
    state.answers_under_way = state.answers_under_way.saturating_sub(answers.len());
    let Some(error) = error else {
        state.misses.counters.answered += answers.len() as u64;
        changes.extend(answers.iter().map(|answer| Change::Log(Say::Answered { segment, answer: *answer })));
        return;
    };
    state.misses.counters.failed += answers.len() as u64;
    for answer in answers {
        state.remembered.not_installed(segment, *answer);
        state.misses.release(segment, answer.missed());
    }
    state.troubles.add(now, &error);
    changes.push(Change::Log(Say::NotAnswered { segment, error }));
}

fn reconciled(state: &mut State, now: Duration, outcome: Outcome, changes: &mut Vec<Change>) {
    for warning in &outcome.warnings {
        if !state.seen.warnings.contains(warning) {
            changes.push(Change::Log(Say::Warning(warning.clone())));
        }
    }
    for ((segment, interface), reason) in &outcome.away {
        if !state.seen.away.contains_key(&(*segment, interface.clone())) {
            let (segment, interface, reason) = (*segment, interface.clone(), reason.clone());
            changes.push(Change::Log(Say::ContainerAway { segment, interface, reason }));
        }
    }
    for (segment, interface) in state.seen.away.keys() {
        if !outcome.away.contains_key(&(*segment, interface.clone())) && outcome.error.is_none() {
            changes.push(Change::Log(Say::ContainerBack { segment: *segment, interface: interface.clone() }));
        }
    }
    let how = match (&outcome.error, outcome.done.is_empty()) {
        (Some(_), _) => Ended::Failed,
        (None, true) => Ended::Unchanged,
        (None, false) => Ended::Changed,
    };
    let (was_contested, had_failed) = (state.schedule.is_contested(), state.schedule.failures() > 0);
    state.schedule.end(now, how);
    if let Some(error) = &outcome.error {
        state.troubles.add(now, error);
        let retry = state.schedule.deadline().map_or(Duration::ZERO, |at| at.saturating_sub(now));
        changes.push(Change::Log(Say::ReconcileFailed { error: error.clone(), retry }));
    } else {
        if !outcome.done.is_empty() {
            changes.push(Change::Log(Say::Repaired { steps: outcome.done.clone() }));
        }
        if had_failed {
            changes.push(Change::Log(Say::Recovered));
        }
    }
    if state.schedule.is_contested() && !was_contested {
        changes.push(Change::Log(Say::Contested));
    }
    state.seen = outcome;
}

fn loaded(state: &mut State, now: Duration, result: Result<Arc<Config>, String>, changes: &mut Vec<Change>) {
    match result {
        Ok(config) if config.control != state.config.control => {
            let error =
                "[control] cannot change while the daemon runs; stop it and start it again".to_owned();
            changes.push(Change::Log(Say::NotReloaded { error }));
        }
        Ok(config) => {
            state.misses.set_directory(&config.overlays);
            for station in state.remembered.keep_only(&config) {
                if let Some(port) = station.port {
                    let note = remembered::Note::Del { vni: station.vni, port, mac: station.mac };
                    changes.push(Change::Note(note));
                }
            }
            state.config = config;
            state.schedule.hurry(now);
            changes.push(Change::Log(Say::Reloaded));
        }
        Err(error) => changes.push(Change::Log(Say::NotReloaded { error })),
    }
}

#[cfg(test)]
pub(crate) mod tests;
