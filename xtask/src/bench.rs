//! `cargo xtask bench`: builds and becomes the macro benchmark, or runs the micro benches of the data path.

use crate::process;
use crate::setup::{self, Purpose};
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;

/// The macro benchmark.
pub(crate) const PROGRAM: &str = "vxdp-bench";

/// Measure throughput, latency and cost of every mode against the kernel, on a lab or between two real hosts.
///
/// The report goes to `target/bench`: a page with charts, a summary in Markdown, and the figures as JSON.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench --quick                         a comparison of the modes in two minutes
  cargo xtask bench throughput --frames 64          one figure
  cargo xtask bench --save before                   keep the run as `before` …
  cargo xtask bench --against before                … and fail if a mode has become worse since
  cargo xtask bench --sink --config host2.toml      host 2 of two real hosts that run vxdp …
  cargo xtask bench --config host1.toml             … and host 1, which measures towards it
  cargo xtask bench -- --help                       every argument
  cargo xtask bench micro                           the criterion benches; reports in target/criterion
  cargo xtask bench micro encap                     those whose name contains `encap`
  cargo xtask bench micro -- --save-baseline before keep the result under a name
  cargo xtask bench micro -- --baseline before      compare with it")]
pub(crate) struct Args {
    /// Arguments for the benchmark; or `micro` and arguments for criterion
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    setup::ensure(&[Purpose::Bench])?;
    match args.args.split_first() {
        Some((first, rest)) if first == "micro" => micro(rest),
        _ => become_macro_benchmark(&args.args),
    }
}

fn micro(args: &[OsString]) -> Result<()> {
    let args = args.iter().skip_while(|arg| *arg == "--");
    // `--benches` keeps criterion's arguments away from the unit tests' harness, which refuses them.
    process::run(
        process::cargo().args(["bench", "--package", "vxdp-benches", "--bench", "*", "--"]).args(args),
    )
}

/// Builds the macro benchmark and the daemon as they are released; both lie beside each other.
pub(crate) fn build() -> Result<PathBuf> {
    process::run(process::cargo().args([
        "build",
        "--release",
        "--package",
        "vxdp-control",
        "--package",
        "vxdp-benches",
        "--bins",
    ]))?;
    Ok(process::target_dir().join("release"))
}

/// Becomes the macro benchmark; returns only when that fails.
fn become_macro_benchmark(args: &[OsString]) -> Result<()> {
    // It looks for the daemon beside itself.
    let mut program = process::privileged(&build()?.join(PROGRAM))?;
    program
        .current_dir(process::caller_dir())
        .arg("--out")
        .arg(process::target_dir().join("bench"))
        .args(args);
    process::exec(&mut program)
}
