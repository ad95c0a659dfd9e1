//! A run against an earlier one: what became better or worse by more than noise.
//!
//! Two runs on one machine differ by what else the machine did meanwhile, which hits all subjects alike. So
//! where both runs have the kernel mode, ratios to it are compared, and neither the kernel nor the peers, which are
//! not ours, are judged; without it, plain values are, for what they are worth.

use anyhow::{Result, ensure};
use comfy_table::{Table, presets};

use super::Run;
use super::ratio::REFERENCE;
use crate::figure::Figure;
use crate::subject::Kind;

/// What became of one figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No change beyond the bound.
    Same,
    /// Beyond the bound, to the better.
    Better,
    /// Beyond the bound, to the worse.
    Worse,
    /// Repetitions of one of the figures lie too far apart.
    Void,
}

/// One figure of both runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What, of whom, under which conditions.
    pub what: String,
    /// The earlier value, for people.
    pub before: String,
    /// The later value.
    pub after: String,
    /// What both may differ by, for people.
    pub bound: String,
    /// What became of it.
    pub verdict: Verdict,
}

/// A comparison of two runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Against {
    /// The earlier run's name.
    pub name: String,
    /// Whether ratios to the reference were compared.
    pub relative: bool,
    /// Every figure that both have and that is judged.
    pub changes: Vec<Change>,
    /// What stands in the way of believing it.
    pub remarks: Vec<String>,
}

/// A value and by what share it may be off, by the range of its repetitions.
struct Level {
    value: f64,
    off: f64,
    wide: bool,
}

impl Against {
    /// Compares; `noise` is the share by which values may differ at least without meaning anything.
    pub fn compare(name: &str, before: &Run, after: &Run, noise: f64) -> Result<Self> {
        let has_reference = |run: &Run| run.figures.iter().any(|figure| figure.subject == REFERENCE);
        let relative = has_reference(before) && has_reference(after);
        let mut changes = Vec::new();
        let mut remarks = Vec::new();
        for figure in after.figures.iter().filter(|figure| is_judged(figure, relative)) {
            let same = |old: &&Figure| old.subject == figure.subject && old.compares_with(figure);
            let Some(old) = before.figures.iter().find(same) else { continue };
            if old.regime != figure.regime {
                let remark = format!(
                    "{} works in another way: {}; before: {}",
                    old.subject, figure.regime, old.regime
                );
                if !remarks.contains(&remark) {
                    remarks.push(remark);
                }
            }
            changes.extend(change(figure, old, [before, after], relative, noise));
        }
        ensure!(
            !changes.is_empty(),
            "the run has nothing in common with `{name}` that can be compared: same measurements, frames and \
             flows are needed"
        );
        if before.machine != after.machine {
            remarks.push(format!("it ran on another machine: {}", before.machine.line()));
        }
        Ok(Self { name: name.to_owned(), relative, changes, remarks })
    }

    /// Whether anything became worse.
    pub fn is_worse(&self) -> bool {
        self.count(Verdict::Worse) > 0
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.changes.iter().filter(|change| change.verdict == verdict).count()
    }

    /// In a few sentences.
    pub fn summary(&self) -> String {
        let compared = if self.relative { "ratios to the kernel mode" } else { "plain values" };
        let mut text = format!(
            "{} figures compared ({compared}): {} better, {} worse, {} the same within noise, {} void.",
            self.changes.len(),
            self.count(Verdict::Better),
            self.count(Verdict::Worse),
            self.count(Verdict::Same),
            self.count(Verdict::Void)
        );
        for remark in &self.remarks {
            text += &format!(" Beware: {remark}.");
        }
        text
    }

    /// A header, then a row for each change, the bad ones first.
    pub fn rows(&self) -> Vec<[String; 5]> {
        let header = ["figure", "before", "after", "noise bound", ""].map(str::to_owned);
        let order = [Verdict::Worse, Verdict::Better, Verdict::Void, Verdict::Same];
        let of = |verdict| self.changes.iter().filter(move |change| change.verdict == verdict);
        let row = |change: &Change| {
            let verdict = match change.verdict {
                Verdict::Same => "",
                Verdict::Better => "better",
                Verdict::Worse => "WORSE",
                Verdict::Void => "void",
            };
            let Change { what, before, after, bound, .. } = change.clone();
            [what, before, after, bound, verdict.to_owned()]
        };
        std::iter::once(header).chain(order.into_iter().flat_map(of).map(row)).collect()
    }

    /// For a terminal.
    pub fn terminal(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        if let [header, rows @ ..] = &self.rows()[..] {
            table.set_header(header).add_rows(rows);
        }
        table
    }
}

fn is_judged(figure: &Figure, relative: bool) -> bool {
    let is_peer = Kind::PEERS.iter().any(|peer| peer.as_str() == figure.subject);
    let is_reference = relative && figure.subject == REFERENCE;
    !(figure.context || is_peer || is_reference)
}

fn change(
    figure: &Figure,
    old: &Figure,
    [before, after]: [&Run; 2],
    relative: bool,
    noise: f64,
) -> Option<Change> {
    let what = format!(
        "{} {} of {}, {}",
        figure.measurement,
        figure.metric,
        figure.subject,
        figure.conditions.line()
    );
    if let Some(slack) = figure.unit.slack() {
        return Some(counted(what, figure, old, slack));
    }
    let (was, is) = (level(old, before, relative)?, level(figure, after, relative)?);
    let bound = noise.max(was.off + is.off);
    let (worst, best) =
        if figure.unit.more_is_better() { (is.value, was.value) } else { (was.value, is.value) };
    let gain = worst / best;
    let verdict = if was.wide || is.wide {
        Verdict::Void
    } else if gain < 1.0 / (1.0 + bound) {
        Verdict::Worse
    } else if gain > 1.0 + bound {
        Verdict::Better
    } else {
        Verdict::Same
    };
    let show = |level: &Level, figure: &Figure| {
        let plain = figure.unit.show(figure.median());
        if relative { format!("{:.2}× ({plain})", level.value) } else { plain }
    };
    let (before, after) = (show(&was, old), show(&is, figure));
    Some(Change { what, before, after, bound: format!("±{:.0} %", bound * 100.0), verdict })
}

/// Counts that are best at zero are compared by difference, whatever the kernel has.
fn counted(what: String, figure: &Figure, old: &Figure, slack: f64) -> Change {
    let half_range = |figure: &Figure| (figure.range().1 - figure.range().0) / 2.0;
    let bound = slack + half_range(figure) + half_range(old);
    let difference = figure.median() - old.median();
    let verdict = if difference > bound {
        Verdict::Worse
    } else if difference < -bound {
        Verdict::Better
    } else {
        Verdict::Same
    };
    let [before, after, bound] = [old.median(), figure.median(), bound].map(|value| figure.unit.show(value));
    Change { what, before, after, bound: format!("±{bound}"), verdict }
}

/// The value of a figure, as a ratio to the reference's if that is asked for; `None` where the reference lacks it.
fn level(figure: &Figure, run: &Run, relative: bool) -> Option<Level> {
    let own = Level { value: figure.median(), off: figure.spread() / 2.0, wide: figure.is_wide() };
    if !relative {
        return Some(own);
    }
    let same = |other: &&Figure| other.subject == REFERENCE && other.compares_with(figure);
    let reference = run.figures.iter().find(same).filter(|reference| reference.median() > 0.0)?;
    Some(Level {
        value: own.value / reference.median(),
        off: own.off + reference.spread() / 2.0,
        wide: own.wide || reference.is_wide(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;
    use crate::figure::tests::figure;

    const NOISE: f64 = 0.1;

    fn run(unit: Unit, subjects: &[(&str, &[f64])]) -> Run {
        let figures = subjects.iter().map(|(subject, samples)| figure(subject, unit, samples)).collect();
        Run { figures, ..Run::default() }
    }

    fn verdict(unit: Unit, before: &[(&str, &[f64])], after: &[(&str, &[f64])]) -> Verdict {
        let against =
            Against::compare("old", &run(unit, before), &run(unit, after), NOISE).expect("comparable");
        assert_eq!(against.changes.len(), 1, "{against:?}");
        assert_eq!(against.is_worse(), against.changes[0].verdict == Verdict::Worse);
        against.changes[0].verdict
    }

    #[test]
    fn a_rate_that_falls_beyond_the_bound_is_worse_and_one_that_rises_is_better() {
        let before: &[(&str, &[f64])] = &[("xdp", &[100.0, 101.0, 99.0])];
        let after = |rate: f64| verdict(Unit::FramesPerSecond, before, &[("xdp", &[rate, rate, rate])]);
        assert_eq!(after(95.0), Verdict::Same);
        assert_eq!(after(80.0), Verdict::Worse);
        assert_eq!(after(120.0), Verdict::Better);
        assert_eq!(after(0.0), Verdict::Worse);
    }

    #[test]
    fn a_time_that_rises_beyond_the_bound_is_worse() {
        let before: &[(&str, &[f64])] = &[("xdp", &[100.0, 100.0])];
        assert_eq!(verdict(Unit::Nanoseconds, before, &[("xdp", &[130.0, 130.0])]), Verdict::Worse);
        assert_eq!(verdict(Unit::ProcessorTime, before, &[("xdp", &[70.0, 70.0])]), Verdict::Better);
    }

    #[test]
    fn a_slower_machine_makes_nobody_worse() {
        let before: &[(&str, &[f64])] = &[("kernel", &[100.0, 100.0]), ("xdp", &[150.0, 150.0])];
        let after: &[(&str, &[f64])] = &[("kernel", &[60.0, 60.0]), ("xdp", &[90.0, 90.0])];
        assert_eq!(verdict(Unit::FramesPerSecond, before, after), Verdict::Same);
        let after: &[(&str, &[f64])] = &[("kernel", &[100.0, 100.0]), ("xdp", &[100.0, 100.0])];
        assert_eq!(verdict(Unit::FramesPerSecond, before, after), Verdict::Worse);
    }

    #[test]
    fn repetitions_widen_the_bound_and_at_last_make_the_comparison_void() {
        let before: &[(&str, &[f64])] = &[("xdp", &[90.0, 100.0, 110.0])];
        assert_eq!(verdict(Unit::BitsPerSecond, before, &[("xdp", &[75.0, 85.0, 95.0])]), Verdict::Same);
        assert_eq!(verdict(Unit::BitsPerSecond, before, &[("xdp", &[20.0, 50.0, 80.0])]), Verdict::Void);
    }

    #[test]
    fn lost_frames_are_compared_by_difference() {
        let after = |lost: f64| verdict(Unit::Frames, &[("xdp", &[0.0, 0.0])], &[("xdp", &[lost, lost])]);
        assert_eq!(after(10.0), Verdict::Same);
        assert_eq!(after(1000.0), Verdict::Worse);
    }

    #[test]
    fn peers_and_circumstances_are_not_judged() {
        let old = run(Unit::BitsPerSecond, &[("none", &[100.0])]);
        let error = Against::compare("old", &old, &old, NOISE).unwrap_err();
        assert!(error.to_string().contains("nothing in common with `old`"), "{error}");
    }

    #[test]
    fn another_regime_is_pointed_out() {
        let old = run(Unit::BitsPerSecond, &[("xdp", &[100.0])]);
        let mut new = old.clone();
        new.figures[0].regime = "hook generic".into();
        let against = Against::compare("old", &old, &new, NOISE).unwrap();
        assert!(against.summary().contains("Beware: xdp works in another way"), "{}", against.summary());
    }
}
