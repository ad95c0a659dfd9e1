//! Tables for a terminal of 80 columns, and durations for humans.

use std::fmt;

use comfy_table::presets::NOTHING;

/// A table without lines: columns, two blanks apart.
pub(super) struct Table(comfy_table::Table);

impl Table {
    /// An empty table with a headline.
    pub(super) fn new<const COLUMNS: usize>(headline: [&str; COLUMNS]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_header(headline);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self(table)
    }

    /// Adds a row.
    pub(super) fn row<const COLUMNS: usize>(&mut self, cells: [String; COLUMNS]) {
        self.0.add_row(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.trim_fmt())
    }
}

/// `5s`, `2m5s`, `1h2m`, `3d4h`.
pub(super) fn ago(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// A count in at most five characters: 9999, then 10.0k, 1.2M, 3.4G …
pub(super) fn short(count: u64) -> String {
    if count < 10_000 {
        return count.to_string();
    }
    let mut value = count as f64;
    let mut unit = ' ';
    for next in ['k', 'M', 'G', 'T', 'P', 'E'] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if value < 99.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}
