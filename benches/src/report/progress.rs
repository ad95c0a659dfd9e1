//! Progress on standard error, with the time that is left.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::figure::Sample;
use crate::measure::{Case, Measurement};
use crate::session::Settings;

/// Where a run is.
#[derive(Debug)]
pub struct Progress {
    /// What each step is of, and the time that it was thought to take, in order.
    expected: Vec<(Measurement, Duration)>,
    done: usize,
    /// Begins with the first step: building the subjects is no part of it.
    start: Option<Instant>,
    line: String,
}

impl Progress {
    /// For these measurements of so many subjects.
    pub fn new(measurements: &[Measurement], settings: &Settings, subjects: usize) -> Self {
        let mut expected = Vec::new();
        for measurement in measurements {
            let steps = measurement.cases(settings).len() * subjects * settings.rounds as usize;
            expected.extend(std::iter::repeat_n((*measurement, measurement.time(settings)), steps));
        }
        Self { expected, done: 0, start: None, line: String::new() }
    }

    /// Time that is left, by the steps that were done so far.
    pub fn left(&self) -> Duration {
        let (done, left) = self.expected.split_at(self.done.min(self.expected.len()));
        let sum = |steps: &[(Measurement, Duration)]| steps.iter().map(|(_, time)| *time).sum::<Duration>();
        let (done, left) = (sum(done), sum(left));
        if done.is_zero() {
            return left;
        }
        let spent = self.start.map_or(Duration::ZERO, |start| start.elapsed());
        left.mul_f64(spent.as_secs_f64() / done.as_secs_f64())
    }

    /// The same for people: minutes and seconds.
    pub fn shown(&self) -> String {
        let seconds = self.left().as_secs();
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }

    /// What is left of a measurement will not be done.
    pub fn skip(&mut self, measurement: Measurement) {
        let rest = self.expected.split_off(self.done.min(self.expected.len()));
        self.expected.extend(rest.into_iter().skip_while(|(of, _)| *of == measurement));
    }

    /// The next step makes no sense for its subject.
    pub fn leave_out(&mut self) {
        if self.done < self.expected.len() {
            self.expected.remove(self.done);
        }
    }

    /// A step begins.
    pub fn begin(&mut self, measurement: Measurement, subject: &str, case: &Case) {
        self.start.get_or_insert_with(Instant::now);
        self.line = format!(
            "[{:>3}/{} {} left] {} {subject}, {}",
            self.done + 1,
            self.expected.len(),
            self.shown(),
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
