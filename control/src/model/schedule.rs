//! Decides when the next reconciliation runs: soon after a change, never two at once, later after failures.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Wait between a notification and the reconciliation it causes.
///
/// One `ip link del` or `ip netns del` makes dozens of notifications within a few milliseconds; this lets
/// them come in together.
/// Shorter repairs half of an operator's change while the other half is still being typed by a script;
/// longer adds to every outage.
pub const DEBOUNCE: Duration = Duration::from_millis(30);

/// Time between two reconciliations that nothing asked for.
///
/// Most drift is notified; this finds the rest (an address that somebody removed inside a container).
pub const AUDIT: Duration = Duration::from_secs(10);

/// An audit may use this fraction of the time: with a million rows a look at all of them takes seconds.
const AUDIT_SHARE: u32 = 20;

/// First wait after a failure; it doubles with each further one.
pub const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Longest wait between two attempts.
pub const LAST_RETRY: Duration = Duration::from_secs(10);

/// Passes in a row that found something to change before we suspect that somebody keeps undoing it.
///
/// Our own changes are notified back to us and cause one more pass, which finds nothing: two is normal.
const STUBBORN: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Due(Duration),
    Running,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Reconciliations that ended.
    pub passes: u64,
    /// Of these, the ones that changed something.
    pub changed: u64,
    /// Of these, the ones that failed.
    pub failed: u64,
    /// Duration of the last one, in microseconds.
    pub last_us: u64,
}

/// How a reconciliation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All was as it should be.
    Unchanged,
    /// Something was put right.
    Changed,
    /// A step failed.
    Failed,
}

/// The state of reconciliation, without the reconciliation. Times are since the daemon's start.
#[derive(Debug)]
pub struct Schedule {
    phase: Phase,
    again: bool,
    failures: u32,
    changes: u32,
    audit: Duration,
    started: Duration,
    took: Duration,
    /// What happened so far.
    pub counters: Counters,
}

impl Schedule {
    /// The first reconciliation is due at `now`.
    pub fn new(now: Duration) -> Self {
        Self {
            phase: Phase::Due(now),
            again: false,
            failures: 0,
            changes: 0,
            audit: now + AUDIT,
            started: now,
            took: Duration::ZERO,
            counters: Counters::default(),
        }
    }

    /// Something changed. A reconciliation that waits out a failure is not hurried: what it did and undid
    /// was notified, too.
    pub fn want(&mut self, now: Duration) {
        match self.phase {
            Phase::Running => self.again = true,
            Phase::Idle => self.phase = Phase::Due(now + self.pause()),
            Phase::Due(_) => {}
        }
    }

    /// An operator changed what is wanted, which may be the cure: the next one runs at once.
    pub fn hurry(&mut self, now: Duration) {
        self.failures = 0;
        self.changes = 0;
        match self.phase {
            Phase::Running => self.again = true,
            Phase::Idle | Phase::Due(_) => self.phase = Phase::Due(now),
        }
    }

    /// Whether a reconciliation is to be started now. If so, it counts as running.
    #[must_use]
    pub fn start(&mut self, now: Duration) -> bool {
        let due = match self.phase {
            Phase::Running => false,
            Phase::Due(at) => at <= now,
            Phase::Idle => self.audit <= now,
        };
        if due {
            self.phase = Phase::Running;
            self.again = false;
            self.started = now;
        }
        due
    }

    /// The running reconciliation ended.
    pub fn end(&mut self, now: Duration, how: Ended) {
        self.took = now.saturating_sub(self.started);
        self.audit = now + AUDIT.max(self.took * AUDIT_SHARE);
        self.counters.passes += 1;
        self.counters.last_us = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX);
        match how {
            Ended::Unchanged => {
                (self.failures, self.changes) = (0, 0);
                self.phase = if self.again { Phase::Due(now + self.pause()) } else { Phase::Idle };
            }
            Ended::Changed => {
                self.counters.changed += 1;
                self.failures = 0;
                self.changes += 1;
                self.phase = Phase::Due(now + retry(self.changes.saturating_sub(STUBBORN)).max(self.pause()));
            }
            Ended::Failed => {
                self.counters.failed += 1;
                self.failures += 1;
                self.phase = Phase::Due(now + retry(self.failures));
            }
        }
    }

    /// Not before a change has come in whole, and with as much rest as work.
    fn pause(&self) -> Duration {
        DEBOUNCE.max(self.took)
    }

    /// When [`Schedule::start`] should be asked next; `None` while one is running.
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Running => None,
            Phase::Due(at) => Some(at),
            Phase::Idle => Some(self.audit),
        }
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether nothing is known to be amiss.
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Whether somebody keeps undoing what we do.
    pub fn is_contested(&self) -> bool {
        self.changes > STUBBORN
    }
}

/// Wait before attempt `nth` + 1; none before the first.
fn retry(nth: u32) -> Duration {
    match nth {
        0 => Duration::ZERO,
        _ => LAST_RETRY.min(FIRST_RETRY * 2u32.saturating_pow((nth - 1).min(16))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(100);
    const MS: Duration = Duration::from_millis(1);

    fn idle() -> Schedule {
        let mut schedule = Schedule::new(T);
        assert!(schedule.start(T));
        schedule.end(T, Ended::Unchanged);
        schedule
    }

    #[test]
    fn the_first_one_is_due_at_once_and_never_runs_twice() {
        let mut schedule = Schedule::new(T);
        assert!(schedule.start(T));
        assert!(!schedule.start(T + AUDIT * 2));
        assert_eq!(schedule.deadline(), None);
    }

    #[test]
    fn many_changes_cause_one_reconciliation() {
        let mut schedule = idle();
        for n in 0..1000 {
            schedule.want(T + MS * n / 100);
        }
        assert_eq!(schedule.deadline(), Some(T + DEBOUNCE));
        assert!(!schedule.start(T + DEBOUNCE - MS));
        assert!(schedule.start(T + DEBOUNCE));
    }

    #[test]
    fn a_change_during_a_reconciliation_causes_another() {
        let mut schedule = Schedule::new(T);
        assert!(schedule.start(T));
        schedule.want(T);
        schedule.end(T + MS, Ended::Unchanged);
        assert_eq!(schedule.deadline(), Some(T + MS + DEBOUNCE));
    }

    #[test]
    fn our_own_echo_ends_after_one_more_pass() {
        let mut schedule = Schedule::new(T);
        assert!(schedule.start(T));
        schedule.want(T);
        schedule.end(T, Ended::Changed);
        assert!(schedule.start(T + DEBOUNCE));
        schedule.end(T + DEBOUNCE, Ended::Unchanged);
        assert_eq!(schedule.deadline(), Some(T + DEBOUNCE + AUDIT));
    }

    #[test]
    fn failures_wait_longer_each_time_and_at_most_ten_seconds() {
        let mut schedule = Schedule::new(T);
        let (mut now, mut waits) = (T, Vec::new());
        for _ in 0..12 {
            assert!(schedule.start(now));
            schedule.end(now, Ended::Failed);
            // What the failed attempt did is notified, too.
            schedule.want(now);
            let next = schedule.deadline().expect("a retry");
            waits.push(next - now);
            now = next;
        }
        assert_eq!(waits[..3], [FIRST_RETRY, FIRST_RETRY * 2, FIRST_RETRY * 4]);
        assert_eq!(waits.last(), Some(&LAST_RETRY));
        assert_eq!(schedule.failures(), 12);
    }

    #[test]
    fn who_is_always_undone_slows_down() {
        let mut schedule = Schedule::new(T);
        let mut now = T;
        for _ in 0..20 {
            assert!(schedule.start(now));
            schedule.end(now, Ended::Changed);
            now = schedule.deadline().expect("another pass");
        }
        assert!(schedule.is_contested());
        assert!(schedule.start(now));
        schedule.end(now, Ended::Changed);
        assert_eq!(schedule.deadline(), Some(now + LAST_RETRY));
    }

    #[test]
    fn an_operator_need_not_wait_for_the_next_retry() {
        let mut schedule = Schedule::new(T);
        for n in 1..10 {
            assert!(schedule.start(T + LAST_RETRY * n));
            schedule.end(T + LAST_RETRY * n, Ended::Failed);
        }
        let now = T + LAST_RETRY * 9;
        schedule.hurry(now);
        assert!(schedule.start(now));
    }

    #[test]
    fn a_slow_audit_is_a_rare_one() {
        let mut schedule = idle();
        assert!(schedule.start(T + AUDIT));
        let end = T + AUDIT + Duration::from_secs(3);
        schedule.end(end, Ended::Unchanged);
        assert_eq!(schedule.deadline(), Some(end + Duration::from_secs(60)));
    }
}
