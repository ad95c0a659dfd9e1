//! `vxdp-bench`: measures vxdp's modes and its peers against each other, in one run.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vxdp_benches::figure::Figure;
use vxdp_benches::generator;
use vxdp_benches::measure::Measurement;
use vxdp_benches::report::progress::Progress;
use vxdp_benches::report::table;
use vxdp_benches::search::Search;
use vxdp_benches::session::{Session, Settings};
use vxdp_benches::subject::Kind;

/// Measures modes of vxdp, and peers, in turns within one run, on labs of two hosts each.
///
/// Touches nothing outside its own namespaces and removes them at the end.
#[derive(Debug, Parser)]
#[command(
    name = "vxdp-bench",
    after_help = "Examples:
  vxdp-bench                                    everything of both modes
  vxdp-bench throughput --frames 64 --rounds 5  one figure, well repeated
  vxdp-bench cost latency --peers none          with the plain veth wire beside
  vxdp-bench --quick --json run.jsonl           in two minutes, for a program to read"
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
    /// How frames are made
    #[arg(long, value_enum, default_value = "packet")]
    generator: generator::Kind,
    /// Lengths of frames in bytes, from the destination MAC on, without frame check sequence
    #[arg(long, value_delimiter = ',', value_name = "BYTES")]
    frames: Option<Vec<usize>>,
    /// Numbers of flows, powers of two
    #[arg(long, value_delimiter = ',', value_name = "COUNT")]
    flows: Option<Vec<u32>>,
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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vxdp-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    vxdp_lab::catch_interrupts()?;
    ensure!(nix::unistd::geteuid().is_root(), "needs root: it makes network namespaces");
    let settings = arguments.settings();
    let measurements = arguments.measurements();
    let kinds = arguments.modes.iter().chain(&arguments.peers).copied().collect::<Vec<_>>();
    ensure!(!kinds.is_empty(), "nothing to measure: name modes or peers");
    let mut progress = Progress::new(&measurements, &settings, kinds.len());
    eprintln!("building {} …", kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "));
    let mut session = Session::build(&kinds, &arguments.dataplane, settings)?;
    for subject in &session.subjects {
        eprintln!("  {}: {}", subject.kind.as_str(), subject.regime.line());
    }
    let mut figures = Vec::new();
    for measurement in measurements {
        figures.extend(session.run(measurement, &mut progress)?);
    }
    if let Some(path) = &arguments.json {
        write_json(path, &figures).with_context(|| format!("while writing {}", path.display()))?;
    }
    if arguments.json.as_ref().is_none_or(|path| path.as_os_str() != "-") {
        println!("{}", table::terminal(&figures));
    }
    for (traffic, rate) in session.calibrations() {
        eprintln!(
            "generator into sink, {} bytes, {} flows: {:.3} Mpps",
            traffic.frame,
            traffic.flows,
            rate / 1e6
        );
    }
    Ok(())
}

fn write_json(path: &std::path::Path, figures: &[Figure]) -> Result<()> {
    let mut out: Box<dyn Write> = if path.as_os_str() == "-" {
        Box::new(std::io::stdout())
    } else {
        Box::new(BufWriter::new(File::create(path)?))
    };
    for figure in figures {
        writeln!(out, "{}", serde_json::to_string(figure)?)?;
    }
    Ok(out.flush()?)
}

impl Arguments {
    fn settings(&self) -> Settings {
        let (frames, flows, rounds, trial) = if self.quick {
            (vec![64, 1450], vec![1], 2, 250)
        } else {
            (vec![64, 256, 512, 1024, 1450], vec![1, 64], 3, 400)
        };
        Settings {
            generator: self.generator,
            frames: self.frames.clone().unwrap_or(frames),
            flows: self.flows.clone().unwrap_or(flows),
            rounds: self.rounds.unwrap_or(rounds),
            trial: Duration::from_millis(self.trial.unwrap_or(trial)),
            search: Search { resolution: 0.02, tolerance: self.tolerance, attempts: 2 },
        }
    }

    /// Those named, in the order in which they have to run.
    fn measurements(&self) -> Vec<Measurement> {
        let named = |m: &Measurement| self.measurements.is_empty() || self.measurements.contains(m);
        Measurement::ALL.into_iter().filter(named).collect()
    }
}
