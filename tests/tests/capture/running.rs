//! A running capture, the lab that it runs in, and what tshark makes of its file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vxdp_lab::{Attachment, Host, Lifetime, Mode, TwoHosts, vxdp_binary, wait_until};

/// A running `vxdp capture`.
pub(crate) struct Running {
    pub(crate) child: Child,
    said: PathBuf,
}

impl Running {
    /// Starts one on `host` with its log in a file named after `name`, and waits until it captures.
    pub(crate) fn start(host: &Host, name: &str, words: &[&str]) -> Result<Self> {
        let binary = vxdp_binary()?;
        let said = host.dir().join(format!("{name}.log"));
        let all = [binary.to_str().context("not UTF-8")?, "capture"].into_iter().chain(words.iter().copied());
        let mut command = host.command(all);
        command.stdout(Stdio::null()).stderr(File::create(&said)?);
        Self::begin(command, said)
    }

    /// Starts a command that contains one, with its standard error in `said`, and waits until it captures.
    pub(crate) fn begin(mut command: Command, said: PathBuf) -> Result<Self> {
        let running = Self { child: command.stdin(Stdio::null()).spawn()?, said };
        wait_until("the capture has begun", Duration::from_secs(10), || {
            Ok(running.said()?.contains("capturing on"))
        })?;
        Ok(running)
    }

    pub(crate) fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.said)?)
    }

    /// Ends it as Ctrl-C does; its summary.
    pub(crate) fn stop(mut self) -> Result<String> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGINT)?;
        let status = self.wait()?;
        ensure!(status.success(), "{status}: {}", self.said()?);
        self.said()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let mut status = None;
        wait_until("the capture has ended", Duration::from_secs(10), || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context("it has not ended")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What tshark makes of a file: one line per frame with these fields.
pub(crate) fn tshark(host: &Host, file: &Path, filter: &str) -> Result<Vec<String>> {
    let file = file.to_str().context("not UTF-8")?;
    let fields =
        ["frame.interface_name", "frame.packet_flags_direction", "frame.comment", "vxlan.vni", "icmp.type"];
    let mut words = vec!["tshark", "-n", "-r", file, "-Y", filter, "-T", "fields", "-E", "separator=|"];
    for field in fields {
        words.extend(["-e", field]);
    }
    let text = host.run(words, Duration::from_secs(30))?.success()?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The same in xdp mode and then in kernel mode, in one lab.
pub(crate) fn in_both_modes(name: &str, steps: impl Fn(&TwoHosts, Mode) -> Result<()>) {
    in_mode(name, Mode::Xdp, |hosts| {
        steps(hosts, Mode::Xdp).context("in xdp mode")?;
        hosts.lab().h1().vxdp(&["mode", "kernel"])?.success()?;
        steps(hosts, Mode::Kernel).context("in kernel mode")
    });
}

/// One host in this mode, the other the kernel's, so that each path is judged by itself.
pub(crate) fn in_mode(name: &str, mode: Mode, steps: impl FnOnce(&TwoHosts) -> Result<()>) {
    let configs = TwoHosts::configs(Attachment::Netns).map(str::to_owned);
    let modes = [mode, Mode::Kernel];
    let hosts = TwoHosts::build_each(name, Attachment::Netns, modes, configs, Lifetime::Bound)
        .unwrap_or_else(|error| panic!("no lab: {error:#}"));
    steps(&hosts).unwrap_or_else(|error| panic!("{name}: {error:#}"));
}
