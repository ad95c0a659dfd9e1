//! The report as one page: charts and tables, without scripts and without anything to load.

use maud::{DOCTYPE, Markup, PreEscaped, html as page};

use super::against::Against;
use super::section::{Section, regimes, sections};
use super::{METHOD, Run, chart, ratio, table};
use crate::figure::Figure;

/// The page of a run, and of its comparison with an earlier one.
pub fn html(run: &Run, against: Option<&Against>) -> String {
    let subjects = table::subjects(&run.figures);
    let warnings = run.warnings();
    let document = page! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "vxdp: " (subjects.join(", ")) ", " (run.began) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                h1 { "vxdp benchmark" }
                p { (run.began) ", " (run.machine.line()) @if let Some(commit) = &run.commit { ", commit " (commit) } }
                @if let Some(sink) = &run.sink { p { "The sink's host: " (sink.line()) } }
                p.faint { code { "vxdp-bench " (run.arguments.join(" ")) } }
                p { (METHOD.replace('`', "")) " Reference: " (ratio::reference(&run.figures).unwrap_or("none")) "." }
                @if !warnings.is_empty() {
                    div.warnings {
                        strong { "Warnings" }
                        ul { @for warning in &warnings { li { (warning) } } }
                    }
                }
                @if let Some(against) = against { (comparison(against)) }
                @for section in sections(&run.figures) { (of_measurement(&section, &subjects)) }
                (calibrations(run))
            }
        }
    };
    document.into_string()
}

fn of_measurement(section: &Section<'_>, subjects: &[&str]) -> Markup {
    page! {
        h2 { (section.measurement) }
        @for picture in &section.charts { (chart::draw(picture, subjects)) }
        dl.regimes {
            @for (subject, regime) in regimes(&section.figures) { dt { (subject) } dd { (regime) } }
        }
        details open[section.charts.is_empty()] {
            summary { "All figures" }
            div.scroll { (figures(&section.figures)) }
        }
    }
}

fn figures(figures: &[Figure]) -> Markup {
    let subjects = table::subjects(figures);
    page! {
        table {
            tr { th { "conditions" } th { "metric" } @for subject in &subjects { th { (subject) } } }
            @for row in table::rows(figures) {
                tr {
                    td { (row.conditions.line()) }
                    td { (row.metric) }
                    @for subject in &subjects {
                        @match figures.iter().find(|f| f.subject == *subject && f.compares_with(row)) {
                            Some(figure) => td title=(figure.regime) {
                                (table::cell(figure))
                                @if let Some(ratio) = ratio::to_reference(figure, figures) {
                                    small { (ratio.show()) }
                                }
                            },
                            None => td {},
                        }
                    }
                }
            }
        }
    }
}

fn comparison(against: &Against) -> Markup {
    let [header, rows @ ..] = &against.rows()[..] else { return page! {} };
    page! {
        h2 { "Against " (against.name) }
        p { (against.summary()) }
        div.scroll {
            table {
                tr { @for cell in header { th { (cell) } } }
                @for row in rows { tr { @for cell in row { td { (cell) } } } }
            }
        }
    }
}

fn calibrations(run: &Run) -> Markup {
    page! {
        @if !run.calibrations.is_empty() {
            h2 { "Generator into sink, with nothing in between" }
            ul {
                @for c in &run.calibrations {
                    li { (c.generator) ": " (c.frame) " bytes, " (c.flows) " flows: " (format!("{:.3} Mpps", c.rate / 1e6)) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;
    use crate::figure::tests::figure;

    #[test]
    fn the_page_needs_nothing_but_itself() {
        let figures = ["kernel", "xdp"].map(|name| figure(name, Unit::FramesPerSecond, &[2e5, 2.1e5]));
        let page = html(&Run { figures: figures.to_vec(), ..Run::default() }, None);
        for foreign in ["<script", "<link", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(foreign), "{foreign} is in the page");
        }
        assert!(page.contains("<svg") && page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn a_regime_and_a_warning_are_in_the_page_and_escaped() {
        let wide =
            Figure { regime: "hook <driver>".into(), ..figure("xdp", Unit::BitsPerSecond, &[1e9, 2e9]) };
        let page = html(&Run { figures: vec![wide], ..Run::default() }, None);
        assert!(
            page.contains("hook &lt;driver&gt;") && page.contains("xdp 1.00 Gbit/s to 2.00 Gbit/s"),
            "{page}"
        );
    }
}
