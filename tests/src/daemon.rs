//! The real `vxdp`, running in a host of a lab.

use std::fs::{File, OpenOptions};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::command::{self, Outcome};
use crate::host::Host;

/// Time given to the daemon for building its overlays, and for stopping, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What carries known unicast frames, as in `vxdp run --mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The kernel's vxlan device.
    Kernel,
    /// Userspace over AF_XDP.
    Xdp,
    /// The BPF programs themselves.
    #[value(name = "inkernel")]
    InKernel,
}

impl Mode {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Kernel, Self::Xdp, Self::InKernel];

    /// A name for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Xdp => "xdp",
            Self::InKernel => "inkernel",
        }
    }

    /// As on the command line, behind `vxdp run` and `vxdp mode`: the mode, then the engine.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::Kernel => &["kernel"],
            Self::Xdp => &["xdp", "--engine", "userspace"],
            Self::InKernel => &["xdp", "--engine", "inkernel"],
        }
    }

    /// Whether a fast path carries known unicast.
    pub fn is_fast(self) -> bool {
        self != Self::Kernel
    }
}

/// A `vxdp run` in a host. Dropping it kills it, which leaves its overlay standing.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

/// The `vxdp` program: `$VXDP_BIN`, or the one that was built beside the running program.
pub fn vxdp_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("VXDP_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    // Integration tests are one directory deeper than programs, in `deps`.
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("vxdp")).find(|path| path.is_file());
    found.with_context(|| {
        format!("no `vxdp` beside {}; run `cargo build --package vxdp-control`", own.display())
    })
}

impl Host {
    /// Writes `config` to a file of the lab and returns its path.
    pub fn write_config(&self, config: &str) -> Result<PathBuf> {
        let path = self.config_path();
        std::fs::write(&path, config).with_context(|| format!("while writing {}", path.display()))?;
        Ok(path)
    }

    /// Where [`write_config`](Self::write_config) writes.
    pub fn config_path(&self) -> PathBuf {
        self.dir().join(format!("{}.toml", self.name()))
    }

    /// Making this file makes a worker of the daemon panic, once, if that is a build for debugging.
    pub fn bug_file(&self) -> PathBuf {
        self.dir().join(format!("{}.bug", self.name()))
    }

    /// Starts `vxdp run` and waits until it says that it is ready.
    pub fn start_vxdp(&self, config: &Path, mode: Mode) -> Result<Daemon> {
        self.start_daemon(self.run_command(config, Some(mode), &[])?)
    }

    /// Starts `vxdp run` under a watchdog of this period, as systemd does, and waits until it says that it is ready;
    /// the socket receives what it tells the service manager from then on.
    pub fn start_watched_vxdp(
        &self,
        config: &Path,
        mode: Mode,
        period: Duration,
    ) -> Result<(UnixDatagram, Daemon)> {
        let mut command = self.run_command(config, Some(mode), &[])?;
        command.env("WATCHDOG_USEC", period.as_micros().to_string());
        self.when_ready(self.spawn_command(command)?)
    }

    /// As [`Self::start_vxdp`], in the modes that the configuration names.
    pub fn start_vxdp_as_configured(&self, config: &Path) -> Result<Daemon> {
        self.start_daemon(self.run_command(config, None, &[])?)
    }

    /// Starts `vxdp run --takeover` beside a daemon that runs, and waits until it says that it is ready.
    pub fn take_over_vxdp(&self, config: &Path, mode: Mode) -> Result<Daemon> {
        self.start_daemon(self.run_command(config, Some(mode), &["--takeover"])?)
    }

    fn when_ready(&self, (ready, mut daemon): (UnixDatagram, Daemon)) -> Result<(UnixDatagram, Daemon)> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !crate::interrupted() {
            let mut buffer = [0; 4096];
            // The socket's time limit makes this loop turn even when nothing comes.
            if let Ok(length) = ready.recv(&mut buffer)
                && buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
            {
                return Ok((ready, daemon));
            }
            if let Some(status) = daemon.child.try_wait()? {
                bail!("`vxdp run` on {} ended with {status}:\n{}", self.name(), daemon.log_text());
            }
        }
        if crate::interrupted() {
            bail!("interrupted while `vxdp run` starts on {}", self.name());
        }
        bail!("`vxdp run` on {} does not become ready:\n{}", self.name(), daemon.log_text())
    }

    /// Starts `vxdp run` without waiting; the socket receives what it tells the service manager.
    pub fn spawn_vxdp(&self, config: &Path, mode: Mode) -> Result<(UnixDatagram, Daemon)> {
        self.spawn_command(self.run_command(config, Some(mode), &[])?)
    }

    /// Starts `vxdp run` by a command of the caller's, and waits until it says that it is ready.
    pub(crate) fn start_daemon(&self, command: Command) -> Result<Daemon> {
        Ok(self.when_ready(self.spawn_command(command)?)?.1)
    }

    fn run_command(&self, config: &Path, mode: Option<Mode>, words: &[&str]) -> Result<Command> {
        let mut command = self.command([vxdp_binary()?.as_os_str(), "run".as_ref(), "--config".as_ref()]);
        command.arg(config).args(words);
        if let Some(mode) = mode {
            command.arg("--mode").args(mode.words());
        }
        command.envs(self.docker_address().map(|address| ("DOCKER_HOST", address)));
        Ok(command)
    }

    fn spawn_command(&self, mut command: Command) -> Result<(UnixDatagram, Daemon)> {
        let path = self.dir().join(format!("{}.notify", self.name()));
        // Left over from an earlier run on this host.
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).with_context(|| path.display().to_string())?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let log = self.daemon_log();
        let output = OpenOptions::new().create(true).append(true).open(&log)?;
        command.env("NOTIFY_SOCKET", &path).env("VXDP_TEST_WORKER_BUG", self.bug_file());
        let child = redirect(&mut command, output)?.spawn().context("while starting `vxdp run`")?;
        Ok((socket, Daemon { child, log }))
    }

    /// Runs another `vxdp` command to its end.
    pub fn vxdp(&self, words: &[&str]) -> Result<Outcome> {
        let binary = vxdp_binary()?;
        let program = binary.to_str().context("the path of vxdp is not UTF-8")?;
        let mut command = self.command(std::iter::once(program).chain(words.iter().copied()));
        command.envs(self.docker_address().map(|address| ("DOCKER_HOST", address)));
        command::run(command, PATIENCE).with_context(|| format!("in {}", self.name()))
    }
}

fn redirect(command: &mut Command, output: File) -> Result<&mut Command> {
    let errors = output.try_clone()?;
    Ok(command.stdin(Stdio::null()).stdout(output).stderr(errors))
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory in bytes, the frames' memory included, but not the pages of the program's file, which
    /// come as its code is used for the first time and go as the system pleases.
    pub fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kibibytes = |name| -> Result<u64> {
            let rest = status.lines().find_map(|line| line.strip_prefix(name)).context(name)?;
            Ok(rest.trim().strip_suffix(" kB").context(name)?.parse()?)
        };
        Ok((kibibytes("RssAnon:")? + kibibytes("RssShmem:")?) * 1024)
    }

    /// Everything it logged, earlier runs on the same host included.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Stops it with SIGTERM and wants a clean exit in bounded time.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        match command::wait_bounded(&mut self.child, PATIENCE)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("vxdp ended with {status} on SIGTERM:\n{}", self.log_text()),
            None => bail!("vxdp does not end on SIGTERM:\n{}", self.log_text()),
        }
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = command::wait_bounded(&mut self.child, PATIENCE)?;
        status.with_context(|| format!("vxdp runs on:\n{}", self.log_text()))
    }

    /// Leaves it running when the value goes.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already gone after `stop` and `kill`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
