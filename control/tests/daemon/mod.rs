//! The real `vxdp run` on a throwaway host with one container, for the daemon's tests.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vxdp_control::api::status::{Fdb, RowStatus, Status};
use vxdp_control::api::{Request, client};

use crate::kernel_host::{Host, run};
use crate::scenario::Scenario;

/// How long anything may take on a machine that does other things as well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The known remote.
pub(crate) const REMOTE: &str = "02:42:0a:00:00:03";

/// The scenario's host 1. `remote` is its remote's `install`.
pub(crate) fn config(host: &Host, install: &str) -> String {
    Scenario { socket: &socket(host), install, ..Scenario::default() }.toml()
}

pub(crate) fn socket(host: &Host) -> PathBuf {
    host.ledger().with_extension("sock")
}

/// A running daemon; dropping it kills it.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

/// Writes the configuration and returns where.
pub(crate) fn write(host: &Host, config: &str) -> PathBuf {
    let path = host.ledger().with_extension("toml");
    std::fs::write(&path, config).expect("room for the configuration");
    path
}

/// `vxdp` with these words.
pub(crate) fn vxdp(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vxdp"));
    command.args(words);
    command
}

/// Runs `vxdp` to its end; its exit code, and what it wrote on either stream.
pub(crate) fn vxdp_to_its_end(words: &[&str]) -> (Option<i32>, String) {
    let output = vxdp(words).output().expect("vxdp starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

/// Makes the container and starts the daemon.
pub(crate) fn start(host: &Host, install: &str) -> Daemon {
    run("ip netns add c1");
    start_with(host, &config(host, install))
}

/// Starts the daemon and waits until it answers.
pub(crate) fn start_with(host: &Host, config: &str) -> Daemon {
    let mut daemon = spawn(host, config);
    let deadline = Instant::now() + PATIENCE;
    while client::ask::<Status>(&daemon.socket, &Request::Status).is_err() {
        assert!(Instant::now() < deadline, "it does not answer:\n{}", daemon.log());
        let ended = daemon.child.try_wait().expect("our child");
        assert_eq!(ended, None, "it ended:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    daemon
}

/// Starts the daemon.
pub(crate) fn spawn(host: &Host, config: &str) -> Daemon {
    let path = write(host, config);
    let log = host.ledger().with_extension("log");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
    let mut command = vxdp(&["run", "-v", "--config", path.to_str().expect("UTF-8")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    Daemon { child: command.spawn().expect("vxdp starts"), socket: socket(host), log }
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> Status {
        client::ask(&self.socket, &Request::Status).expect("a status")
    }

    pub(crate) fn rows(&self) -> Vec<RowStatus> {
        client::ask::<Fdb>(&self.socket, &Request::FdbShow { vni: None, macs: Vec::new() })
            .expect("rows")
            .rows
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it lives");
    }

    /// Waits until it ends by itself.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a condition; says what was waited for and what the daemon logged if it does not come.
    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn() -> bool) -> Duration {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < PATIENCE, "waited in vain until {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    }

    /// Waits until nothing is known to be amiss and returns the passes it took so far.
    pub(crate) fn wait_settled(&self) -> u64 {
        self.wait_until("it has settled", || self.status().reconcile.state == "settled");
        self.status().reconcile.counters.passes
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the device is there.
pub(crate) fn has_link(netns: &str, name: &str) -> bool {
    succeeds(&format!("ip -n {netns} link show dev {name}"))
}

/// Whether the vxlan device has an FDB row for the MAC.
pub(crate) fn has_fdb(mac: &str) -> bool {
    quiet("bridge -n overlay fdb show dev vxlan1")
        .lines()
        .any(|line| line.contains(mac) && line.contains("self"))
}

/// Whether the bridge has a row for the MAC.
pub(crate) fn has_bridge_row(mac: &str) -> bool {
    quiet("bridge -n overlay fdb show dev vxlan1")
        .lines()
        .any(|line| line.contains(mac) && line.contains("master"))
}

/// Whether the vxlan device has a neighbour row for the address.
pub(crate) fn has_neighbour(address: &str) -> bool {
    let rows = quiet("ip -n overlay neigh show dev vxlan1 nud permanent");
    rows.lines().any(|line| line.split(' ').next() == Some(address))
}

/// Whether all of the known remote's rows are there.
pub(crate) fn has_remote() -> bool {
    has_fdb(REMOTE) && has_bridge_row(REMOTE) && has_neighbour("10.0.0.3")
}

pub(crate) fn succeeds(command: &str) -> bool {
    let mut words = command.split(' ');
    let mut command = Command::new(words.next().expect("a command"));
    let status = command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.expect("it runs").success()
}

/// What a command prints; nothing if it fails.
fn quiet(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().expect("a command")).args(words).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn exists(path: &Path) -> bool {
    path.try_exists().expect("a readable directory")
}
