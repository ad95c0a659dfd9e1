//! The macro benchmark from end to end, as small as it can be: that its figures are there and sane, not how
//! fast anything is.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vxdp_benches::figure::Figure;
use vxdp_benches::report::{Run, output};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vxdp-bench")).args(arguments).output().expect("vxdp-bench starts")
}

/// As small as a run can be. What may be lost is lost to the other tests that the machine runs meanwhile.
const TINY: [&str; 12] =
    ["--frames", "64", "--flows", "1", "--rounds", "1", "--trial", "40", "--tolerance", "0.5", "--json", "-"];

/// The figures of a tiny run.
fn figures(arguments: &[&str]) -> Vec<Figure> {
    let output = bench(&[arguments, &TINY].concat());
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
fn a_tiny_run_gives_sane_figures_for_the_modes_and_the_wire() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("bench");
    let figures =
        figures(&["throughput", "latency", "tcp", "--peers", "none", "--out", out.to_str().unwrap()]);
    for subject in ["kernel", "xdp", "inkernel", "none"] {
        let offered = median(&figures, "throughput", "offered as overload", subject);
        let delivered = median(&figures, "throughput", "delivered under overload", subject);
        median(&figures, "throughput", "no-drop rate", subject);
        assert!(delivered <= offered, "{subject} delivers {delivered} of {offered} frames/s");
        let [p50, p99] = ["p50", "p99"].map(|metric| median(&figures, "latency", metric, subject));
        assert!(p50 <= p99, "{subject}: p50 {p50} ns, p99 {p99} ns");
        median(&figures, "tcp", "bulk throughput", subject);
        median(&figures, "tcp", "requests", subject);
    }
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains(">inkernel<"), "{page}");
    assert!(fs::read_to_string(out.join("summary.md")).unwrap().contains("no-drop rate"));
    assert_eq!(output::read(&out.join("run.json")).unwrap().figures, figures);
    let regime = |subject: &str| {
        figures.iter().find(|figure| figure.subject == subject).map(|figure| figure.regime.clone()).unwrap()
    };
    assert!(regime("xdp").contains("hook driver, af_xdp copy"), "{}", regime("xdp"));
    assert!(regime("inkernel").contains("hook tc"), "{}", regime("inkernel"));
}

#[test]
#[ignore = "needs root"]
fn an_interrupted_run_ends_at_once_and_leaves_nothing_behind() {
    let mut run = Command::new(env!("CARGO_BIN_EXE_vxdp-bench"))
        .args(["throughput", "--modes", "kernel,xdp", "--rounds", "1000"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = run.id();
    let mut errors = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
    // The first step has been done.
    let begun = errors.by_ref().find(|line| line.contains("left] throughput")).unwrap();
    assert!(left_behind(pid).len() > 2, "labs that stand are not seen: {begun}");
    let start = Instant::now();
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
    let rest: Vec<_> = errors.collect();
    assert_eq!(run.wait().unwrap().code(), Some(1), "{rest:#?}");
    assert!(rest.last().unwrap().contains("interrupted"), "{rest:#?}");
    assert!(start.elapsed() < Duration::from_secs(20), "it took {:?}", start.elapsed());
    assert_eq!(left_behind(pid), Vec::<String>::new());
}

/// Processes and directories of the labs that the benchmark with this process id made.
fn left_behind(pid: u32) -> Vec<String> {
    let labs = format!("vxdp-bench-{pid}-");
    let wire = format!("vxdp-bench-wire-{pid}-");
    let names = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        text.contains(&labs) || text.contains(&wire)
    };
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let is_ours = |entry: &fs::DirEntry| {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok_and(|other| other != pid))
            && names(&environment)
    };
    let processes = entries(Path::new("/proc")).filter(is_ours).map(|entry| entry.path());
    let places = [std::env::temp_dir(), "/run".into(), "/run/netns".into(), "/run/vxdp".into()];
    let directories = places.iter().flat_map(|place| entries(place)).map(|entry| entry.path());
    let directories = directories.filter(|path| names(path.as_os_str().as_encoded_bytes()));
    processes.chain(directories).map(|path| path.display().to_string()).collect()
}

#[test]
fn a_run_that_became_worse_fails_against_the_earlier_one() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str, rate: f64| {
        let figure: Figure = serde_json::from_value(serde_json::json!({
            "measurement": "throughput", "metric": "no-drop rate", "subject": "xdp",
            "conditions": [["frame", "64"]], "unit": "frames/s", "samples": [rate, rate],
        }))
        .unwrap();
        let run = Run { figures: vec![figure], ..Run::default() };
        fs::write(path(name), serde_json::to_string(&run).unwrap()).unwrap();
    };
    write("old.json", 300_000.0);
    write("same.json", 310_000.0);
    write("new.json", 200_000.0);
    let against =
        |run: &str, name: &str| bench(&["--from", &path(run), "--out", &path("out"), "--against", name]);
    // Kept under a name, then compared by it.
    assert!(bench(&["--from", &path("old.json"), "--out", &path("out"), "--save", "old"]).status.success());
    let same = against("same.json", "old");
    assert!(same.status.success(), "{same:?}");
    let worse = against("new.json", "old");
    assert_eq!(worse.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&worse.stderr).contains("1 worse"), "{worse:?}");
    let absent = against("new.json", "odl");
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("saved are: old"), "{absent:?}");
}

#[test]
#[ignore = "needs root"]
fn what_dies_and_comes_back_has_figures() {
    let figures = figures(&["failover", "--modes", "xdp"]);
    median(&figures, "failover", "longest gap", "xdp");
    median(&figures, "failover", "datagrams sent", "xdp");
    assert_eq!(figures.iter().filter(|f| f.metric == "datagrams lost").count(), 10, "{figures:#?}");
    let cut = |figure: &&Figure| {
        figure.metric == "longest gap" && figure.conditions.get("event") == Some("underlay down for 200 ms")
    };
    for figure in figures.iter().filter(cut) {
        assert!(figure.median() >= 200e6, "no datagram can cross a link that is down: {figure:#?}");
    }
}

#[test]
#[ignore = "needs root"]
fn frames_to_many_rows_and_beside_many_overlays_are_measured() {
    let figures = figures(&["scale", "--modes", "xdp,inkernel", "--rows", "64", "--vnis", "3"]);
    for subject in ["xdp", "inkernel"] {
        median(&figures, "scale", "delivered under overload", subject);
        let delivered = figures.iter().filter(|f| f.subject == subject && f.metric.starts_with("delivered"));
        for figure in delivered.clone() {
            let other_path = figure.notes.iter().any(|note| note.contains("the kernel's path"));
            assert!(figure.median() > 0.0 && !other_path, "{figure:#?}");
        }
        assert_eq!(delivered.count(), 2);
    }
}

#[test]
#[ignore = "needs root"]
fn open_vswitch_is_measured_like_a_mode() {
    let figures = figures(&["throughput", "cost", "tcp", "--modes", "kernel", "--peers", "ovs-nonpmd"]);
    for subject in ["kernel", "ovs-nonpmd"] {
        median(&figures, "throughput", "delivered under overload", subject);
        median(&figures, "cost", "at", subject);
        median(&figures, "tcp", "bulk throughput", subject);
    }
}

#[test]
#[ignore = "needs root"]
fn live_frames_cross_the_kernels_overlay() {
    let figures = figures(&["throughput", "--modes", "kernel", "--generator", "live"]);
    median(&figures, "throughput", "delivered under overload", "kernel");
}

#[test]
#[ignore = "needs root"]
fn pktgen_measures_where_the_kernel_has_it_and_elsewhere_says_what_is_missing() {
    let arguments = ["throughput", "--modes", "kernel", "--generator", "pktgen"];
    let output = bench(&[&arguments[..], &TINY[..]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    let has_module = Command::new("modprobe").args(["--dry-run", "pktgen"]).output();
    if Path::new("/proc/net/pktgen").exists() || has_module.is_ok_and(|output| output.status.success()) {
        assert!(output.status.success(), "{errors}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for part in ["CONFIG_NET_PKTGEN", "--generator packet,live", "cargo xtask vm --bench"] {
        assert!(errors.contains(part), "{part} is not in\n{errors}");
    }
}

#[test]
fn an_unknown_mode_is_refused_with_the_known_ones() {
    let output = bench(&["--modes", "quantum"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("known are: kernel, xdp"));
}
