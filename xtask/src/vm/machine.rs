//! qemu: starting the virtual machine, reading what it says, and ending it in any case.

use super::console::{Console, Line};
use super::kernel::Kernel;
use crate::process;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program.
const QEMU: &str = "qemu-system-x86_64";

/// Given to the start of the machine, in seconds: five on an idle host, many times that on a busy one.
const BOOT: u32 = 120;

/// The serial line for a file that leaves the machine, as it is called inside.
pub(super) const RESULTS: &str = "/dev/ttyS2";

/// A machine that is ready to be started.
pub(super) struct Machine<'a> {
    /// What it runs.
    pub(super) kernel: &'a Kernel,
    /// Its files.
    pub(super) archive: PathBuf,
}

impl Machine<'_> {
    /// Runs it to its end, at most `seconds` and the time for starting; its jobs' output goes where ours does.
    pub(super) fn run(&self, seconds: u32) -> Result<Console> {
        // timeout(1) ends qemu even where this process is killed.
        let mut command = process::command("timeout");
        command.args(["--foreground", "--kill-after=5", &(seconds + BOOT).to_string(), QEMU]);
        self.arguments(&mut command, "");
        let log = self.log();
        command.args(["-display", "none", "-monitor", "none"]);
        command.arg("-serial").arg(to_file(&log)).args(["-serial", "stdio"]);
        command.arg("-serial").arg(to_file(&self.results()));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", process::show(&command)))?;
        let output = child.stdout.take().context("qemu's output is not piped")?;
        let console = follow(BufReader::new(output));
        let status = child.wait().context("cannot wait for qemu")?;
        let console = console?;
        if !console.done {
            let why = if status.code() == Some(124) { "its time was over" } else { "it ended early" };
            println!("\nthe machine: {why} ({status}); the kernel's last words, of {}:", log.display());
            println!("{}", tail(&log, 20));
        }
        Ok(console)
    }

    /// Becomes a machine with a shell on this terminal.
    pub(super) fn shell(&self) -> Result<()> {
        let mut command = process::command(QEMU);
        self.arguments(&mut command, "vxdp-vm=shell");
        process::exec(command.args(["-nographic", "-serial", "mon:stdio"]))
    }

    fn arguments(&self, command: &mut Command, words: &str) {
        // Emulation (TCG) everywhere, also where there is KVM: the same result on every machine.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(&self.archive);
        // A panic ends the machine (with -no-reboot) instead of leaving it hanging.
        let words = format!("console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off {words}");
        command.arg("-append").arg(words);
    }

    /// What was written to [`RESULTS`].
    pub(super) fn results(&self) -> PathBuf {
        self.archive.with_extension("results")
    }

    /// What the kernel says.
    fn log(&self) -> PathBuf {
        self.archive.with_extension("log")
    }
}

/// qemu's word for a serial line that ends in `file`.
fn to_file(file: &Path) -> OsString {
    let mut word = OsString::from("file:");
    word.push(file);
    word
}

/// Reads the jobs' line to its end.
fn follow(mut output: impl BufRead) -> Result<Console> {
    let mut console = Console::default();
    let mut bytes = Vec::new();
    while output.read_until(b'\n', &mut bytes).context("cannot read what the machine says")? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        match console.line(text.trim_end_matches(['\n', '\r'])) {
            Line::Begin(job) => println!("\n-- {job} (emulated)"),
            Line::End(ended) => println!("-- {}: exit code {}", ended.job, ended.status),
            Line::Text(text) => println!("{text}"),
            Line::Silent => {}
        }
        bytes.clear();
    }
    Ok(console)
}

/// The last `lines` lines of `file`.
fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
