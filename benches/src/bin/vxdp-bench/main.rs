//! `vxdp-bench`: measures vxdp's modes and its peers against each other, in one run.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use vxdp_benches::figure::Figure;
use vxdp_benches::measure::Measurement;
use vxdp_benches::report::against::Against;
use vxdp_benches::report::output::{self, Output, valid_name};
use vxdp_benches::report::progress::Progress;
use vxdp_benches::report::{Run, markdown, table};
use vxdp_benches::search::Search;
use vxdp_benches::session::{Session, Settings};
use vxdp_benches::subject::Kind;
use vxdp_benches::{generator, hosts};

/// Measures modes of vxdp, and peers, in turns within one run, on labs of two hosts each, or between two real hosts.
///
/// On labs it touches nothing outside its own namespaces, and removes them at the end. Between two hosts it uses the
/// daemons that run there: it switches the mode of one overlay, sends out of its container, and switches back.
#[derive(Debug, Parser)]
#[command(
    name = "vxdp-bench",
    after_help = "Examples:
  vxdp-bench                                    everything, of three modes
  vxdp-bench throughput --frames 64 --rounds 5  one figure, well repeated
  vxdp-bench cost latency --peers none          with the plain veth wire beside
  vxdp-bench --quick --json run.jsonl           in two minutes, for a program to read
  vxdp-bench --out bench --save before          keeps the run under a name
  vxdp-bench --out bench --against before       fails if a mode has become worse since
  vxdp-bench --from bench/run.json --out pages  makes the reports of a run again
  vxdp-bench --sink --config b.toml             host B of two real hosts, each with a running vxdp …
  vxdp-bench --config a.toml throughput         … and host A, which measures towards B"
)]
struct Arguments {
    /// What to measure; everything if nothing is named
    #[arg(value_enum, value_name = "MEASUREMENT")]
    measurements: Vec<Measurement>,
    /// Modes of vxdp
    #[arg(long, value_delimiter = ',', default_value = "kernel,xdp,inkernel", value_parser = parse_mode)]
    modes: Vec<Kind>,
    /// What else to measure
    #[arg(long, value_delimiter = ',', value_parser = parse_peer)]
    peers: Vec<Kind>,
    /// How frames are made; `throughput` tries each, the others take the first that will do
    #[arg(long, value_enum, value_delimiter = ',', default_value = "packet")]
    generator: Vec<generator::Kind>,
    /// Lengths of frames in bytes, from the destination MAC on, without frame check sequence
    #[arg(long, value_delimiter = ',', value_name = "BYTES")]
    frames: Option<Vec<usize>>,
    /// Numbers of flows, powers of two
    #[arg(long, value_delimiter = ',', value_name = "COUNT")]
    flows: Option<Vec<u32>>,
    /// Numbers of rows in the tables for `scale`, powers of two; 1048576 takes many minutes
    #[arg(long, value_delimiter = ',', value_name = "COUNT", default_value = "1,1024,65536")]
    rows: Vec<u32>,
    /// Numbers of overlays for `scale`, beside one
    #[arg(long, value_delimiter = ',', value_name = "COUNT", default_value = "100")]
    vnis: Vec<u32>,
    /// How often everything is measured, in turns
    #[arg(long)]
    rounds: Option<u32>,
    /// Length of a trial in milliseconds
    #[arg(long, value_name = "MS")]
    trial: Option<u64>,
    /// Share of frames that may be lost in a trial that counts as one without drops
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    tolerance: f64,
    /// More lines for the section `[dataplane]` of the configurations, e.g. 'poll = "busy"'
    #[arg(long, value_name = "TOML", default_value = "")]
    dataplane: String,
    /// A few figures in less than two minutes
    #[arg(long)]
    quick: bool,
    /// Write every figure to this file, one JSON object a line (`-` is standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the summary to this file as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write `report.html`, `summary.md` and `run.json` into this directory, where saved runs are, too
    #[arg(long, value_name = "DIRECTORY", overrides_with = "out")]
    out: Option<PathBuf>,
    /// Keep the run under a name, to compare later ones with it
    #[arg(long, value_name = "NAME", value_parser = valid_name, requires = "out")]
    save: Option<String>,
    /// Compare with a run that was saved, or with a `run.json`; fail if a mode became worse by more than noise
    #[arg(long, value_name = "NAME|FILE", requires = "out")]
    against: Option<String>,
    /// Least share by which two runs may differ without meaning anything; wider ranges of repetitions count
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    noise: f64,
    /// Measure nothing: take the figures from a `run.json`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["measurements", "quick"])]
    from: Option<PathBuf>,
    /// Measure between two real hosts instead of on a lab: from the first container of this host's configuration to
    /// its first `remote`, on whose host `--sink` waits; a daemon must run on both
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "peers", "dataplane", "rows", "vnis"])]
    config: Option<PathBuf>,
    /// Be the sink of such a measurement until Ctrl-C; only hosts that the configuration names are let in
    #[arg(long, requires = "config", conflicts_with_all = ["measurements", "modes", "quick", "against", "save", "json", "markdown"])]
    sink: bool,
    /// TCP port of the sink, on its VTEP address
    #[arg(long, value_name = "PORT", default_value_t = hosts::PORT, requires = "config")]
    sink_port: u16,
}

fn parse_mode(text: &str) -> Result<Kind, String> {
    named(text, &Kind::MODES)
}

fn parse_peer(text: &str) -> Result<Kind, String> {
    named(text, &Kind::PEERS)
}

fn named(text: &str, kinds: &[Kind]) -> Result<Kind, String> {
    let known = || kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    kinds.iter().copied().find(|kind| kind.as_str() == text).ok_or_else(|| format!("known are: {}", known()))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vxdp-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers whether all is well: everything was measured, and nothing became worse.
fn run(arguments: &Arguments) -> Result<bool> {
    if let (true, Some(config)) = (arguments.sink, &arguments.config) {
        prepare()?;
        return hosts::serve(config, arguments.sink_port).map(|()| true);
    }
    let output = arguments.out.as_deref().map(Output::new);
    // First of all, so that no half hour of measuring ends in a misspelt name.
    let before = match (&output, &arguments.against) {
        (Some(output), Some(name)) => Some((name, output.load(name)?)),
        _ => None,
    };
    let run = match &arguments.from {
        Some(file) => output::read(file)?,
        None => measure(arguments)?,
    };
    let against = before.map(|(name, before)| Against::compare(name, &before, &run, arguments.noise));
    show(arguments, output.as_ref(), &run, against.transpose()?.as_ref())
}

/// Everything is written before the first complaint.
fn show(
    arguments: &Arguments,
    output: Option<&Output>,
    run: &Run,
    against: Option<&Against>,
) -> Result<bool> {
    let to_stdout = arguments.json.as_deref() == Some(Path::new("-"));
    match &arguments.json {
        Some(_) if to_stdout => print!("{}", json_lines(run)?),
        Some(path) => output::write(path, &json_lines(run)?)?,
        None => {}
    }
    if let Some(path) = &arguments.markdown {
        output::write(path, &markdown(run, against))?;
    }
    if !to_stdout {
        println!("{}", table::terminal(&run.figures));
    }
    for warning in run.warnings() {
        eprintln!("warning: {warning}");
    }
    if let Some(against) = against {
        eprintln!("{}\nagainst {}: {}", against.terminal(), against.name, against.summary());
    }
    if let Some(output) = output {
        let [page, summary, data] = output.report(run, against)?;
        eprintln!("report: {}\n        {}\n        {}", page.display(), summary.display(), data.display());
        if let Some(name) = &arguments.save {
            eprintln!("saved:  {}", output.save(name, run)?.display());
        }
    }
    Ok(run.troubles.is_empty() && !against.is_some_and(Against::is_worse))
}

/// Before anything is made.
fn prepare() -> Result<()> {
    vxdp_lab::catch_interrupts()?;
    ensure!(nix::unistd::geteuid().is_root(), "needs root: it enters and makes network namespaces");
    Ok(())
}

/// Measures what can be measured; what fails is noted, and the rest goes on.
fn measure(arguments: &Arguments) -> Result<Run> {
    prepare()?;
    let settings = arguments.settings();
    let mut measurements = arguments.measurements();
    if arguments.config.is_some() {
        measurements = hosts::measurements(&arguments.measurements)?;
    }
    let kinds = arguments.modes.iter().chain(&arguments.peers).copied().collect::<Vec<_>>();
    ensure!(!kinds.is_empty(), "nothing to measure: name modes or peers");
    let _needed = generator::Needed::by(&settings.generators)?;
    let mut run = Run::begin();
    let mut progress = Progress::new(&measurements, &settings, kinds.len());
    let names = kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    eprintln!("building {names}; measuring takes about {} …", progress.shown());
    let calibrations = if let Some(config) = &arguments.config {
        let mut pair = hosts::Pair::connect(config, arguments.sink_port, &kinds, settings)?;
        run.sink = Some(pair.machine.clone());
        each(&measurements, &mut run, &mut progress, |it, progress| pair.run(it, progress))?;
        pair.wire().calibrations().clone()
    } else {
        let mut session = Session::build(&kinds, &arguments.dataplane, settings)?;
        for subject in &session.subjects {
            eprintln!("  {}: {}", subject.kind.as_str(), subject.regime.line());
        }
        each(&measurements, &mut run, &mut progress, |it, progress| session.run(it, progress))?;
        session.calibrations().clone()
    };
    for (traffic, rate) in calibrations {
        run.calibrated(traffic, rate);
    }
    Ok(run)
}

/// Runs one measurement after the other.
fn each(
    measurements: &[Measurement],
    run: &mut Run,
    progress: &mut Progress,
    mut measure: impl FnMut(Measurement, &mut Progress) -> Result<Vec<Figure>>,
) -> Result<()> {
    for &measurement in measurements {
        match measure(measurement, progress) {
            Ok(figures) => run.figures.extend(figures),
            Err(error) if vxdp_lab::interrupted() => return Err(error),
            Err(error) => {
                let trouble = format!("{} failed: {error:#}", measurement.as_str());
                eprintln!("{trouble}");
                run.troubles.push(trouble);
                progress.skip(measurement);
            }
        }
    }
    Ok(())
}

fn json_lines(run: &Run) -> Result<String> {
    let mut lines = String::new();
    for figure in &run.figures {
        writeln!(lines, "{}", serde_json::to_string(figure)?)?;
    }
    Ok(lines)
}

impl Arguments {
    fn settings(&self) -> Settings {
        let (frames, flows, rounds, trial) = if self.quick {
            (vec![64, 1450], vec![1], 2, 250)
        } else {
            (vec![64, 256, 512, 1024, 1450], vec![1, 64], 3, 400)
        };
        Settings {
            generators: self.generator.clone(),
            frames: self.frames.clone().unwrap_or(frames),
            flows: self.flows.clone().unwrap_or(flows),
            rows: self.rows.clone(),
            vnis: self.vnis.clone(),
            rounds: self.rounds.unwrap_or(rounds),
            trial: Duration::from_millis(self.trial.unwrap_or(trial)),
            search: Search { resolution: 0.02, tolerance: self.tolerance, attempts: 2 },
        }
    }

    /// Those named, or else all that there is time for, in the order in which they have to run.
    fn measurements(&self) -> Vec<Measurement> {
        let wanted = |m: &Measurement| match &self.measurements[..] {
            [] => !self.quick || m.is_quick(),
            named => named.contains(m),
        };
        Measurement::ALL.into_iter().filter(wanted).collect()
    }
}
