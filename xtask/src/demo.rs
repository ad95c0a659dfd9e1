//! `cargo xtask demo`: builds the two-host scenario's demo and becomes it.

use crate::process;
use crate::setup::{self, Purpose};
use anyhow::Result;
use std::ffi::{OsStr, OsString};

/// Show the scenario: two hosts, a container each, VNI 42, a ping that crosses, the packet decoded.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo                       both hosts as namespaces of this machine
  cargo xtask demo --docker              with two real Docker containers
  cargo xtask demo --json -              the proof as JSON on standard output
  cargo xtask demo -- --help             every argument")]
pub(crate) struct Args {
    /// Arguments for the demo: --mode MODE, --docker, --keep, --json FILE
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Runs the command; returns only when it fails.
pub(crate) fn main(args: &Args) -> Result<()> {
    let docker = args.args.iter().any(|a| a == "--docker");
    let purposes = [Purpose::Build, Purpose::Demo, Purpose::Docker];
    become_lab_program("vxdp-demo", &purposes[..if docker { 3 } else { 2 }], &args.args)
}

/// Builds the daemon and the lab's programs, and becomes one of them.
pub(crate) fn become_lab_program(name: &str, purposes: &[Purpose], args: &[impl AsRef<OsStr>]) -> Result<()> {
    setup::ensure(purposes)?;
    build()?;
    // The lab's programs look for the daemon beside themselves.
    let mut program = process::privileged(&process::target_dir().join("debug").join(name))?;
    program.current_dir(process::caller_dir()).args(args);
    process::exec(&mut program)
}

/// Builds the daemon and the lab's programs.
pub(crate) fn build() -> Result<()> {
    process::run(process::cargo().args([
        "build",
        "--package",
        "vxdp-control",
        "--package",
        "vxdp-lab",
        "--bins",
    ]))
}
