//! `cargo xtask lab`: keeps the demo's two hosts for playing.

use crate::demo::become_lab_program;
use crate::setup::Purpose;
use anyhow::Result;
use std::ffi::OsString;

/// Keep two hosts of the lab for playing: bring them up, look around in them, take them down.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask lab up            two hosts with the overlay of the demo
  cargo xtask lab shell h1      a shell on the first one
  cargo xtask lab down          remove all of it
  cargo xtask lab -- --help     every argument")]
pub(crate) struct Args {
    /// Arguments for the lab: up, shell HOST, down
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS", required = true)]
    args: Vec<OsString>,
}

/// Runs the command; returns only when it fails.
pub(crate) fn main(args: &Args) -> Result<()> {
    become_lab_program("vxdp-lab", &[Purpose::Build, Purpose::Demo], &args.args)
}
