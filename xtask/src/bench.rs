//! `cargo xtask bench`: runs the micro benches of the data path.

use crate::process;
use crate::setup::{self, Purpose};
use anyhow::Result;
use std::ffi::OsString;

/// Run the criterion benches of the data path. The reports are in target/criterion.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench                                 all of them
  cargo xtask bench encap                           those whose name contains `encap`
  cargo xtask bench -- --save-baseline before       keep the result under a name
  cargo xtask bench -- --baseline before            compare with it")]
pub(crate) struct Args {
    /// Arguments for criterion: a filter, --save-baseline NAME, --baseline NAME …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    setup::ensure(&[Purpose::Bench])?;
    // `--benches` keeps criterion's arguments away from the unit tests' harness, which refuses them.
    process::run(
        process::cargo().args(["bench", "--package", "vxdp-benches", "--bench", "*", "--"]).args(&args.args),
    )
}
