//! The `vxdp` command.
#![forbid(unsafe_code)]
fn main() {}
