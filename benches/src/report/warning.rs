//! What has to be known before any two figures of a run are compared.

use super::{Run, table};
use crate::figure::Figure;

/// What has to be said of every figure of an emulated machine.
const EMULATED: &str = "the machine is emulated: that it works is shown, and no figure, nor any ratio, says anything \
about hardware";

/// Figures of which the same has to be said.
struct Remark<'a> {
    note: &'a str,
    /// The first of them, by its row and subject.
    first: String,
    figures: usize,
    measurements: Vec<&'a str>,
    subjects: Vec<&'a str>,
}

impl Run {
    /// What has to be known before any two figures are compared; what is to be said of many stands there once.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.troubles.clone();
        if self.machine.emulated {
            warnings.push(EMULATED.to_owned());
        }
        warnings.extend(self.remarks().iter().map(Remark::line));
        warnings.extend(self.wide());
        warnings
    }

    /// The figures' notes.
    fn remarks(&self) -> Vec<Remark<'_>> {
        let mut remarks: Vec<Remark> = Vec::new();
        for figure in self.figures.iter().filter(|figure| !figure.context) {
            for note in &figure.notes {
                let known = remarks.iter().position(|remark| remark.note == note);
                let known = known.unwrap_or_else(|| {
                    remarks.push(Remark::new(note, figure));
                    remarks.len() - 1
                });
                remarks[known].add(figure);
            }
        }
        remarks
    }

    /// By measurement, the rows whose repetitions lie too far apart to compare.
    fn wide(&self) -> Vec<String> {
        let results = || self.figures.iter().filter(|figure| !figure.context);
        let mut measurements: Vec<(&str, Vec<String>)> = Vec::new();
        for row in table::rows(&self.figures) {
            let of_row = results().filter(|figure| figure.compares_with(row));
            let wide = of_row.filter(|figure| figure.is_wide() && figure.unit.slack().is_none());
            let wide: Vec<_> = wide.map(range).collect();
            if wide.is_empty() {
                continue;
            }
            let row_of = format!("{}, {} ({})", row.conditions.line(), row.metric, wide.join(", "));
            match measurements.iter_mut().find(|(measurement, _)| *measurement == row.measurement) {
                Some((_, rows)) => rows.push(row_of),
                None => measurements.push((&row.measurement, vec![row_of])),
            }
        }
        let line = |(measurement, rows): &(&str, Vec<String>)| {
            format!("{measurement}: no comparison, repetitions lie too far apart: {}", rows.join("; "))
        };
        measurements.iter().map(line).collect()
    }
}

impl<'a> Remark<'a> {
    fn new(note: &'a str, figure: &Figure) -> Self {
        let Figure { measurement, conditions, metric, subject, .. } = figure;
        let first = format!("{measurement}, {}, {metric}, {subject}", conditions.line());
        Self { note, first, figures: 0, measurements: Vec::new(), subjects: Vec::new() }
    }

    fn add(&mut self, figure: &'a Figure) {
        self.figures += 1;
        if !self.measurements.contains(&figure.measurement.as_str()) {
            self.measurements.push(&figure.measurement);
        }
        if !self.subjects.contains(&figure.subject.as_str()) {
            self.subjects.push(&figure.subject);
        }
    }

    fn line(&self) -> String {
        let Self { note, first, figures, measurements, subjects } = self;
        match figures {
            1 => format!("{first}: {note}"),
            _ => format!("{}, {figures} figures of {}: {note}", measurements.join(", "), subjects.join(", ")),
        }
    }
}

/// Who, and between which values.
fn range(figure: &Figure) -> String {
    let (least, greatest) = figure.range();
    format!("{} {} to {}", figure.subject, figure.unit.show(least), figure.unit.show(greatest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;
    use crate::figure::tests::figure;

    fn noted(subject: &str, notes: &[&str]) -> Figure {
        let notes = notes.iter().map(|note| (*note).to_owned()).collect();
        Figure { notes, ..figure(subject, Unit::FramesPerSecond, &[2.0e5, 2.0e5]) }
    }

    #[test]
    fn what_holds_for_many_figures_is_said_once() {
        let figures = vec![noted("kernel", &["slowed"]), noted("xdp", &["slowed", "stray"])];
        let warnings = Run { figures, ..Run::default() }.warnings();
        let [slowed, stray] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(slowed.ends_with("2 figures of kernel, xdp: slowed"), "{slowed}");
        assert!(stray.ends_with("xdp: stray"), "{stray}");
    }

    #[test]
    fn figures_too_far_apart_are_named_with_their_ranges() {
        let wide = |subject| figure(subject, Unit::FramesPerSecond, &[1.0e5, 3.0e5]);
        let figures = vec![wide("kernel"), wide("xdp")];
        let warnings = Run { figures, ..Run::default() }.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("kernel 0.100 Mpps to 0.300 Mpps, xdp 0.100"), "{warnings:?}");
    }

    #[test]
    fn an_emulated_run_says_so_first() {
        let mut run = Run::default();
        assert!(run.warnings().is_empty());
        run.machine.emulated = true;
        assert_eq!(run.warnings(), [EMULATED]);
    }
}
