//! Commands that work on the host, from its configuration.

use clap::{Args, ValueEnum};

use super::{ConfigFile, Output};
use crate::config::{Engine, Mode};

/// `vxdp run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  sudo vxdp run --config /etc/vxdp/host1.toml
  sudo vxdp run --config host1.toml --mode kernel --log-format json -v
  sudo vxdp run --config /etc/vxdp/host1.toml --takeover     # upgrade in place, under traffic

A signal (Ctrl-C, SIGTERM) ends the daemon and leaves the overlay forwarding; `vxdp down` removes it.")]
pub struct RunArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// What carries known unicast; wins over the configuration. Example: --mode kernel
    #[arg(long)]
    pub mode: Option<Mode>,
    /// Takes over from a daemon that runs with the same socket: that one stops, this one goes on in its place.
    /// Example: --takeover
    #[arg(long)]
    pub takeover: bool,
    /// Who carries frames in xdp mode; wins over the configuration. Example: --engine inkernel
    #[arg(long)]
    pub engine: Option<Engine>,
    /// Form of the log on standard error. Example: --log-format json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for a human.
    Text,
    /// One JSON object for each event.
    Json,
}

/// `vxdp down`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  sudo vxdp down --config /etc/vxdp/host1.toml

Removes what `vxdp run` created from this configuration and nothing else. A running daemon stops.")]
pub struct DownArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// The form.
    #[command(flatten)]
    pub output: Output,
}

/// `vxdp doctor`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  sudo vxdp doctor --config /etc/vxdp/host1.toml
  sudo vxdp doctor --config /etc/vxdp/host1.toml --json | jq '.findings[].what'

Exit codes: 0 fine, 1 it works but slower than it could, 2 it does not work.")]
pub struct DoctorArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Changes what is safe to change, until Ctrl-C changes it back. Example: --fix
    #[arg(long)]
    pub fix: bool,
    /// The form.
    #[command(flatten)]
    pub output: Output,
}

/// `vxdp check`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  sudo vxdp check --config /etc/vxdp/host1.toml")]
pub struct CheckArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// The form.
    #[command(flatten)]
    pub output: Output,
}
