//! The file format in words, for manuals.

use super::schema::{Fallback, SECTIONS};

/// One key as a manual shows it; texts mark literal words by back ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The table it stands in, as written in the file.
    pub table: &'static str,
    /// Its name.
    pub key: &'static str,
    /// What it takes.
    pub takes: &'static str,
    /// What it is worth when the file does not give it.
    pub default: String,
    /// What it does.
    pub meaning: &'static str,
}

/// Every key of the file, table by table.
pub fn entries() -> impl Iterator<Item = Entry> {
    SECTIONS.iter().flat_map(|section| {
        section.keys.iter().map(|key| Entry {
            table: section.header,
            key: key.name,
            takes: key.takes,
            default: match key.default {
                Fallback::Required => "required".to_owned(),
                Fallback::Value(toml) => format!("`{toml}`"),
                Fallback::Derived(words) => words.to_owned(),
            },
            meaning: key.meaning,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_a_row_for_each_key_and_no_other() {
        let rows = entries().map(|Entry { key, takes, default, meaning, .. }| {
            format!("| `{key}` | {takes} | {default} | {meaning} |")
        });
        let rows: Vec<_> = rows.collect();
        let manual = include_str!("../../../docs/configuration.md");
        let written: Vec<_> = manual.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(written, rows, "the rows of docs/configuration.md should be:\n{}", rows.join("\n"));
    }

    #[test]
    fn the_defaults_in_the_schema_are_what_the_reader_takes() {
        // `Table::with_default` has its defaults from the schema and insists on their being there and valid, so
        // reading a file that gives none of them is the proof.
        let text = "underlay = { device = 'eth0', local = '192.0.2.1' }\noverlay = [{ vni = 1 }]\n";
        assert!(crate::config::parse(std::path::Path::new("f"), text.as_bytes()).is_ok());
    }
}
