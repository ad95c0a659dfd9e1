//! `cargo xtask run`: builds the daemon and becomes it.

use crate::process;
use crate::setup::{self, Purpose};
use anyhow::Result;
use std::ffi::OsString;

/// Build vxdp and run it: `vxdp run` with the arguments given and the privileges it needs.
///
/// The process becomes the daemon, so that signals and the exit code are the daemon's own.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask run --config host1.toml                  the mode that the file says
  cargo xtask run --config host1.toml --mode kernel    without the fast path
  cargo xtask run -- --help                            what else `vxdp run` takes")]
pub(crate) struct Args {
    /// Arguments for `vxdp run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Runs the command; returns only when it fails.
pub(crate) fn main(args: &Args) -> Result<()> {
    setup::ensure(&[Purpose::Build])?;
    process::run(process::cargo().args(["build", "--release", "--package", "vxdp-control"]))?;
    let mut vxdp = process::privileged(&process::target_dir().join("release/vxdp"))?;
    // The daemon's relative paths are the caller's, not the workspace's.
    vxdp.current_dir(process::caller_dir()).arg("run").args(&args.args);
    process::exec(&mut vxdp)
}
