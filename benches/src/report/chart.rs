//! Charts as inline SVG: bars in groups, with the range of the repetitions and the value beside each.
//!
//! Drawn by hand, not by a chart library: colours come from the page's style sheet, so that one picture is
//! readable in light and in dark, and text stays text; the libraries write fixed colours. This is the one kind
//! of chart that the report has.

use maud::{Markup, html};

use super::section::Chart;
use crate::figure::Figure;

const WIDTH: f64 = 760.0;
/// Room for subjects' names left of the bars, and for values right of them.
const NAMES: f64 = 84.0;
const VALUES: f64 = 190.0;
const BAR: f64 = 12.0;
const ROW: f64 = 19.0;
const LABEL: f64 = 24.0;

/// Values that differ by more than this factor are drawn on a logarithmic scale: the shorter bars would vanish.
const LOGARITHMIC: f64 = 40.0;

/// From values to lengths.
enum Scale {
    Linear {
        most: f64,
    },
    /// From a power of ten below all values on.
    Logarithmic {
        least: f64,
        most: f64,
    },
}

impl Scale {
    fn of(chart: &Chart<'_>) -> Self {
        let figures = || chart.groups.iter().flat_map(|group| &group.figures);
        let most = figures().map(|figure| figure.range().1).fold(0.0, f64::max);
        let positive = figures().map(|figure| figure.range().0).filter(|value| *value > 0.0);
        let least = positive.fold(f64::INFINITY, f64::min);
        if most > least * LOGARITHMIC {
            Self::Logarithmic { least: 10f64.powf(least.log10().floor()), most }
        } else {
            Self::Linear { most: if most > 0.0 { most } else { 1.0 } }
        }
    }

    fn length(&self, value: f64) -> f64 {
        let room = WIDTH - NAMES - VALUES;
        let share = match self {
            Self::Linear { most } => value / most,
            Self::Logarithmic { least, most } => (value.max(*least) / least).log10() / (most / least).log10(),
        };
        room * share.clamp(0.0, 1.0)
    }

    fn remark(&self) -> &'static str {
        if matches!(self, Self::Logarithmic { .. }) { " (logarithmic)" } else { "" }
    }
}

/// Draws a chart. `subjects` are all of the page, so that each has its colour everywhere.
pub(super) fn draw(chart: &Chart<'_>, subjects: &[&str]) -> Markup {
    let scale = Scale::of(chart);
    let rows: usize = chart.groups.iter().map(|group| group.figures.len()).sum();
    let height = LABEL * chart.groups.len() as f64 + ROW * rows as f64 + 6.0;
    let better = if chart.unit.more_is_better() { "more is better" } else { "less is better" };
    let mut y = 0.0;
    html! {
        figure {
            figcaption { (chart.title) span.remark { (better) (scale.remark()) } }
            svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(chart.title) {
                @for group in &chart.groups {
                    @let top = advance(&mut y, LABEL);
                    text.group x="0" y=(top + 17.0) { (group.label) }
                    @for figure in &group.figures {
                        (bar(figure, &scale, subjects, advance(&mut y, ROW)))
                    }
                }
            }
        }
    }
}

/// Where something of this height goes.
fn advance(y: &mut f64, height: f64) -> f64 {
    std::mem::replace(y, *y + height)
}

fn bar(figure: &Figure, scale: &Scale, subjects: &[&str], top: f64) -> Markup {
    let colour = subjects.iter().position(|subject| *subject == figure.subject).unwrap_or(0);
    let middle = top + ROW / 2.0;
    let (least, greatest) = figure.range();
    let [length, from, to] = [figure.median(), least, greatest].map(|value| scale.length(value));
    let show = |value| figure.unit.show(value);
    let repetitions = figure.samples.iter().map(|value| show(*value)).collect::<Vec<_>>().join(", ");
    let x = |length: f64| format!("{:.1}", NAMES + length);
    html! {
        g.wide[figure.is_wide()] {
            title { (figure.subject) ": " (repetitions) @if !figure.regime.is_empty() { " (" (figure.regime) ")" } }
            text.name x=(NAMES - 8.0) y=(middle + 4.0) { (figure.subject) }
            rect class={ "bar c" (colour % COLOURS) } x=(NAMES) y=(middle - BAR / 2.0) height=(BAR)
                width=(format!("{:.1}", length.max(1.0))) {}
            @if figure.samples.len() > 1 {
                line.range x1=(x(from)) x2=(x(to)) y1=(middle) y2=(middle) {}
                line.range x1=(x(from)) x2=(x(from)) y1=(middle - 3.0) y2=(middle + 3.0) {}
                line.range x1=(x(to)) x2=(x(to)) y1=(middle - 3.0) y2=(middle + 3.0) {}
            }
            text.value x=(x(length.max(to) + 8.0)) y=(middle + 4.0) { (super::table::cell(figure)) }
        }
    }
}

/// Colours in the style sheet.
const COLOURS: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;
    use crate::figure::tests::figure;
    use crate::report::section::Group;

    fn chart(figures: &[Figure]) -> Chart<'_> {
        let group = Group { label: "frame 64".into(), figures: figures.iter().collect() };
        Chart { title: "a < b".into(), unit: Unit::FramesPerSecond, groups: vec![group] }
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let figures = [1e6, 5e5].map(|rate| figure("kernel", Unit::FramesPerSecond, &[rate]));
        let scale = Scale::of(&chart(&figures));
        assert_eq!(scale.length(5e5) * 2.0, scale.length(1e6));
        assert_eq!(scale.length(0.0), 0.0);
    }

    #[test]
    fn far_apart_values_are_drawn_by_their_magnitude() {
        let figures = [1e3, 1e6].map(|rate| figure("kernel", Unit::FramesPerSecond, &[rate]));
        let scale = Scale::of(&chart(&figures));
        assert!(matches!(scale, Scale::Logarithmic { .. }));
        let [a, b, c] = [1e4, 1e5, 1e6].map(|value| scale.length(value));
        assert!((b - a - (c - b)).abs() < 1e-9, "{a} {b} {c}");
    }

    #[test]
    fn a_picture_escapes_its_text_and_names_every_subject() {
        let figures = ["kernel", "xdp"].map(|name| figure(name, Unit::FramesPerSecond, &[3e5, 3.2e5]));
        let svg = draw(&chart(&figures), &["kernel", "xdp"]).into_string();
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 2);
        for text in [">kernel<", ">xdp<", "0.310 Mpps", "bar c1"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
    }

    #[test]
    fn a_chart_of_zeros_has_no_length_that_is_no_number() {
        let figures = [figure("kernel", Unit::FramesPerSecond, &[0.0])];
        assert!(!draw(&chart(&figures), &["kernel"]).into_string().contains("NaN"));
    }
}
