//! `vxdp down`: removes what the configuration created, with or without a running daemon.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::api::Request;
use crate::api::client::{self, Error};
use crate::cli::DownArgs;
use crate::config;
use crate::daemon;

#[derive(Serialize, Deserialize)]
struct Removed {
    removed: Vec<String>,
}

/// Has a running daemon remove everything and stop; without one, removes everything itself.
///
/// # Errors
/// When something could not be removed; the rest is removed all the same.
pub fn down(args: &DownArgs) -> anyhow::Result<()> {
    let config = config::load(&args.config.file)?.config;
    let removed = match client::ask::<Removed>(&config.control.socket, &Request::Down) {
        Ok(Removed { removed }) => removed,
        Err(Error::NoDaemon { .. }) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let report = runtime.block_on(daemon::down(&config))?;
            report.steps.iter().map(ToString::to_string).collect()
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout().lock();
    if args.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&Removed { removed })?)?;
        return Ok(());
    }
    for step in &removed {
        writeln!(out, "{step}")?;
    }
    if removed.is_empty() {
        writeln!(out, "nothing to remove")?;
    }
    Ok(())
}
