//! When tables that we lost track of are read: once the storm is over that took the notifications.
//!
//! The kernel puts the rows of a dump together under the lock (RTNL) that whoever writes rows needs as well, so that
//! a large table read in the middle of a storm draws the storm out: of a million rows being loaded, some hundred a
//! second came through. What is known meanwhile stays in use, and the kernel carries the rest.

use std::time::Duration;

use tokio::time::Instant;

/// A storm is over when nothing was heard of the namespace for so long.
const CALM: Duration = Duration::from_millis(50);

/// The end of a storm is waited for as long as a reading takes, so that readings take half of the time at most, and
/// no shorter and no longer than this.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long a reading of so many rows takes, about: 10 s for 200,000, a minute for 500,000. The kernel begins each of
/// its messages at the head of the table and counts its way forward.
pub(super) fn reading_of(rows: usize) -> Duration {
    let rows = rows as u64;
    Duration::from_nanos(rows.saturating_mul(rows) / 4)
}

/// When a reading is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// If nothing more is heard.
    pub(super) at: Instant,
    /// Whatever is heard.
    latest: Instant,
}

impl Due {
    /// As soon as the storm is over; the reading will take so long.
    pub(super) fn after_storm(now: Instant, takes: Duration) -> Self {
        let (shortest, longest) = PATIENCE;
        Self { at: now + CALM, latest: now + takes.clamp(shortest, longest) }
    }

    /// At once.
    pub(super) fn now(now: Instant) -> Self {
        Self { at: now, latest: now }
    }

    /// Something was heard.
    pub(super) fn heard(&mut self, now: Instant) {
        self.at = self.at.max((now + CALM).min(self.latest));
    }

    /// Whether it is due; if notices wait that nobody has heard yet, it is not `calm`.
    pub(super) fn is(self, now: Instant, calm: bool) -> bool {
        now >= self.latest || calm && now >= self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// When a reading begins if something is heard each `gap`, for an hour.
    fn begins_after(takes: Duration, gap: Duration) -> Duration {
        let begun = Instant::now();
        let mut due = Due::after_storm(begun, takes);
        let mut now = begun;
        while now < due.at {
            now += gap;
            if now < due.at {
                due.heard(now);
            }
        }
        due.at - begun
    }

    #[test]
    fn tables_are_read_when_it_has_become_calm() {
        let begun = Instant::now();
        let mut due = Due::after_storm(begun, Duration::ZERO);
        assert_eq!(due.at, begun + CALM);
        due.heard(begun + 40 * MS);
        assert_eq!(due.at, begun + 40 * MS + CALM);
        assert!(due.is(due.at, true) && !due.is(due.at, false) && !due.is(due.at - MS, true));
    }

    #[test]
    fn a_storm_without_an_end_puts_a_reading_off_for_as_long_as_it_takes() {
        let second = Duration::from_secs(1);
        assert_eq!(begins_after(Duration::ZERO, 5 * MS), second);
        assert_eq!(begins_after(7 * second, 5 * MS), 7 * second);
        assert_eq!(begins_after(600 * second, 5 * MS), 30 * second);
        assert_eq!(begins_after(7 * second, 60 * MS), CALM);
        assert_eq!(begins_after(reading_of(200_000), 5 * MS), 10 * second);
    }

    #[test]
    fn what_is_due_at_once_is_not_put_off() {
        let begun = Instant::now();
        let mut due = Due::now(begun);
        due.heard(begun + MS);
        assert!(due.is(begun, false));
    }
}
