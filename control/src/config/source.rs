//! Where in the file each configuration item stands, so that later errors can name the line.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Problem;

/// A place in a file; both numbers start at 1, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// The name of one configuration item: keys joined by dots, places in lists in brackets, as in
/// `overlay[0].container[1].mac`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct KeyPath(String);

impl KeyPath {
    /// The whole file.
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// `overlay[index]`.
    pub fn overlay(index: usize) -> Self {
        Self::root().key("overlay").index(index)
    }

    /// The item `name` inside this one.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        let dot = if self.0.is_empty() { "" } else { "." };
        Self(format!("{}{dot}{name}", self.0))
    }

    /// Element `index` of this list, counted from 0.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The item that holds this one.
    fn parent(&self) -> Option<Self> {
        let end = self.0.rfind(['.', '['])?;
        Some(Self(self.0[..end].to_owned()))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The file a configuration came from, and the place of each item in it.
#[derive(Debug, Clone)]
pub struct Source {
    file: PathBuf,
    text: String,
    line_starts: Vec<usize>,
    offsets: HashMap<KeyPath, usize>,
}

impl Source {
    /// A file whose items are not known yet.
    pub(super) fn new(file: &Path, text: &str) -> Self {
        let after_newline = text.match_indices('\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(after_newline).collect();
        Self { file: file.to_owned(), text: text.to_owned(), line_starts, offsets: HashMap::new() }
    }

    /// The same file with the byte offset of each item.
    pub(super) fn with_offsets(mut self, offsets: HashMap<KeyPath, usize>) -> Self {
        self.offsets = offsets;
        self
    }

    /// The file's path as it was given.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where the item stands. An item that is not in the file (a default) is found where the one that would
    /// hold it stands.
    pub fn locate(&self, key: &KeyPath) -> Option<Position> {
        let mut key = key.clone();
        loop {
            if let Some(offset) = self.offsets.get(&key) {
                return Some(self.position(*offset));
            }
            key = key.parent()?;
        }
    }

    /// A problem with this item.
    pub fn problem(&self, key: &KeyPath, message: impl Into<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            position: self.locate(key),
            key: Some(key.clone()),
            message: message.into(),
        }
    }

    /// A problem that has no item of the file to blame.
    pub fn general_problem(&self, message: impl Into<String>) -> Problem {
        Problem { file: self.file.clone(), position: None, key: None, message: message.into() }
    }

    /// Line and column of a byte offset; an offset behind the end is taken for the end.
    pub(super) fn position(&self, offset: usize) -> Position {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or_default();
        Position { line, column: before.chars().count() + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let source = Source::new(Path::new("f"), "a\nbé = 1\n");
        assert_eq!(source.position(0), Position { line: 1, column: 1 });
        assert_eq!(source.position(2), Position { line: 2, column: 1 });
        assert_eq!(source.position(6), Position { line: 2, column: 4 });
        assert_eq!(source.position(10), Position { line: 3, column: 1 });
        assert_eq!(source.position(999), Position { line: 3, column: 1 });
    }

    #[test]
    fn an_item_that_has_no_place_is_found_where_its_holder_stands() {
        let overlay = KeyPath::overlay(0);
        let source =
            Source::new(Path::new("f"), "\n[[overlay]]\n").with_offsets([(overlay.clone(), 1)].into());
        assert_eq!(source.locate(&overlay.key("container").index(3).key("mac")).map(|p| p.line), Some(2));
        assert_eq!(source.locate(&KeyPath::overlay(1)), None);
    }
}
