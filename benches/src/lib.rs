//! The macro benchmark (`vxdp-bench`): generator, sink, measurements and report. The micro benches, which
//! criterion runs, are in `benches/`.
//!
//! ```text
//!   c1                                                              c2
//!   generator ▶ eth1 ──▶ h1: veth2, vxdp, eth0 ──▶ h2: eth0, vxdp, veth2 ──▶ eth1 ▶ sink
//! ```
#![forbid(unsafe_code)]

pub mod cpu;
pub mod echo;
pub mod figure;
pub mod frame;
pub mod generator;
pub mod hosts;
pub mod measure;
pub mod regime;
pub mod report;
pub mod rig;
pub mod search;
pub mod session;
pub mod sink;
pub mod subject;
pub mod turns;
pub mod wire;
