//! The lab: hosts as namespaces on one machine, for the demo and for every test that needs a kernel.
//!
//! A [`Lab`] is a set of [`Host`]s joined by an underlay of veths. Each host has network, mount and UTS
//! namespaces of its own, so that `/run/netns`, `/run/vxdp` and `/sys/fs/bpf` are the host's and two hosts
//! run word for word the configurations that two machines would.
//!
//! ```text
//!   h1: eth0 192.168.10.21 ──veth── eth0 192.168.10.22 :h2          (three and more: a bridge between)
//!       netns c1, overlay, …            netns c2, overlay, …
//! ```
//!
//! Nothing of a lab is visible in the machine's own network namespace. Everything goes when the [`Lab`] is
//! dropped, after a panic too, and a lab whose process is killed is removed by its own hosts.

mod capture;
mod command;
mod daemon;
mod decode;
mod docker;
mod frames;
pub mod fuzz;
mod host;
mod inject;
mod lab;
mod leftover;
mod ovs;
mod page;
mod ping;
mod place;
mod probe;
mod report;
mod segment;
mod snapshot;
mod syscall;
mod traffic;
mod two_hosts;
mod wait;

pub use capture::{Capture, Frame};
pub use command::Outcome;
pub use daemon::{Daemon, Mode, vxdp_binary};
pub use decode::{Outer, describe};
pub use docker::{DockerContainer, Engine, KeptEngine, Lifetime};
pub use frames::{Directions, Frames};
pub use host::Host;
pub use inject::{Injector, Offload, Segments};
pub use lab::{Kept, KeptHost, Lab, LabBuilder, in_each_mode, scenario};
pub use leftover::Before;
pub use ovs::{Ovs, OvsHosts, OvsPorts};
pub use page::Transcript;
pub use ping::{Ping, Pinged, RoundTrip, RunningPing};
pub use place::Place;
pub use probe::{Cost, Load, Probe, Probed, Stream, Streamed};
pub use segment::{Family, Member, Segment, config_of, deploy, deploy_each, underlay_address};
pub use traffic::{tcp_transfer, udp_exchange, udp_pair};
pub use two_hosts::{Attachment, KeptTwoHosts, TwoHosts, VNI, VXLAN_PORT};
pub use wait::{catch_interrupts, interrupted, wait_until};
