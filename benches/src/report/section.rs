//! How figures are put together for readers: a section for each measurement, in it charts of what compares.

use crate::figure::{Conditions, Figure, Unit};

/// A measurement.
pub(super) struct Section<'a> {
    /// Its name.
    pub(super) measurement: &'a str,
    /// What it gave.
    pub(super) figures: Vec<Figure>,
    /// What of it is drawn.
    pub(super) charts: Vec<Chart<'a>>,
}

/// Bars in groups, all in one unit.
#[derive(Debug)]
pub(super) struct Chart<'a> {
    pub(super) title: String,
    pub(super) unit: Unit,
    pub(super) groups: Vec<Group<'a>>,
}

/// One bar for each subject.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) label: String,
    pub(super) figures: Vec<&'a Figure>,
}

/// A section for each measurement, in the order in which they were run.
pub(super) fn sections(figures: &[Figure]) -> Vec<Section<'_>> {
    let mut names: Vec<&str> = Vec::new();
    for figure in figures {
        if !names.contains(&figure.measurement.as_str()) {
            names.push(&figure.measurement);
        }
    }
    let section = |measurement| {
        let of_it = figures.iter().filter(|figure| figure.measurement == measurement);
        Section { measurement, figures: of_it.clone().cloned().collect(), charts: charts(of_it) }
    };
    names.into_iter().map(section).collect()
}

/// Ways in which each subject works in these figures, in their order.
pub(super) fn regimes(figures: &[Figure]) -> Vec<(&str, &str)> {
    let mut regimes = Vec::new();
    for figure in figures {
        let regime = (figure.subject.as_str(), figure.regime.as_str());
        if !regime.1.is_empty() && !regimes.contains(&regime) {
            regimes.push(regime);
        }
    }
    regimes
}

/// Results only; and nothing where all are zero, for there is nothing to see.
fn charts<'a>(figures: impl Iterator<Item = &'a Figure>) -> Vec<Chart<'a>> {
    let mut charts: Vec<Chart<'a>> = Vec::new();
    for figure in figures.filter(|figure| !figure.context) {
        let (title, label) = place(figure);
        let chart = find(
            &mut charts,
            |chart| chart.title == title && chart.unit == figure.unit,
            || Chart { title: title.clone(), unit: figure.unit, groups: Vec::new() },
        );
        let group = find(
            &mut chart.groups,
            |group| group.label == label,
            || Group { label: label.clone(), figures: Vec::new() },
        );
        group.figures.push(figure);
    }
    let shows = |chart: &Chart<'_>| {
        chart.groups.iter().flat_map(|group| &group.figures).any(|figure| figure.median() > 0.0)
    };
    charts.retain(shows);
    charts
}

/// The chart's title and the group's label for a figure. Percentiles stand side by side under one title;
/// everything else is drawn over the first of its conditions.
fn place(figure: &Figure) -> (String, String) {
    let percentile =
        figure.metric.strip_prefix('p').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let all = &figure.conditions;
    if percentile {
        return (all.line(), figure.metric.clone());
    }
    let (first, rest) = all.0.split_at(all.0.len().min(1));
    let [first, rest] = [first, rest].map(|part| Conditions(part.to_vec()).line());
    let title = if rest.is_empty() { figure.metric.clone() } else { format!("{}, {rest}", figure.metric) };
    (title, first)
}

/// The element that is looked for, made if it is not there.
fn find<T>(all: &mut Vec<T>, is_it: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> &mut T {
    let index = all.iter().position(is_it).unwrap_or_else(|| {
        all.push(make());
        all.len() - 1
    });
    &mut all[index]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::tests::figure;

    fn rate(metric: &str, frame: u32, flows: u32) -> Figure {
        let conditions = Conditions::default().with("frame", frame).with("flows", flows);
        Figure { metric: metric.to_owned(), conditions, ..figure("xdp", Unit::FramesPerSecond, &[1.0]) }
    }

    #[test]
    fn rates_are_drawn_over_the_frame_length_and_apart_by_flows() {
        let figures =
            [rate("no-drop rate", 64, 1), rate("no-drop rate", 1450, 1), rate("no-drop rate", 64, 64)];
        let sections = sections(&figures);
        let titles: Vec<_> = sections[0].charts.iter().map(|chart| chart.title.as_str()).collect();
        assert_eq!(titles, ["no-drop rate, flows 1", "no-drop rate, flows 64"]);
        let labels: Vec<_> = sections[0].charts[0].groups.iter().map(|group| group.label.as_str()).collect();
        assert_eq!(labels, ["frame 64", "frame 1450"]);
    }

    #[test]
    fn percentiles_stand_side_by_side() {
        let figures = ["p50", "p99.9"].map(|metric| Figure {
            metric: metric.to_owned(),
            conditions: Conditions::default().with("load", "none"),
            ..figure("xdp", Unit::Nanoseconds, &[1.0])
        });
        let sections = sections(&figures);
        assert_eq!(sections[0].charts.len(), 1);
        assert_eq!(sections[0].charts[0].title, "load none");
        assert_eq!(sections[0].charts[0].groups.len(), 2);
    }

    #[test]
    fn circumstances_and_zeros_are_not_drawn() {
        let mut figures = [rate("offered", 64, 1), rate("no-drop rate", 64, 1)];
        figures[0].context = true;
        figures[1].samples = vec![0.0];
        assert!(sections(&figures)[0].charts.is_empty());
    }
}
