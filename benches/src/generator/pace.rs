//! Sending at a rate: bursts, and sleep between them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Pace, Sent};

/// Time between two bursts.
///
/// A sleeping generator leaves its core to the path that is measured; the price is that frames come in
/// bursts (of 50 at 0.2 Mpps). Shorter costs wake-ups and a system call each; longer makes bursts that
/// overflow queues of 256.
pub(super) const INTERVAL: Duration = Duration::from_micros(250);

/// How far a generator that was kept from running may lag and still catch up. A rate that cannot be kept is
/// reported as what was sent, instead of ending in one long burst.
pub(super) const DEBT: Duration = Duration::from_millis(5);

/// Frames that a burst has at most; the next one follows at once if more are due.
const LONGEST: u32 = 256;

/// Sends for `duration` with `burst`, which sends as many frames as it is told and gives their number.
pub(super) fn run(pace: Pace, duration: Duration, mut burst: impl FnMut(u32) -> Result<u64>) -> Result<Sent> {
    // 50 µs by default: a fifth of the interval.
    nix::sys::prctl::set_timerslack(1)?;
    let start = Instant::now();
    let mut schedule = Schedule::new(pace);
    let mut frames = 0;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= duration {
            return Ok(Sent { frames, elapsed });
        }
        if vxdp_lab::interrupted() {
            bail!("interrupted");
        }
        match schedule.due(elapsed) {
            0 => std::thread::sleep(INTERVAL.min(duration - elapsed)),
            due => {
                let sent = burst(due)?;
                schedule.sent(sent);
                frames += sent;
            }
        }
    }
}

/// How many frames are due.
struct Schedule {
    pace: Pace,
    /// Frames sent, or forgiven because they would have come too late.
    done: f64,
}

impl Schedule {
    fn new(pace: Pace) -> Self {
        Self { pace, done: 0.0 }
    }

    /// Frames due `elapsed` after the start.
    fn due(&mut self, elapsed: Duration) -> u32 {
        let Pace::Rate(rate) = self.pace else { return LONGEST };
        let should = rate * elapsed.as_secs_f64();
        self.done = self.done.max(should - rate * DEBT.as_secs_f64());
        ((should - self.done) as u32).min(LONGEST)
    }

    fn sent(&mut self, frames: u64) {
        self.done += frames as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_over_time() {
        let mut schedule = Schedule::new(Pace::Rate(100_000.0));
        let mut total = 0;
        for step in 1..=1000 {
            let due = schedule.due(Duration::from_micros(250) * step);
            schedule.sent(due.into());
            total += due;
        }
        assert_eq!(total, 25_000);
    }

    #[test]
    fn what_came_too_late_is_forgiven() {
        let mut schedule = Schedule::new(Pace::Rate(100_000.0));
        let mut caught_up = 0;
        loop {
            let due = schedule.due(Duration::from_secs(1));
            if due == 0 {
                break;
            }
            schedule.sent(due.into());
            caught_up += due;
        }
        assert_eq!(caught_up, 500);
    }

    #[test]
    fn a_burst_is_never_too_long() {
        assert_eq!(Schedule::new(Pace::Rate(1e9)).due(Duration::from_secs(1)), LONGEST);
        assert_eq!(Schedule::new(Pace::Flat).due(Duration::ZERO), LONGEST);
    }
}
