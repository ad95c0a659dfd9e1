//! The command line of `vxdp`.

mod daemon;
mod host;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use vxdp_dataplane::wire::{MacAddr, Vni};

pub use daemon::{CaptureArgs, FdbArgs, FdbCommand, ModeArgs, StatusArgs, TopArgs, TraceArgs};
pub use host::{CheckArgs, DoctorArgs, DownArgs, LogFormat, RunArgs};

/// Where the API socket is unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/vxdp/vxdp.sock";

const EXIT_CODES: &str = "Exit codes: 0 fine, 1 failed, 2 usage or bad configuration.";

/// VXLAN overlays across hosts: the kernel's bridge and vxlan device, built and kept as one file says.
#[derive(Debug, Parser)]
#[command(name = "vxdp", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Says more on standard error; twice: everything. Example: vxdp run -v --config host1.toml
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Builds the overlays and keeps them as configured
    Run(RunArgs),
    /// Removes what the configuration created
    Down(DownArgs),
    /// Shows the daemon and its overlays on one screen
    Status(StatusArgs),
    /// Shows rates live: paths, VTEPs, ports, and why frames are not carried
    Top(TopArgs),
    /// Shows, adds and deletes rows
    Fdb(FdbArgs),
    /// Changes what carries known unicast, while traffic flows
    Mode(ModeArgs),
    /// Says what stands in the way, why it matters, and what to do
    Doctor(DoctorArgs),
    /// Explains what would happen to a frame, without sending one
    Trace(TraceArgs),
    /// Writes frames to a file, whichever path they take
    Capture(CaptureArgs),
    /// Says what `run` would object to, and changes nothing
    Check(CheckArgs),
    /// Prints the completions of a shell
    Completions(CompletionsArgs),
    /// Prints the manual page
    Man,
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// The configuration of this host. Example: --config /etc/vxdp/host1.toml
    #[arg(short = 'c', long = "config", value_name = "FILE", env = "VXDP_CONFIG")]
    pub file: PathBuf,
}

/// Form of what a command shows.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// Shows JSON. Example: vxdp status --json | jq .overlays
    #[arg(long)]
    pub json: bool,
}

/// Which daemon.
#[derive(Debug, Clone, Args)]
pub struct Daemon {
    /// Its API socket [default: /run/vxdp/vxdp.sock]. Example: --socket /run/vxdp/vxdp.sock
    #[arg(long, value_name = "PATH", env = "VXDP_SOCKET", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
    /// The configuration that names its API socket. Example: --config /etc/vxdp/host1.toml
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Which overlay.
#[derive(Debug, Clone, Copy, Args)]
pub struct SegmentArgs {
    /// VNI of the overlay. Example: --vni 42
    #[arg(long, value_parser = vni)]
    pub vni: Vni,
    /// UDP port of the overlay, needed where two have the VNI. Example: --port 4789
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
}

/// `vxdp completions`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  vxdp completions bash > /etc/bash_completion.d/vxdp")]
pub struct CompletionsArgs {
    /// The shell. Example: bash
    pub shell: clap_complete::Shell,
}

fn vni(text: &str) -> Result<Vni, String> {
    let number = text.parse().map_err(|_| "expected 0 to 16777215 (24 bits)".to_owned())?;
    Vni::new(number).map_err(|error| error.to_string())
}

fn station_mac(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text.parse().map_err(|error| format!("{error}"))?;
    if mac.is_valid_station() { Ok(mac) } else { Err("expected a unicast address".to_owned()) }
}

impl Daemon {
    /// Where its API socket is: as given, as configured, or where it is by default.
    ///
    /// # Errors
    /// When a configuration is given that cannot be used.
    pub fn socket(&self) -> Result<PathBuf, crate::config::ConfigError> {
        match (&self.socket, &self.config) {
            (Some(socket), _) => Ok(socket.clone()),
            (None, Some(file)) => Ok(crate::config::load(file)?.config.control.socket),
            (None, None) => Ok(Path::new(DEFAULT_SOCKET).to_owned()),
        }
    }
}
