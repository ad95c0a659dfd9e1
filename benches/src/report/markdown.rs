//! The report as Markdown: a table for each measurement.

use std::fmt::{self, Write};

use comfy_table::{Table, presets};

use super::against::Against;
use super::section::{regimes, sections};
use super::{Calibration, METHOD, Run, ratio, table};
use crate::figure::Figure;

/// The summary of a run, and of its comparison with an earlier one.
pub fn markdown(run: &Run, against: Option<&Against>) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = write(&mut text, run, against);
    text
}

fn write(text: &mut String, run: &Run, against: Option<&Against>) -> fmt::Result {
    writeln!(text, "# Benchmark of {}\n", table::subjects(&run.figures).join(", "))?;
    writeln!(text, "Made by `vxdp-bench {}`.\n", run.arguments.join(" "))?;
    writeln!(text, "- {}\n- {}", run.began, run.machine.line())?;
    if let Some(commit) = &run.commit {
        writeln!(text, "- commit {commit}")?;
    }
    if let Some(sink) = &run.sink {
        writeln!(text, "- the sink's host: {}", sink.line())?;
    }
    for Calibration { generator, frame, flows, rate } in &run.calibrations {
        writeln!(
            text,
            "- generator {generator} into sink, {frame} bytes, {flows} flows: {:.3} Mpps",
            rate / 1e6
        )?;
    }
    writeln!(text, "\n{METHOD}\nReference: {}.\n", ratio::reference(&run.figures).unwrap_or("none"))?;
    list(text, "Warnings", &run.warnings())?;
    if let Some(against) = against {
        writeln!(text, "## Against {}\n\n{}\n", against.name, against.summary())?;
        let mut changes = Table::new();
        if let [header, rows @ ..] = &against.rows()[..] {
            changes
                .set_header(header.iter().map(escaped))
                .add_rows(rows.iter().map(|r| r.iter().map(escaped)));
        }
        writeln!(text, "{}\n", changes.load_style(presets::ASCII_MARKDOWN))?;
    }
    for section in sections(&run.figures) {
        writeln!(text, "## {}\n\n{}\n", section.measurement, rows(&section.figures))?;
        let ways = regimes(&section.figures);
        let ways: Vec<_> = ways.iter().map(|(subject, regime)| format!("`{subject}`: {regime}")).collect();
        list(text, "Regimes", &ways)?;
    }
    Ok(())
}

fn list(text: &mut String, title: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(text, "{title}:\n")?;
    lines.iter().try_for_each(|line| writeln!(text, "- {line}"))?;
    writeln!(text)
}

fn rows(figures: &[Figure]) -> Table {
    let subjects = table::subjects(figures);
    let mut rows = Table::new();
    rows.load_style(presets::ASCII_MARKDOWN);
    rows.set_header(["conditions", "metric"].into_iter().chain(subjects.iter().copied()));
    for row in table::rows(figures) {
        let mut cells = vec![escaped(row.conditions.line()), escaped(&row.metric)];
        for subject in &subjects {
            let figure = figures.iter().find(|f| f.subject == *subject && f.compares_with(row));
            let ratio = figure.and_then(|figure| ratio::to_reference(figure, figures));
            let ratio = ratio.map(|ratio| format!(" ({})", ratio.show())).unwrap_or_default();
            cells.push(figure.map(|figure| escaped(table::cell(figure) + &ratio)).unwrap_or_default());
        }
        rows.add_row(cells);
    }
    rows
}

fn escaped(cell: impl AsRef<str>) -> String {
    cell.as_ref().replace('|', "\\|").replace('*', "\\*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;
    use crate::figure::tests::figure;

    #[test]
    fn the_summary_has_medians_ratios_and_regimes() {
        let kernel = figure("kernel", Unit::FramesPerSecond, &[2.0e5, 2.0e5]);
        let xdp =
            Figure { regime: "hook driver".into(), ..figure("xdp", Unit::FramesPerSecond, &[3.0e5, 3.0e5]) };
        let text = markdown(&Run { figures: vec![kernel, xdp], ..Run::default() }, None);
        for part in ["| kernel", "0.200 Mpps", "0.300 Mpps ±0 % (1.50×)", "- `xdp`: hook driver"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_mark_does_not_become_markup() {
        assert_eq!(escaped("1 | 2 *"), "1 \\| 2 \\*");
    }
}
