//! Reading the output of Rust's test harness: how many tests passed, failed and were ignored, and which failed.

use std::ops::Add;

/// What test binaries reported.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Tally {
    /// Tests that passed.
    pub(super) passed: u64,
    /// Tests that failed.
    pub(super) failed: u64,
    /// Tests that were ignored.
    pub(super) skipped: u64,
    /// The names of what failed.
    pub(super) failures: Vec<String>,
}

impl Add<&Tally> for Tally {
    type Output = Tally;

    fn add(mut self, other: &Tally) -> Tally {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend_from_slice(&other.failures);
        self
    }
}

/// Reads one binary's output line by line.
#[derive(Default)]
pub(super) struct Reader {
    tally: Tally,
    /// How many result lines came.
    results: u64,
}

impl Reader {
    /// Takes one line of output.
    pub(super) fn line(&mut self, line: &str) {
        if let Some(result) = result_line(line) {
            self.tally.passed += result.passed;
            self.tally.failed += result.failed;
            self.tally.skipped += result.skipped;
            self.results += 1;
        } else if let Some(name) = failed_test(line) {
            self.tally.failures.push(name.to_owned());
        }
    }

    /// What it came to, for the binary `name` that ended well or not.
    ///
    /// A binary that dies does not report what it had run until then, and one that reports nothing is
    /// none of Rust's test harness: both count as one failure rather than being left out.
    pub(super) fn finish(mut self, name: &str, success: bool) -> Tally {
        if self.results == 0 || (!success && self.tally.failed == 0) {
            self.tally.failed += 1;
            self.tally.failures.push(format!("{name} (ended without a result; see its output above)"));
        }
        self.tally
    }
}

/// The counts of a line like `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out`.
fn result_line(line: &str) -> Option<Tally> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let word = counts.split("; ").find_map(|part| part.strip_suffix(what))?;
        word.trim().parse::<u64>().ok()
    };
    let (passed, failed, skipped) = (count("passed")?, count("failed")?, count("ignored")?);
    Some(Tally { passed, failed, skipped, failures: Vec::new() })
}

/// The name in a line like `test table::fdb_forgets ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str, success: bool) -> Tally {
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.line(line));
        reader.finish("table", success)
    }

    #[test]
    fn counts_come_from_the_result_lines() {
        let output = "running 8 tests\ntest a ... ok\ntest b::c ... FAILED\n\nfailures:\n    b::c\n\n\
            test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.01s\n";
        let expected = Tally { passed: 5, failed: 1, skipped: 2, failures: vec!["b::c".into()] };
        assert_eq!(read(output, false), expected);
    }

    #[test]
    fn several_result_lines_add_up() {
        let line =
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s\n";
        assert_eq!(read(&line.repeat(3), true).passed, 6);
    }

    #[test]
    fn a_binary_that_dies_is_a_failure() {
        assert_eq!(read("running 3 tests\ntest a ... ok\n", false).failed, 1);
        assert_eq!(read("", true).failed, 1);
        let leak =
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n";
        assert_eq!(read(leak, false).failed, 1);
    }

    #[test]
    fn what_a_test_prints_is_no_result() {
        assert_eq!(result_line("test result: great"), None);
        assert_eq!(result_line("my test result: ok. 1 passed; 0 failed; 0 ignored"), None);
        assert_eq!(failed_test("test a ... ok"), None);
    }
}
