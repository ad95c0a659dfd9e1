//! RFC 2544, section 26.1: the highest rate at which nothing is lost, by bisection.

use anyhow::Result;

/// How the search goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// Ends when the bracket is narrower than this share of its upper end.
    pub resolution: f64,
    /// Share of frames that may be lost and the trial still counts as one without drops.
    pub tolerance: f64,
    /// A rate fails when this many trials in a row failed: on a machine that does other things, too, one
    /// trial fails for reasons that are not the path's.
    pub attempts: u32,
}

/// What a trial at a rate gave.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The rate that was really sent.
    pub sent_rate: f64,
    /// Share of frames lost.
    pub loss: f64,
}

/// A path that runs in the sender's own context slows the sender down instead of losing frames; a rate that
/// was missed by more than this was not carried.
const KEPT: f64 = 0.97;

impl Search {
    /// The highest rate below `limit` without drops, as it was really sent; 0 if there is none.
    pub fn run(&self, limit: f64, mut trial: impl FnMut(f64) -> Result<Outcome>) -> Result<f64> {
        let (mut low, mut high, mut best) = (0.0, limit, 0.0_f64);
        while high - low > self.resolution * limit {
            let rate = f64::midpoint(low, high);
            let mut passed = false;
            for _ in 0..self.attempts {
                let outcome = trial(rate)?;
                let lossless = outcome.loss <= self.tolerance;
                if lossless {
                    best = best.max(outcome.sent_rate);
                }
                passed = lossless && outcome.sent_rate >= KEPT * rate;
                if passed {
                    break;
                }
            }
            if passed { low = rate } else { high = rate }
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCH: Search = Search { resolution: 0.01, tolerance: 0.0, attempts: 2 };

    /// A path that carries `capacity` frames per second.
    fn path(capacity: f64) -> impl FnMut(f64) -> Result<Outcome> {
        move |rate| Ok(Outcome { sent_rate: rate, loss: (1.0 - capacity / rate).max(0.0) })
    }

    #[test]
    fn the_search_finds_where_loss_begins() {
        let found = SEARCH.run(1e6, path(317_000.0)).unwrap();
        assert!((307_000.0..=317_000.0).contains(&found), "{found}");
    }

    #[test]
    fn one_failed_trial_does_not_condemn_a_rate() {
        let (mut inner, mut count) = (path(500_000.0), 0);
        let found = SEARCH.run(1e6, |rate| {
            count += 1;
            let outcome = inner(rate)?;
            Ok(if count % 2 == 1 { Outcome { loss: 0.1, ..outcome } } else { outcome })
        });
        assert!(found.unwrap() > 480_000.0);
    }

    #[test]
    fn a_path_that_slows_the_sender_has_the_rate_it_was_slowed_to() {
        let found =
            SEARCH.run(1e6, |rate| Ok(Outcome { sent_rate: rate.min(200_000.0), loss: 0.0 })).unwrap();
        assert!((198_000.0..=200_000.0).contains(&found), "{found}");
    }

    #[test]
    fn a_path_that_always_loses_has_no_rate() {
        assert_eq!(SEARCH.run(1e6, |rate| Ok(Outcome { sent_rate: rate, loss: 0.5 })).unwrap(), 0.0);
    }

    #[test]
    fn a_tolerated_loss_is_no_drop() {
        let tolerant = Search { tolerance: 0.001, ..SEARCH };
        let found = tolerant.run(1e6, |rate| Ok(Outcome { sent_rate: rate, loss: 0.0005 })).unwrap();
        assert!(found > 980_000.0, "{found}");
    }

    #[test]
    fn an_error_ends_the_search() {
        assert!(SEARCH.run(1e6, |_| anyhow::bail!("no")).is_err());
    }
}
