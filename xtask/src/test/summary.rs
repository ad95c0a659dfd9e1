//! What the stages of a test run came to: a table, and a last line for machines.

use super::libtest::Tally;
use anyhow::Result;
use std::time::{Duration, Instant};

/// The stages so far.
#[derive(Default)]
pub(super) struct Summary {
    stages: Vec<Stage>,
}

/// One stage and what came of it.
struct Stage {
    name: &'static str,
    time: Duration,
    tally: Tally,
    /// Whether it tests (then its tally says what it did) or checks (then it counts as one).
    tests: bool,
}

impl Summary {
    /// Runs a stage that checks one thing, and says whether that was all right.
    pub(super) fn check(&mut self, name: &'static str, body: impl FnOnce() -> Result<()>) -> bool {
        let (time, result) = timed(name, body);
        let failed = u64::from(result.is_err());
        let mut tally = Tally { passed: 1 - failed, failed, ..Tally::default() };
        if let Err(error) = result {
            tally.failures.push(name.to_owned());
            println!("{name}: {error:#}");
        }
        self.stages.push(Stage { name, time, tally, tests: false });
        failed == 0
    }

    /// Runs a stage that runs tests. That it could not run them counts as one failure.
    pub(super) fn stage(&mut self, name: &'static str, body: impl FnOnce() -> Result<Tally>) {
        let (time, result) = timed(name, body);
        let tally = result.unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Tally { failed: 1, failures: vec![name.to_owned()], ..Tally::default() }
        });
        self.stages.push(Stage { name, time, tally, tests: true });
    }

    /// Notes `count` tests that were left out.
    pub(super) fn skip(&mut self, name: &'static str, count: u64) {
        let tally = Tally { skipped: count, ..Tally::default() };
        self.stages.push(Stage { name, time: Duration::ZERO, tally, tests: true });
    }

    /// Whether nothing failed and at least one test ran: a run without tests proves nothing.
    pub(super) fn is_success(&self) -> bool {
        self.total().failed == 0 && self.tests_ran() > 0
    }

    /// Prints the failures, the table and the last line.
    pub(super) fn print(&self) {
        let total = self.total();
        if !total.failures.is_empty() {
            println!("\n== failed");
            total.failures.iter().for_each(|name| println!("  {name}"));
        }
        println!("\n{:<16} {:>7} {:>7} {:>8} {:>8}", "stage", "passed", "failed", "skipped", "seconds");
        for Stage { name, time, tally, .. } in &self.stages {
            let Tally { passed, failed, skipped, .. } = tally;
            println!("{name:<16} {passed:>7} {failed:>7} {skipped:>8} {:>8.1}", time.as_secs_f64());
        }
        if self.tests_ran() == 0 {
            println!("no test ran");
        }
        println!("{}", self.last_line());
    }

    /// The line that ends a run.
    fn last_line(&self) -> String {
        let Tally { passed, mut failed, skipped, .. } = self.total();
        if failed == 0 && self.tests_ran() == 0 {
            failed = 1;
        }
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        format!("{passed} passed, {failed} failed{skipped}")
    }

    /// All stages together.
    fn total(&self) -> Tally {
        self.stages.iter().fold(Tally::default(), |sum, stage| sum + &stage.tally)
    }

    /// How many tests ran, leaving out the checks.
    fn tests_ran(&self) -> u64 {
        self.stages.iter().filter(|s| s.tests).map(|s| s.tally.passed + s.tally.failed).sum()
    }
}

/// Announces a stage, runs it, and measures how long it took.
fn timed<T>(name: &str, body: impl FnOnce() -> T) -> (Duration, T) {
    println!("\n== {name}");
    let start = Instant::now();
    let result = body();
    (start.elapsed(), result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally { passed, failed, skipped, failures: Vec::new() }
    }

    #[test]
    fn checks_count_as_one_and_tests_as_themselves() {
        let mut summary = Summary::default();
        assert!(summary.check("format", || Ok(())));
        summary.stage("tests", || Ok(tally(40, 0, 0)));
        assert_eq!(summary.last_line(), "41 passed, 0 failed");
        assert!(summary.is_success());
        summary.skip("tests as root", 3);
        assert_eq!(summary.last_line(), "41 passed, 0 failed, 3 skipped");
        assert!(!summary.check("licences", || anyhow::bail!("GPL")));
        assert_eq!(summary.last_line(), "41 passed, 1 failed, 3 skipped");
        assert!(!summary.is_success());
    }

    #[test]
    fn a_run_without_tests_is_a_failure() {
        let mut summary = Summary::default();
        summary.check("format", || Ok(()));
        summary.stage("tests", || Ok(tally(0, 0, 0)));
        assert_eq!(summary.last_line(), "1 passed, 1 failed");
        assert!(!summary.is_success());
    }

    #[test]
    fn tests_that_cannot_run_are_a_failure() {
        let mut summary = Summary::default();
        summary.stage("build tests", || anyhow::bail!("does not compile"));
        assert_eq!(summary.last_line(), "0 passed, 1 failed");
    }
}
