//! The demo as a user runs it: its exit status, and the report it writes.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vxdp_lab::Transcript;

const README: &str = include_str!("../../README.md");

/// Echo requests and their answers of both pings: this many frames go into tunnels, and out of them.
const FRAMES: u64 = 20;

/// What the kernel may carry while the containers' MACs are not known yet, in both directions together.
const FIRST_FRAMES: u64 = 4;

/// What it shows, and its report.
fn demo(mode: &str) -> Result<(String, Value)> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("demo.json");
    let mut command = Command::new("timeout");
    command.args(["120", env!("CARGO_BIN_EXE_vxdp-demo"), "--mode", mode, "--json"]).arg(&file);
    let output = command.output().context("while running the demo")?;
    let [shown, said] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(output.status.success(), "{}: {shown}{said}", output.status);
    let text = std::fs::read_to_string(&file)?;
    Ok((shown, serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?))
}

/// Who carried the frames of the demo in `mode`: the workers or programs, or else the kernel.
fn proves_itself(mode: &str, fast: bool) -> Result<()> {
    let (shown, report) = demo(mode)?;
    let command = format!("cargo xtask demo --mode {mode}");
    if let Some(page) = Transcript::all(README)?.into_iter().find(|transcript| transcript.command == command)
    {
        ensure!(page.is_alike(&shown), "the README does not show\n{shown}");
    }
    ensure!(report["mode"] == mode, "{report}");
    ensure!(report["left_behind"].as_array().is_some_and(Vec::is_empty), "{report}");
    let frames = |path: &str, direction: &str| -> Result<u64> {
        report["frames"][path][direction]
            .as_u64()
            .with_context(|| format!("frames.{path}.{direction}: {report}"))
    };
    let both = |path: &str| anyhow::Ok((frames(path, "encap")?, frames(path, "decap")?));
    let (xdp, kernel) = (both("xdp")?, both("kernel")?);
    let (carrier, other) = if fast { (xdp, kernel) } else { (kernel, xdp) };
    ensure!(carrier.0 >= FRAMES - FIRST_FRAMES && carrier.1 >= FRAMES - FIRST_FRAMES, "{report}");
    ensure!(other.0 + other.1 <= if fast { FIRST_FRAMES } else { 0 }, "{report}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_demo_proves_itself_in_every_mode_and_reports_who_carried_the_frames() {
    // One after the other: each looks for what it left behind on the machine.
    for (mode, fast) in [("kernel", false), ("xdp", true), ("inkernel", true)] {
        proves_itself(mode, fast).unwrap_or_else(|error| panic!("{mode}: {error:#}"));
    }
}
