//! The configuration of one host: from a TOML file to checked values, with every problem's line.
//!
//! The file format is documented in `docs/configuration.md`. Reading goes in three steps: `reader` and `value`
//! take the items one by one, `draft` puts them together, `validate` looks at what has to hold between them.
//! Each step reports all it finds and goes on with the rest.

mod draft;
mod error;
pub mod manual;
mod name;
mod reader;
mod schema;
mod source;
#[cfg(test)]
mod tests;
mod types;
mod validate;
mod value;

use std::cell::RefCell;
use std::path::Path;

use toml::de::DeTable;

pub use error::{ConfigError, Problem, Problems};
pub use name::{IfName, InvalidName, NsName};
pub use source::{KeyPath, Position, Source};
pub use types::*;

use self::draft::{Draft, OverlayDraft, Placed};
use self::reader::Findings;

/// The least MTU of a device that carries IPv6 (RFC 8200, section 5).
pub const IPV6_MIN_MTU: u32 = 1280;

/// A checked configuration and where its items stand in the file.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the file says.
    pub config: Config,
    /// Where it says so.
    pub source: Source,
}

/// Reads and checks the file.
///
/// # Errors
/// When it cannot be read, or with every problem it has.
pub fn load(file: &Path) -> Result<Loaded, ConfigError> {
    let bytes =
        std::fs::read(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    parse(file, &bytes)
}

/// Checks the content of a file; `file` is its name for messages.
///
/// # Errors
/// With every problem it has.
pub fn parse(file: &Path, bytes: &[u8]) -> Result<Loaded, ConfigError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let source = Source::new(file, &valid);
            return Err(invalid(vec![syntax(&source, valid.len(), "not UTF-8 text".into())]));
        }
    };
    let source = Source::new(file, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let problem = |error: &toml::de::Error| {
            let offset = error.span().map_or(text.len(), |span| span.start);
            syntax(&source, offset, error.message().to_owned())
        };
        return Err(invalid(errors.iter().map(problem).collect()));
    }
    let findings = RefCell::new(Findings::default());
    let draft = draft::read(document.get_ref(), &findings);
    let Findings { offsets, mut problems } = findings.into_inner();
    validate::check(&draft, &mut problems);
    let source = source.with_offsets(offsets);
    if problems.is_empty()
        && let Some(config) = finish(draft)
    {
        return Ok(Loaded { config, source });
    }
    Err(invalid(problems.iter().map(|(key, message)| source.problem(key, message)).collect()))
}

fn syntax(source: &Source, offset: usize, message: String) -> Problem {
    Problem { position: Some(source.position(offset)), ..source.general_problem(message) }
}

fn invalid(problems: Vec<Problem>) -> ConfigError {
    ConfigError::Invalid(Problems::new(problems).expect("only called with a problem"))
}

/// A draft without problems is complete.
fn finish(draft: Draft) -> Option<Config> {
    let overlay = |placed: Placed<OverlayDraft>| {
        let OverlayDraft { overlay, containers, remotes } = placed.value;
        let containers = containers.into_iter().map(|placed| placed.value).collect();
        let remotes = remotes.into_iter().map(|placed| placed.value).collect();
        Overlay { containers, remotes, ..overlay }
    };
    Some(Config {
        underlay: draft.underlay?,
        dataplane: draft.dataplane,
        control: draft.control,
        overlays: draft.overlays.into_iter().map(overlay).collect(),
    })
}
