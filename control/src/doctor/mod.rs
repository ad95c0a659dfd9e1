//! What stands between this host and a working, fast overlay: each finding with its reason and a command.

mod host;
mod kernel;
mod overlay;
mod rows;

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use crate::api::status::Status;
use crate::api::{Request, client};
use crate::config::{KeyPath, Loaded, Problem};
use crate::container::describe;
use crate::netns::Netns;
use crate::preflight::{self, PreflightError};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Fine,
    /// It works, but slower than it could.
    Slower,
    /// It does not work.
    Broken,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// Why that matters.
    pub why: String,
    /// The command that changes it, or shows more.
    pub command: Option<String>,
    /// What `--fix` would write, where that is safe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setting: Option<Setting>,
}

/// A kernel setting (`sysctl`) that can be changed and changed back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its file.
    pub file: PathBuf,
    /// The value it should have.
    pub value: String,
    /// In which namespace.
    #[serde(skip)]
    pub netns: Netns,
}

impl Setting {
    /// What it is now; `None` where the kernel has no such setting.
    pub fn read(&self) -> Option<String> {
        let read = self.netns.run(|| std::fs::read_to_string(&self.file));
        read.ok().map(|value| value.trim().to_owned())
    }

    /// Changes it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn write(&self, value: &str) -> io::Result<()> {
        self.netns.run(|| std::fs::write(&self.file, value))
    }
}

impl Finding {
    fn new(severity: Severity, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { severity, what: what.into(), why: why.into(), command: None, setting: None }
    }

    fn command(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }
}

/// Looks at the host and, where one answers, at the daemon. Changes nothing and sends nothing.
///
/// # Errors
/// When the host cannot be looked at.
pub async fn examine(loaded: &Loaded, host: &Netns) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let socket = &loaded.config.control.socket;
    let status: Option<Status> = match client::ask(socket, &Request::Status) {
        Ok(status) => Some(status),
        Err(error) => {
            findings.push(
                Finding::new(
                    Severity::Fine,
                    format!("{error}"),
                    "what a running daemon knows was not looked at",
                )
                .command(format!("vxdp run --config {}", loaded.source.file().display())),
            );
            None
        }
    };
    let facts = match preflight::check(loaded, host).await {
        Ok(facts) => Some(facts),
        Err(PreflightError::Unfit(error)) => {
            let why = "`vxdp run` refuses to start with it";
            let broken = |problem: &Problem| {
                Finding::new(Severity::Broken, problem.to_string(), why)
                    .command(format!("$EDITOR {}", loaded.source.file().display()))
            };
            let known =
                |problem: &&Problem| status.as_ref().is_some_and(|status| is_away(loaded, status, problem));
            findings.extend(error.problems().iter().filter(|problem| !known(problem)).map(broken));
            None
        }
        Err(error) => return Err(error.into()),
    };
    host::examine(&loaded.config, host, status.as_ref(), &mut findings).await;
    overlay::examine(loaded, host, facts, status.as_ref(), &mut findings).await?;
    // The worst first; of one kind, in the order of the checks.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

/// Whether a problem is that a container is not there, which the daemon says as well, and better.
fn is_away(loaded: &Loaded, status: &Status, problem: &Problem) -> bool {
    let Some(key) = &problem.key else { return false };
    let containers = status.overlays.iter().flat_map(|overlay| &overlay.containers);
    let away: Vec<_> = containers.filter(|container| !container.attached).map(|away| &away.attach).collect();
    loaded.config.overlays.iter().enumerate().any(|(overlay, spec)| {
        let path = KeyPath::overlay(overlay).key("container");
        spec.containers.iter().enumerate().any(|(index, container)| {
            let path = path.index(index).key("attach");
            key.as_str().starts_with(path.as_str()) && away.contains(&&describe(&container.attach))
        })
    })
}
