//! `vxdp check`: says what `run` would object to, and changes nothing.

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::config::{self, ConfigError, Problem};
use crate::netns::Netns;
use crate::preflight::{self, PreflightError};

/// What `--json` shows.
#[derive(Serialize)]
struct Verdict<'a> {
    ok: bool,
    problems: &'a [Problem],
}

/// Reads the configuration and looks at the host.
///
/// # Errors
/// What is wrong with either.
pub fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let outcome = examine(args);
    if args.output.json {
        let problems = outcome.as_ref().err().and_then(problems).unwrap_or_default();
        let verdict = Verdict { ok: outcome.is_ok(), problems };
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&verdict)?)?;
    } else if outcome.is_ok() {
        writeln!(io::stdout(), "{}: fine", args.config.file.display())?;
    }
    outcome
}

fn examine(args: &CheckArgs) -> anyhow::Result<()> {
    let loaded = config::load(&args.config.file)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let host = Netns::current().context("while opening the host's network namespace")?;
    runtime.block_on(preflight::check(&loaded, &host))?;
    Ok(())
}

fn problems(error: &anyhow::Error) -> Option<&[Problem]> {
    if let Some(PreflightError::Unfit(error)) = error.downcast_ref() {
        return Some(error.problems());
    }
    error.downcast_ref().map(ConfigError::problems)
}
