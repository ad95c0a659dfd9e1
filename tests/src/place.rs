//! A network namespace of a lab, as a place where programs and sockets run.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::command::{self, DEFAULT_TIMEOUT, Outcome};

/// Environment variable that every program of a lab carries, so that a stray one can be found and attributed.
pub(crate) const LAB_VARIABLE: &str = "VXDP_LAB";

/// A network namespace together with the mount and UTS namespaces of the host it belongs to.
#[derive(Debug, Clone)]
pub struct Place {
    lab: String,
    label: String,
    holder: u32,
    net: PathBuf,
}

impl Place {
    /// The host that process `holder` keeps alive.
    pub(crate) fn of_host(lab: &str, label: &str, holder: u32) -> Self {
        let net = PathBuf::from(format!("/proc/{holder}/ns/net"));
        Self { lab: lab.to_owned(), label: label.to_owned(), holder, net }
    }

    /// Where this process is, whether in a lab or not.
    pub fn here() -> Self {
        let lab = std::env::var(LAB_VARIABLE).unwrap_or_default();
        Self::of_host(&lab, "this host", std::process::id())
    }

    /// The network namespace at `path`, as the machine's mount namespace has it; `label` names it in messages.
    pub fn at(&self, path: &Path, label: &str) -> Self {
        Self { label: label.to_owned(), net: path.to_owned(), ..self.clone() }
    }

    /// The namespace `name` of the same host, as in `ip netns`.
    pub fn netns(&self, name: &str) -> Self {
        // `root` leads into the mount namespace of the holder, where alone `/run/netns` holds the name.
        let net = PathBuf::from(format!("/proc/{}/root/run/netns/{name}", self.holder));
        Self { label: format!("{}/{name}", self.label), net, ..self.clone() }
    }

    /// The network namespace of process `pid`.
    pub fn of_pid(&self, pid: u32) -> Self {
        let net = PathBuf::from(format!("/proc/{pid}/ns/net"));
        Self { label: format!("{}/pid {pid}", self.label), net, ..self.clone() }
    }

    /// A name for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The process whose mount and UTS namespaces are used.
    pub fn holder(&self) -> u32 {
        self.holder
    }

    /// Path of the network namespace, valid in the machine's mount namespace.
    pub fn path(&self) -> &Path {
        &self.net
    }

    /// Whether the network namespace is there.
    pub fn exists(&self) -> bool {
        self.inode().is_ok()
    }

    /// Identity of the network namespace.
    pub fn inode(&self) -> Result<u64> {
        let file = File::open(&self.net).with_context(|| format!("no network namespace {}", self.label))?;
        Ok(file.metadata()?.ino())
    }

    /// A command that will run here: to be spawned by the caller.
    ///
    /// It gets a process group of its own: Ctrl-C in a terminal then reaches only the lab's owner, which ends
    /// what it started in order.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg("--target")
            .arg(self.holder.to_string())
            .args(["--mount", "--uts"])
            .arg(format!("--net={}", self.net.display()))
            .arg("--")
            .args(words)
            .env(LAB_VARIABLE, &self.lab)
            .process_group(0);
        command
    }

    /// Runs a program to its end and gives how it ended.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
        timeout: Duration,
    ) -> Result<Outcome> {
        command::run(self.command(words), timeout).with_context(|| format!("in {}", self.label))
    }

    /// Runs a program that must succeed and gives its standard output.
    pub fn exec<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        self.run(words, DEFAULT_TIMEOUT)?.success().with_context(|| format!("in {}", self.label))
    }

    /// Runs the lines of a shell script; the first that fails ends it.
    pub fn script(&self, lines: &str) -> Result<String> {
        self.exec(["sh", "-euc", lines])
    }

    /// The output of `ip -json …` or `bridge -json …`.
    pub fn json<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<serde_json::Value> {
        let text = self.exec(words)?;
        // iproute2 prints nothing at all where an empty list is meant.
        let text = if text.trim().is_empty() { "[]" } else { &text };
        serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))
    }

    /// Runs `work` on a thread inside the network namespace; sockets that it opens stay there for life.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(&self.net).with_context(|| format!("no network namespace {}", self.label))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("while entering {}", self.label))?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
