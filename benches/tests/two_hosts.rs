//! The benchmark between two hosts that run vxdp already: one process on each, as on two machines.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vxdp_benches::figure::Figure;
use vxdp_lab::{Attachment, Host, Lifetime, Mode, TwoHosts};

const BENCH: &str = env!("CARGO_BIN_EXE_vxdp-bench");

/// As small as a run can be. What may be lost is lost to the other tests that the machine runs meanwhile.
const TINY: [&str; 11] = [
    "throughput",
    "latency",
    "--frames",
    "64",
    "--flows",
    "1",
    "--rounds",
    "1",
    "--trial",
    "40",
    "--tolerance",
];

/// `--sink` on a host.
struct Sink {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Sink {
    fn start(host: &Host) -> Self {
        let config = host.config_path();
        let mut command = host.command([BENCH, "--sink", "--config", config.to_str().unwrap()]);
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let first = lines.next().expect("the sink says that it waits").unwrap();
        assert!(first.contains("waiting on 192.168.10.22, port 14789"), "{first}");
        Self { process, lines }
    }

    fn next_line(&mut self) -> String {
        self.lines.next().expect("another line").unwrap()
    }

    fn interrupt(mut self) -> ExitStatus {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGINT).unwrap();
        self.process.wait().unwrap()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Gone already unless an assertion failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn measure(host: &Host, config: &Path, arguments: &[&str]) -> Output {
    let words = [&[BENCH, "--config", config.to_str().unwrap()], arguments].concat();
    host.command(words).output().expect("vxdp-bench starts")
}

/// The one such figure's median; it must not be zero.
fn median(figures: &[Figure], metric: &str, subject: &str) -> f64 {
    let figure = figures.iter().find(|figure| figure.metric == metric && figure.subject == subject);
    let figure = figure.unwrap_or_else(|| panic!("no {metric} of {subject}: {figures:#?}"));
    assert!(figure.median() > 0.0, "{figure:#?}");
    figure.median()
}

/// What the daemon was asked for, and what carries the overlay now.
fn mode(host: &Host) -> [String; 3] {
    let overlay = host.status().unwrap()["modes"]["overlays"][0].clone();
    ["asked", "mode", "asked_engine"].map(|key| overlay[key].as_str().unwrap().to_owned())
}

fn two_hosts(name: &str, modes: [Mode; 2]) -> TwoHosts {
    let configs = TwoHosts::configs(Attachment::Netns).map(str::to_owned);
    TwoHosts::build_each(name, Attachment::Netns, modes, configs, Lifetime::Bound).unwrap()
}

#[test]
#[ignore = "needs root"]
fn two_hosts_are_measured_in_every_mode_and_are_as_they_were_afterwards() {
    let scenario = two_hosts("bench-hosts", [Mode::Kernel, Mode::InKernel]);
    let (h1, h2) = (scenario.lab().h1(), scenario.lab().h2());
    let before = [mode(h1), mode(h2)];
    let mut sink = Sink::start(h2);
    let output = measure(h1, &h1.config_path(), &[&TINY[..], &["0.5", "--json", "-"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    let figures: Vec<Figure> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for subject in ["kernel", "xdp", "inkernel"] {
        let offered = median(&figures, "offered as overload", subject);
        let delivered = median(&figures, "delivered under overload", subject);
        assert!(delivered <= offered, "{subject} delivers {delivered} of {offered} frames/s");
        median(&figures, "no-drop rate", subject);
        let [p50, p99] = ["p50", "p99"].map(|metric| median(&figures, metric, subject));
        assert!(p50 <= p99, "{subject}: p50 {p50} ns, p99 {p99} ns");
    }
    let regime = &figures.iter().find(|figure| figure.subject == "xdp").unwrap().regime;
    assert!(regime.contains("here nic veth, hook driver, af_xdp copy"), "{regime}");
    assert!(regime.contains("there nic veth, hook driver, af_xdp copy"), "{regime}");
    assert!(sink.next_line().contains("192.168.10.21 measures towards 10.0.0.3 of overlay 42"));
    assert!(sink.next_line().contains("is done"));
    assert_eq!([mode(h1), mode(h2)], before);
    assert!(sink.interrupt().success());
    let left = h2.netns("c2").exec(["ip", "-details", "link", "show", "eth1"]).unwrap();
    assert!(!left.contains("xdp"), "{left}");
}

#[test]
#[ignore = "needs root"]
fn a_measurement_that_is_interrupted_gives_both_hosts_their_modes_back() {
    let scenario = two_hosts("bench-hosts-end", [Mode::Kernel; 2]);
    let (h1, h2) = (scenario.lab().h1(), scenario.lab().h2());
    let mut sink = Sink::start(h2);
    let config = h1.config_path();
    let words = ["--config", config.to_str().unwrap(), "throughput", "--modes", "xdp", "--rounds", "1000"];
    let mut run = h1.command([&[BENCH], &words[..]].concat()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
    errors.by_ref().find(|line| line.contains("left] throughput xdp")).expect("a step is done");
    assert_eq!([&mode(h1)[1], &mode(h2)[1]], ["xdp", "xdp"]);
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT).unwrap();
    let rest = errors.collect::<Vec<_>>();
    assert_eq!(run.wait().unwrap().code(), Some(1), "{rest:#?}");
    assert!(rest.last().unwrap().contains("interrupted"), "{rest:#?}");
    assert!(sink.next_line().contains("measures towards"));
    assert!(sink.next_line().contains("is done"));
    assert_eq!([&mode(h1)[1], &mode(h2)[1]], ["kernel", "kernel"]);
    assert!(sink.interrupt().success());
}

#[test]
#[ignore = "needs root"]
fn what_is_missing_between_two_hosts_is_said_with_what_to_do() {
    let scenario = two_hosts("bench-hosts-not", [Mode::Kernel; 2]);
    let (h1, h2) = (scenario.lab().h1(), scenario.lab().h2());
    let refused = |host: &Host, config: &Path, arguments: &[&str], reason: &str| {
        let output = measure(host, config, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(reason), "{reason:?} is not in\n{errors}");
    };
    let config = h1.config_path();
    refused(h1, &config, &[], "start it there with: cargo xtask bench --sink --config FILE");
    refused(h1, &config, &["tcp"], "`tcp` cannot be measured between two hosts");
    let mut sink = Sink::start(h2);
    let text = std::fs::read_to_string(&config).unwrap();
    let other = h1.dir().join("other.toml");
    std::fs::write(&other, text.replace("10.0.0.3", "10.0.0.9")).unwrap();
    refused(h1, &other, &[], "the sink's file has no container 10.0.0.9 in overlay 42; there: 10.0.0.3");
    std::fs::write(&other, text.replace("vni = 42", "vni = 43")).unwrap();
    refused(h1, &other, &[], "the daemon runs with another file: no overlay 43");
    refused(h1, &config, &["--modes", "inkernel-xdp"], "hook = \"xdp\"");
    // Whoever is not named by the sink's file is not let in: the sink's own host is not.
    let word = "exec 3<>/dev/tcp/192.168.10.22/14789; cat <&3";
    let outcome = h2.run(["bash", "-c", word], Duration::from_secs(10)).unwrap();
    assert!(outcome.success().unwrap_or_default().is_empty());
    let lines = std::iter::from_fn(|| Some(sink.next_line()));
    let refusal = lines.take(6).find(|line| line.contains("refused 192.168.10.22"));
    refusal.expect("the sink says whom it refused");
    assert!(sink.interrupt().success());
}

#[test]
fn a_sink_needs_a_configuration_and_measures_nothing() {
    let output = |arguments: &[&str]| Command::new(BENCH).args(arguments).output().unwrap();
    for arguments in [&["--sink"][..], &["--sink", "--config", "b.toml", "throughput"]] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}
