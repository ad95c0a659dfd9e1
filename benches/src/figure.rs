//! Figures: what a measurement gives, with its repetitions, their median and their spread.

use serde::{Deserialize, Serialize};

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Frames per second.
    #[serde(rename = "frames/s")]
    FramesPerSecond,
    /// Bits per second.
    #[serde(rename = "bit/s")]
    BitsPerSecond,
    /// Requests per second.
    #[serde(rename = "requests/s")]
    RequestsPerSecond,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// Nanoseconds of processor time, all processors together, for each frame.
    #[serde(rename = "cpu-ns/frame")]
    ProcessorTime,
    /// Frames.
    #[serde(rename = "frames")]
    Frames,
    /// Bytes.
    #[serde(rename = "bytes")]
    Bytes,
    /// A share of one.
    #[serde(rename = "share")]
    Share,
}

impl Unit {
    /// Whether more of it is better.
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::FramesPerSecond | Self::BitsPerSecond | Self::RequestsPerSecond)
    }

    /// For what is counted from zero on, and is best at zero: by how much two values may differ by chance.
    /// A ratio says nothing about those.
    pub fn slack(self) -> Option<f64> {
        match self {
            // What one batch holds.
            Self::Frames => Some(64.0),
            Self::Share => Some(0.02),
            _ => None,
        }
    }

    /// `value` for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::FramesPerSecond => format!("{:.3} Mpps", value / 1e6),
            Self::BitsPerSecond => format!("{:.2} Gbit/s", value / 1e9),
            Self::RequestsPerSecond => format!("{value:.0} /s"),
            Self::Nanoseconds if value >= 10e6 => format!("{:.1} ms", value / 1e6),
            Self::Nanoseconds => format!("{:.1} µs", value / 1e3),
            Self::ProcessorTime => format!("{:.2} µs", value / 1e3),
            Self::Frames => format!("{value:.0}"),
            Self::Bytes => format!("{:.1} MB", value / 1e6),
            Self::Share => format!("{:.1} %", value * 100.0),
        }
    }
}

/// Under which circumstances something is measured: names and values, in the order in which they are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conditions(pub Vec<(String, String)>);

impl Conditions {
    /// With one more.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.push((name.to_owned(), value.to_string()));
        self
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// In one line: `frame 64, flows 1`.
    pub fn line(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
    }
}

/// One value, before it is put with its repetitions.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What it is, e.g. `no-drop rate`.
    pub metric: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// The value.
    pub value: f64,
    /// What a reader has to know about it.
    pub note: Option<String>,
    /// Whether it only says under what the others were measured, such as a rate that was asked for.
    pub context: bool,
}

impl Sample {
    /// A value without a note.
    pub fn new(metric: &'static str, unit: Unit, value: f64) -> Self {
        Self { metric, unit, value, note: None, context: false }
    }

    /// A value that says under what the others were measured; nobody wins or loses by it.
    pub fn context(metric: &'static str, unit: Unit, value: f64) -> Self {
        Self { context: true, ..Self::new(metric, unit, value) }
    }
}

/// A metric of a subject under some conditions, measured several times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The measurement: `throughput`, `latency` …
    pub measurement: String,
    /// What of it: `no-drop rate`, `p99` …
    pub metric: String,
    /// The mode or peer.
    pub subject: String,
    /// How the subject works here: engine, hook, copies, polling, offloads, processors.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub regime: String,
    /// Under which circumstances.
    pub conditions: Conditions,
    /// What the values count.
    pub unit: Unit,
    /// The repetitions, in the order in which they were measured.
    pub samples: Vec<f64>,
    /// What a reader has to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// See [`Sample::context`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub context: bool,
}

/// From this spread on a comparison is void: repetitions differ by more than what is compared usually does.
pub const WIDE: f64 = 0.25;

impl Figure {
    /// The middle of the samples; 0 if there are none.
    pub fn median(&self) -> f64 {
        median(&self.samples)
    }

    /// How far the samples lie apart, as a share of the median.
    pub fn spread(&self) -> f64 {
        spread(&self.samples)
    }

    /// The least and the greatest sample.
    pub fn range(&self) -> (f64, f64) {
        let least = self.samples.iter().copied().fold(f64::INFINITY, f64::min);
        (least, self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    /// Whether the samples lie so far apart that a comparison says nothing.
    pub fn is_wide(&self) -> bool {
        self.spread() > WIDE
    }

    /// Whether `other` is the same thing, of whatever subject.
    pub fn compares_with(&self, other: &Self) -> bool {
        (&self.measurement, &self.metric, &self.conditions)
            == (&other.measurement, &other.metric, &other.conditions)
    }
}

/// The middle value, or the mean of the two in the middle; 0 of nothing.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

/// Difference of the greatest and the least sample, as a share of the median; 0 of fewer than two.
pub fn spread(samples: &[f64]) -> f64 {
    let greatest = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let median = median(samples);
    if samples.len() < 2 || greatest <= least {
        0.0
    } else if median == 0.0 {
        f64::INFINITY
    } else {
        (greatest - least) / median.abs()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A figure with nothing particular about it.
    pub(crate) fn figure(subject: &str, unit: Unit, samples: &[f64]) -> Figure {
        Figure {
            measurement: "throughput".to_owned(),
            metric: "no-drop rate".to_owned(),
            subject: subject.to_owned(),
            regime: String::new(),
            conditions: Conditions::default().with("frame", 64),
            unit,
            samples: samples.to_vec(),
            notes: Vec::new(),
            context: false,
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn the_spread_is_the_range_over_the_median() {
        assert_eq!(spread(&[90.0, 110.0, 100.0]), 0.2);
        assert_eq!(spread(&[5.0]), 0.0);
        assert_eq!(spread(&[0.0, 0.0, 1.0]), f64::INFINITY);
        assert_eq!(spread(&[0.0, 0.0]), 0.0);
    }

    #[test]
    fn values_are_shown_in_units_that_people_use() {
        assert_eq!(Unit::FramesPerSecond.show(317_000.0), "0.317 Mpps");
        assert_eq!(Unit::Nanoseconds.show(54_321.0), "54.3 µs");
        assert_eq!(Unit::ProcessorTime.show(5_250.0), "5.25 µs");
    }
}
