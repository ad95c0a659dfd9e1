//! What each command does: one file per command.

mod check;
mod manual;

pub use check::check;
pub use manual::{completions, man};

/// The command line asks for something that cannot be; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
