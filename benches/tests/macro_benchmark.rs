//! The macro benchmark from end to end, as small as it can be: that its figures are there and sane, not how
//! fast anything is.
#![forbid(unsafe_code)]

use std::process::{Command, Output};

use vxdp_benches::figure::Figure;

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vxdp-bench")).args(arguments).output().expect("vxdp-bench starts")
}

/// A run over both modes in lines of JSON.
fn figures(arguments: &[&str]) -> Vec<Figure> {
    let output = bench(arguments);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// The median of the one such figure; it must not be zero.
fn median(figures: &[Figure], measurement: &str, metric: &str, subject: &str) -> f64 {
    let is_it = |f: &&Figure| (f.measurement.as_str(), f.metric.as_str()) == (measurement, metric);
    let found = figures.iter().filter(is_it).find(|f| f.subject == subject);
    let figure = found.unwrap_or_else(|| panic!("no {metric} of {subject}: {figures:#?}"));
    assert!(figure.median() > 0.0, "{figure:#?}");
    figure.median()
}

#[test]
#[ignore = "needs root"]
fn a_tiny_run_gives_sane_figures_for_both_modes_and_the_wire() {
    let figures = figures(&[
        "throughput",
        "latency",
        "--peers",
        "none",
        "--frames",
        "64",
        "--flows",
        "1",
        "--rounds",
        "1",
        "--trial",
        "40",
        // The machine runs other tests meanwhile.
        "--tolerance",
        "0.5",
        "--json",
        "-",
    ]);
    for subject in ["kernel", "xdp", "none"] {
        let offered = median(&figures, "throughput", "offered as overload", subject);
        let delivered = median(&figures, "throughput", "delivered under overload", subject);
        median(&figures, "throughput", "no-drop rate", subject);
        assert!(delivered <= offered, "{subject} delivers {delivered} of {offered} frames/s");
        let [p50, p99] = ["p50", "p99"].map(|metric| median(&figures, "latency", metric, subject));
        assert!(p50 <= p99, "{subject}: p50 {p50} ns, p99 {p99} ns");
    }
}

#[test]
#[ignore = "needs root"]
fn live_frames_cross_the_kernels_overlay() {
    let figures = figures(&[
        "throughput",
        "--modes",
        "kernel",
        "--generator",
        "live",
        "--frames",
        "64",
        "--flows",
        "64",
        "--rounds",
        "1",
        "--trial",
        "40",
        "--tolerance",
        "0.5",
        "--json",
        "-",
    ]);
    median(&figures, "throughput", "delivered under overload", "kernel");
}

#[test]
fn an_unknown_mode_is_refused_with_the_known_ones() {
    let output = bench(&["--modes", "quantum"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("known are: kernel, xdp"));
}
