//! The command line of `vxdp`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use vxdp_dataplane::wire::{MacAddr, Vni};

use crate::capture::{Direction, SNAP_LENGTH};
use crate::config::{Engine, Mode};

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

/// `vxdp status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  sudo vxdp status
  sudo vxdp status --json | jq .overlays")]
pub struct StatusArgs {
    /// The daemon.
    #[command(flatten)]
    pub daemon: Daemon,
    /// The form.
    #[command(flatten)]
    pub output: Output,
}

/// `vxdp fdb`.
#[derive(Debug, Clone, Args)]
#[command(arg_required_else_help = true)]
pub struct FdbArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: FdbCommand,
}

/// What to do with the rows.
#[derive(Debug, Clone, Subcommand)]
pub enum FdbCommand {
    /// Shows which MAC is behind which VTEP, with state, age and origin
    #[command(after_help = "Example:\n  sudo vxdp fdb show --vni 42 --json")]
    Show {
        /// Only this VNI. Example: --vni 42
        #[arg(long, value_parser = vni)]
        vni: Option<Vni>,
        /// The daemon.
        #[command(flatten)]
        daemon: Daemon,
        /// The form.
        #[command(flatten)]
        output: Output,
    },
    /// Makes a container on another host known
    #[command(after_help = "\
Example:
  sudo vxdp fdb add 02:42:0a:00:00:03 --vni 42 --vtep 192.168.10.22 --address 10.0.0.3")]
    Add {
        /// MAC address of the container. Example: 02:42:0a:00:00:03
        #[arg(value_parser = station_mac)]
        mac: MacAddr,
        /// Its overlay.
        #[command(flatten)]
        segment: SegmentArgs,
        /// Underlay address of its host. Example: --vtep 192.168.10.22
        #[arg(long, value_name = "IP")]
        vtep: IpAddr,
        /// Its own address, for an ARP or neighbour row; may be repeated. Example: --address 10.0.0.3
        #[arg(long, value_name = "IP")]
        address: Vec<IpAddr>,
        /// The daemon.
        #[command(flatten)]
        daemon: Daemon,
        /// The form.
        #[command(flatten)]
        output: Output,
    },
    /// Forgets a container on another host
    #[command(after_help = "Example:\n  sudo vxdp fdb del 02:42:0a:00:00:03 --vni 42")]
    Del {
        /// MAC address of the container. Example: 02:42:0a:00:00:03
        #[arg(value_parser = station_mac)]
        mac: MacAddr,
        /// Its overlay.
        #[command(flatten)]
        segment: SegmentArgs,
        /// The daemon.
        #[command(flatten)]
        daemon: Daemon,
        /// The form.
        #[command(flatten)]
        output: Output,
    },
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

/// `vxdp mode`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  sudo vxdp mode xdp
  sudo vxdp mode xdp --engine inkernel
  sudo vxdp mode kernel --vni 42

No frame is lost on the way. The mode holds until the daemon ends or its configuration changes.")]
pub struct ModeArgs {
    /// The mode. Example: xdp
    pub mode: Mode,
    /// The engine of xdp mode, if it is to change as well. Example: --engine inkernel
    #[arg(long)]
    pub engine: Option<Engine>,
    /// Only in overlays with this VNI. Example: --vni 42
    #[arg(long, value_parser = vni)]
    pub vni: Option<Vni>,
    /// The daemon.
    #[command(flatten)]
    pub daemon: Daemon,
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

/// `vxdp trace`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  sudo vxdp trace --vni 42 --src 02:42:0a:00:00:02 --dst 02:42:0a:00:00:03")]
pub struct TraceArgs {
    /// The overlay.
    #[command(flatten)]
    pub segment: SegmentArgs,
    /// The frame's source. Example: --src 02:42:0a:00:00:02
    #[arg(long, value_name = "MAC", value_parser = station_mac)]
    pub src: MacAddr,
    /// Its destination. Example: --dst 02:42:0a:00:00:03
    #[arg(long, value_name = "MAC")]
    pub dst: MacAddr,
    /// The daemon.
    #[command(flatten)]
    pub daemon: Daemon,
    /// The form.
    #[command(flatten)]
    pub output: Output,
}

/// `vxdp capture`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  sudo vxdp capture --write - | wireshark -k -i -
  sudo vxdp capture --write trace.pcapng --device veth2 icmp
  sudo vxdp capture --write trace.pcapng --vni 42 --file-size 100 --files 5

A frame that crosses is there twice: as it enters and as it leaves. On the underlay only tunnels are captured.")]
pub struct CaptureArgs {
    /// A filter in tcpdump's syntax, for frames as they are at the device. Example: vxdp capture -w f icmp
    #[arg(value_name = "FILTER", trailing_var_arg = true)]
    pub filter: Vec<String>,
    /// The pcapng file, or - for standard output. Example: --write trace.pcapng
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// Only this device: the underlay's, or a port on the bridge; may be repeated. Example: --device veth2
    #[arg(short, long, value_name = "NAME")]
    pub device: Vec<String>,
    /// Only this overlay. Example: --vni 42
    #[arg(long, value_parser = vni)]
    pub vni: Option<Vni>,
    /// Only frames that enter vxdp at a device, or that leave it there. Example: --direction enters
    #[arg(long, default_value = "both")]
    pub direction: Direction,
    /// Most bytes of a frame to keep. Example: --snap-length 96
    #[arg(long, value_name = "BYTES", default_value_t = SNAP_LENGTH, value_parser = clap::value_parser!(u32).range(14..=262_144))]
    pub snap_length: u32,
    /// Ends after so many frames. Example: --count 100
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Ends after so many seconds. Example: --seconds 10
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
    /// Begins another file after so many MiB: trace.0.pcapng, trace.1.pcapng … Example: --file-size 100
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub file_size: Option<u64>,
    /// Keeps so many files of --file-size, and overwrites the first one then. Example: --files 5
    #[arg(long, requires = "file_size", value_parser = clap::value_parser!(u32).range(1..))]
    pub files: Option<u32>,
    /// The daemon.
    #[command(flatten)]
    pub daemon: Daemon,
    /// The form of the summary.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    /// Each command with its own flags, as `vxdp fdb add --vni`.
    fn flags(command: &clap::Command, path: &str, into: &mut BTreeSet<String>) {
        into.insert(path.to_owned());
        for arg in command.get_arguments() {
            if let Some(long) = arg.get_long().filter(|long| !matches!(*long, "help" | "version")) {
                into.insert(format!("{path} --{long}"));
            }
        }
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            flags(command, &format!("{path} {}", command.get_name()), into);
        }
    }

    /// In `docs/commands.md` a heading such as "## `vxdp fdb add MAC`" opens a command; the rows of the table
    /// below it that begin with a flag are its flags.
    fn documented() -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut command = String::new();
        for line in include_str!("../../docs/commands.md").lines() {
            let literal = line.split('`').nth(1).unwrap_or_default();
            if line.starts_with('#') && literal.starts_with("vxdp") {
                let lower = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
                command = literal.split(' ').take_while(lower).collect::<Vec<_>>().join(" ");
                found.insert(command.clone());
            } else if line.starts_with("| `--") {
                let flag = literal.split(' ').next().unwrap_or_default();
                found.insert(format!("{command} {flag}"));
            }
        }
        found
    }

    #[test]
    fn the_manual_has_each_command_and_flag_and_no_other() {
        let mut known = BTreeSet::new();
        flags(&Cli::command(), "vxdp", &mut known);
        known.insert("vxdp".to_owned());
        assert_eq!(documented(), known);
    }

    #[test]
    fn each_flag_and_argument_has_an_example() {
        fn check(command: &clap::Command) {
            for arg in
                command.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"))
            {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example: "), "{} {}: {help}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn the_default_socket_is_the_configurations() {
        let text = "underlay = { device = 'eth0', local = '192.0.2.1' }\noverlay = [{ vni = 1 }]\n";
        let loaded = crate::config::parse(Path::new("f"), text.as_bytes()).expect("valid");
        assert_eq!(loaded.config.control.socket, Path::new(DEFAULT_SOCKET));
    }
}
