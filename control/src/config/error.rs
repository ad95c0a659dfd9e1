//! What is wrong with a configuration: every problem, each with its place in the file.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::{KeyPath, Position};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot read the configuration: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file was read, but what it says cannot be.
    #[error("{0}")]
    Invalid(Problems),
}

impl ConfigError {
    /// The problems, one by one, where the file could be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Invalid(problems) => &problems.0,
        }
    }
}

/// All problems found, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Sorts `problems` by place; nothing when there are none.
    pub fn new(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by_key(|problem| problem.position);
        problems.dedup();
        if problems.is_empty() { None } else { Some(Self(problems)) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// One problem; prints as one line: `FILE:LINE: KEY: MESSAGE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The configuration file.
    pub file: PathBuf,
    /// Where in the file, if it has one place.
    pub position: Option<Position>,
    /// Which item, as in `overlay[0].vni`.
    pub key: Option<KeyPath>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:")?;
            // The key says it better than the column; a syntax error has only the column.
            if self.key.is_none() {
                write!(f, "{column}:")?;
            }
        }
        if let Some(key) = &self.key {
            write!(f, " {}:", one_line(key.as_str()))?;
        }
        write!(f, " {}", one_line(&self.message))
    }
}

/// Control characters escaped: what the file says may not break a message into lines.
fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    })
}
