//! Progress on standard error, with the time that is left.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::figure::Sample;
use crate::measure::{Case, Measurement};
use crate::session::Settings;

/// Where a run is.
#[derive(Debug)]
pub struct Progress {
    /// Time that each step was thought to take, in order.
    expected: Vec<Duration>,
    done: usize,
    start: Instant,
    line: String,
}

impl Progress {
    /// For these measurements of so many subjects.
    pub fn new(measurements: &[Measurement], settings: &Settings, subjects: usize) -> Self {
        let mut expected = Vec::new();
        for measurement in measurements {
            let steps = measurement.cases(settings).len() * subjects * settings.rounds as usize;
            expected.extend(std::iter::repeat_n(measurement.time(settings), steps));
        }
        Self { expected, done: 0, start: Instant::now(), line: String::new() }
    }

    /// Time that is left, by the steps that were done so far.
    pub fn left(&self) -> Duration {
        let (done, left) = self.expected.split_at(self.done.min(self.expected.len()));
        let (done, left) = (done.iter().sum::<Duration>(), left.iter().sum::<Duration>());
        if done.is_zero() {
            return left;
        }
        left.mul_f64(self.start.elapsed().as_secs_f64() / done.as_secs_f64())
    }

    /// A step begins.
    pub fn begin(&mut self, measurement: Measurement, subject: &str, case: &Case) {
        let left = self.left().as_secs();
        self.line = format!(
            "[{:>3}/{} {}:{:02} left] {} {subject}, {}",
            self.done + 1,
            self.expected.len(),
            left / 60,
            left % 60,
            measurement.as_str(),
            case.conditions().line()
        );
        if std::io::stderr().is_terminal() {
            eprint!("{} …", self.line);
            let _ = std::io::stderr().flush();
        }
    }

    /// It ended.
    pub fn end(&mut self, samples: &[Sample]) {
        self.done += 1;
        let shown = samples.iter().take(3).map(|s| format!("{} {}", s.metric, s.unit.show(s.value)));
        let shown = shown.collect::<Vec<_>>().join(", ");
        let again = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
        eprintln!("{again}{}: {shown}", self.line);
    }
}
