//! What the XDP programs and userspace share: the maps' types, the verdicts, and the compiled object.
//!
//! The programs themselves are this crate's binary (`main.rs`), built for `bpfel-unknown-none` by
//! `cargo xtask ebpf` and committed as `vxdp.bpf.o`, so that nobody else needs a BPF toolchain.
#![no_std]

pub mod bench;
mod tables;
mod verdict;

#[cfg(not(target_arch = "bpf"))]
mod object;

#[cfg(not(target_arch = "bpf"))]
pub use object::OBJECT;
pub use tables::{
    Address, COUNTED_VTEPS, Family, FdbKey, Flows, HITS_BYTES, INHERIT, MAX_QUEUES, Overlay, OverlayKey,
    Place, Port, Row, Settings, TUNNEL_PORT_WORDS, UPLINK_MARK, Vtep, df, map, program, tunnel_port_bit,
};
pub use verdict::Verdict;
