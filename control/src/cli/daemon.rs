//! Commands that ask a running daemon.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use vxdp_dataplane::wire::{MacAddr, Vni};

use super::{Daemon, Output, SegmentArgs, station_mac, vni};
use crate::capture::{Direction, SNAP_LENGTH};
use crate::config::{Engine, Mode};

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

/// `vxdp top`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  sudo vxdp top
  sudo vxdp top --interval 0.5

Keys: q quits; Tab or 1 to 4 change the table; s sorts by the next column, S by the one before, r reverses;
arrows, Page Up and Page Down scroll. It needs a terminal; for one look there is: vxdp status --json")]
pub struct TopArgs {
    /// Seconds between two answers of the daemon, from 0.1 to 60. Example: --interval 0.5
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,
    /// Refused, with a hint where one look is to be had.
    #[arg(long, hide = true, alias = "json")]
    pub once: bool,
    /// The daemon.
    #[command(flatten)]
    pub daemon: Daemon,
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
        /// Only rows of this MAC; repeatable. Example: --mac 02:42:0a:00:00:03
        #[arg(long)]
        mac: Vec<MacAddr>,
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

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=60.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected seconds, from 0.1 to 60".to_owned()),
    }
}
