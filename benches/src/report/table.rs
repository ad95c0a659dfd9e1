//! Tables: one row for each metric and its conditions, one column for each subject.

use comfy_table::{Table, presets};

use crate::figure::Figure;

/// The figures as a table for a terminal.
pub fn terminal(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    fill(&mut table, figures);
    table
}

/// Subjects in the order in which they appear.
pub fn subjects(figures: &[Figure]) -> Vec<&str> {
    let mut names = Vec::new();
    for figure in figures {
        if !names.contains(&figure.subject.as_str()) {
            names.push(figure.subject.as_str());
        }
    }
    names
}

fn fill(table: &mut Table, figures: &[Figure]) {
    let subjects = subjects(figures);
    let header = ["measurement", "conditions", "metric"].into_iter().chain(subjects.iter().copied());
    table.set_header(header.collect::<Vec<_>>());
    for row in rows(figures) {
        let mut cells = vec![row.measurement.clone(), row.conditions.line(), row.metric.clone()];
        for subject in &subjects {
            let figure = figures.iter().find(|f| f.subject == *subject && f.compares_with(row));
            cells.push(figure.map(cell).unwrap_or_default());
        }
        table.add_row(cells);
    }
}

/// The first figure of each row.
pub fn rows(figures: &[Figure]) -> Vec<&Figure> {
    let mut rows: Vec<&Figure> = Vec::new();
    for figure in figures {
        if !rows.iter().any(|row| row.compares_with(figure)) {
            rows.push(figure);
        }
    }
    rows
}

/// Median and spread: `0.317 Mpps ±4 %`, and a mark where the samples lie too far apart or need a note.
pub fn cell(figure: &Figure) -> String {
    let mut text = figure.unit.show(figure.median());
    if figure.samples.len() > 1 {
        text += &format!(" ±{:.0} %", figure.spread() * 50.0);
    }
    if figure.is_wide() {
        text += " ?";
    }
    if !figure.notes.is_empty() {
        text += " *";
    }
    text
}
