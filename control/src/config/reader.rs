//! Reads TOML tables key by key, remembers where each stood, and collects every problem instead of stopping.
//!
//! serde would stop at the first wrong value; an operator wants to see all of them.

use std::cell::RefCell;
use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::KeyPath;
use super::schema::{Fallback, SECTIONS, Section};
use super::value::{article, kind};

/// What reading found out besides the values.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Byte offset of each item.
    pub(super) offsets: HashMap<KeyPath, usize>,
    /// What is wrong with which item.
    pub(super) problems: Vec<(KeyPath, String)>,
}

/// One table of the file, whose keys are known to the schema.
pub(super) struct Table<'a> {
    entries: &'a DeTable<'a>,
    section: &'static Section,
    path: KeyPath,
    findings: &'a RefCell<Findings>,
}

/// A value, or what is wrong with it: a sentence is all that anybody does with it.
pub(super) type Read<T> = Result<T, String>;

impl<'a> Table<'a> {
    /// Opens a table and reports the keys that it must not have.
    pub(super) fn open(
        entries: &'a DeTable<'a>,
        section: &'static Section,
        path: KeyPath,
        findings: &'a RefCell<Findings>,
    ) -> Self {
        let table = Self { entries, section, path, findings };
        for (key, _) in entries {
            let path = table.path.key(key.get_ref());
            findings.borrow_mut().offsets.insert(path.clone(), key.span().start);
            if section.key(key.get_ref()).is_none() {
                table.report(path, unknown_key(key.get_ref(), section));
            }
        }
        table
    }

    /// This table's name.
    pub(super) fn path(&self) -> &KeyPath {
        &self.path
    }

    /// Reports a problem with an item.
    pub(super) fn report(&self, path: KeyPath, message: String) {
        self.findings.borrow_mut().problems.push((path, message));
    }

    /// Whether the file gives this key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Whether the file gives this key an empty list.
    pub(super) fn is_empty_list(&self, name: &str) -> bool {
        let value = self.entries.get(name).and_then(|value| value.get_ref().as_array());
        value.is_some_and(|list| list.is_empty())
    }

    /// The value of a key that may be absent; nothing as well when it is wrong, which is reported.
    pub(super) fn optional<T>(&self, name: &str, read: impl FnOnce(&DeValue<'_>) -> Read<T>) -> Option<T> {
        debug_assert!(self.section.key(name).is_some(), "the schema does not know `{name}`");
        let value = self.entries.get(name)?;
        read(value.get_ref()).map_err(|message| self.report(self.path.key(name), message)).ok()
    }

    /// The value of a key that must be there.
    pub(super) fn required<T>(&self, name: &str, read: impl FnOnce(&DeValue<'_>) -> Read<T>) -> Option<T> {
        self.demand(name);
        self.optional(name, read)
    }

    /// The value of a key, else the schema's default, also when it is wrong (which is reported).
    pub(super) fn with_default<T>(&self, name: &str, read: impl Fn(&DeValue<'_>) -> Read<T>) -> T {
        self.optional(name, &read).unwrap_or_else(|| {
            let Some(Fallback::Value(default)) = self.section.key(name).map(|key| key.default) else {
                unreachable!("the schema has a default for `{name}`");
            };
            let default = DeValue::parse(default).expect("the schema's defaults are TOML");
            read(default.get_ref()).expect("the schema's defaults are valid")
        })
    }

    /// The values of a key that takes one or a list of them; wrong ones are reported and left out.
    pub(super) fn one_or_list<T>(&self, name: &str, read: impl Fn(&DeValue<'_>) -> Read<T>) -> Vec<T> {
        match self.entries.get(name).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.list(name, read),
            _ => self.optional(name, read).into_iter().collect(),
        }
    }

    /// The values of a key that takes a list; wrong ones are reported and left out.
    pub(super) fn list<T>(&self, name: &str, read: impl Fn(&DeValue<'_>) -> Read<T>) -> Vec<T> {
        let mut values = Vec::new();
        for (path, item) in self.items(name) {
            match read(item.get_ref()) {
                Ok(value) => values.push(value),
                Err(message) => self.report(path, message),
            }
        }
        values
    }

    /// The table under a key; nothing when it is absent or no table, which is reported.
    pub(super) fn table(&self, name: &str, section: &'static Section) -> Option<Table<'a>> {
        let value = self.entries.get(name)?;
        self.table_at(value, section, self.path.key(name))
    }

    /// The tables in the list under a key.
    pub(super) fn tables(&self, name: &str, section: &'static Section) -> Vec<Table<'a>> {
        let items = self.items(name);
        items.into_iter().filter_map(|(path, item)| self.table_at(item, section, path)).collect()
    }

    /// Reports a key that is missing; whether it is there.
    pub(super) fn demand(&self, name: &str) -> bool {
        if !self.has(name) {
            let takes = self.section.key(name).map_or("", |key| key.takes);
            self.report(self.path.key(name), format!("missing; {} needs it ({takes})", self.section.header));
        }
        self.has(name)
    }

    fn table_at(
        &self,
        value: &'a Spanned<DeValue<'a>>,
        section: &'static Section,
        path: KeyPath,
    ) -> Option<Table<'a>> {
        match value.get_ref() {
            DeValue::Table(entries) => Some(Table::open(entries, section, path, self.findings)),
            other => {
                self.report(path, format!("expected a table, found {}", article(kind(other))));
                None
            }
        }
    }

    fn items(&self, name: &str) -> Vec<(KeyPath, &'a Spanned<DeValue<'a>>)> {
        let path = self.path.key(name);
        match self.entries.get(name).map(Spanned::get_ref) {
            None => Vec::new(),
            Some(DeValue::Array(items)) => {
                let located = items.iter().enumerate().map(|(index, item)| (path.index(index), item));
                let located: Vec<_> = located.collect();
                let offsets = located.iter().map(|(path, item)| (path.clone(), item.span().start));
                self.findings.borrow_mut().offsets.extend(offsets);
                located
            }
            Some(DeValue::Table(_)) => {
                let header = if name == "overlay" { "overlay".to_owned() } else { format!("overlay.{name}") };
                self.report(path, format!("expected a list of tables; write [[{header}]], not [{header}]"));
                Vec::new()
            }
            Some(other) => {
                self.report(path, format!("expected a list, found {}", article(kind(other))));
                Vec::new()
            }
        }
    }
}

/// Says that a key is unknown, and which one may have been meant.
fn unknown_key(name: &str, section: &Section) -> String {
    /// Below this similarity (0 to 1) a known key is no likely meaning of an unknown one. Lower, and
    /// `speed` suggests `pid`; higher, and `vini` no longer finds `vni`.
    const SIMILAR: f64 = 0.75;
    let similarity = |known: &str| strsim::jaro_winkler(&name.to_lowercase(), known);
    let nearest = section.keys.iter().max_by(|a, b| similarity(a.name).total_cmp(&similarity(b.name)));
    if let Some(key) = nearest.filter(|key| similarity(key.name) >= SIMILAR) {
        return format!("unknown key; did you mean `{}`?", key.name);
    }
    if let Some(elsewhere) = SECTIONS.iter().find(|other| other.key(name).is_some()) {
        return format!("unknown key in {}; `{name}` belongs in {}", section.header, elsewhere.header);
    }
    let known: Vec<_> = section.keys.iter().map(|key| key.name).collect();
    format!("unknown key; {} takes {}", section.header, known.join(", "))
}
