//! Turns: every case of a measurement, every subject after the other, as often as the settings say (A B A B).

use anyhow::{Context, Result, bail};

use crate::figure::{Figure, Sample};
use crate::measure::{Case, Measurement};
use crate::report::progress::Progress;
use crate::session::Settings;
use crate::subject::Kind;

/// A subject, as its figures name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// What it is.
    pub kind: Kind,
    /// How it works here.
    pub regime: String,
}

/// Has `measure` measure each case of the subject with each index.
pub fn run(
    measurement: Measurement,
    settings: &Settings,
    subjects: &[Named],
    progress: &mut Progress,
    mut measure: impl FnMut(usize, &Case) -> Result<Vec<Sample>>,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let cases = measurement.cases(settings);
    for _ in 0..settings.rounds {
        for case in &cases {
            for (index, subject) in subjects.iter().enumerate() {
                let name = subject.kind.as_str();
                if vxdp_lab::interrupted() {
                    bail!("interrupted");
                }
                if !Measurement::applies(case, subject.kind) {
                    progress.leave_out();
                    continue;
                }
                progress.begin(measurement, name, case);
                let samples = measure(index, case).with_context(|| {
                    format!("{} of {name}, {}", measurement.as_str(), case.conditions().line())
                })?;
                progress.end(&samples);
                collect(&mut figures, measurement, subject, case, samples);
            }
        }
    }
    Ok(figures)
}

/// Puts samples with their repetitions.
fn collect(
    figures: &mut Vec<Figure>,
    measurement: Measurement,
    subject: &Named,
    case: &Case,
    samples: Vec<Sample>,
) {
    for sample in samples {
        let new = Figure {
            measurement: measurement.as_str().to_owned(),
            metric: sample.metric.to_owned(),
            subject: subject.kind.as_str().to_owned(),
            regime: subject.regime.clone(),
            conditions: case.conditions(),
            unit: sample.unit,
            samples: Vec::new(),
            notes: Vec::new(),
            context: sample.context,
        };
        let same = |figure: &Figure| figure.subject == new.subject && figure.compares_with(&new);
        let index = figures.iter().position(same).unwrap_or_else(|| {
            figures.push(new);
            figures.len() - 1
        });
        let figure = &mut figures[index];
        figure.samples.push(sample.value);
        if let Some(note) = sample.note.filter(|note| !figure.notes.contains(note)) {
            figure.notes.push(note);
        }
    }
}
