//! `cargo xtask fuzz`: gives the fuzz targets to libFuzzer.

use crate::process;
use crate::setup::{self, Purpose};
use crate::tool;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of cargo-fuzz.
const CARGO_FUZZ: &str = "0.13.2";

/// The targets' own workspace.
const DIR: &str = "tests/fuzz";

/// Longest input, in bytes: longer than a frame with outer headers, and than a datagram of a few messages.
///
/// Much longer ones make every run slower and find nothing that shorter ones do not; shorter ones would not hold
/// a batch of several frames.
const LONGEST: usize = 4096;

/// Search for inputs on which something that must hold does not.
///
/// The targets are in tests/src/fuzz; libFuzzer and cargo-fuzz are built once, into the target directory.
/// What was found interesting is remembered there, too, so that each run goes on where the last one ended.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz                            every target for a minute
  cargo xtask fuzz process --seconds 600      one of them for ten
  cargo xtask fuzz process --input FILE       one input again, with a backtrace
  cargo xtask fuzz wire --seconds 0 --keep    only add to the corpus what earlier runs came upon")]
pub(crate) struct Args {
    /// Only this target; all of them without it
    target: Option<String>,
    /// How long to search, for each target
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Then add to the committed corpus what gives it more coverage
    #[arg(long)]
    keep: bool,
    /// Only run this input
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with_all = ["keep", "seconds"])]
    input: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let all = targets()?;
    let chosen: Vec<_> = match &args.target {
        None => all,
        Some(target) if all.contains(target) => vec![target.clone()],
        Some(target) => bail!("there is no fuzz target `{target}`; there are {}", all.join(", ")),
    };
    let input = args.input.as_deref().map(|file| process::caller_dir().join(file));
    if let Some(file) = input.as_deref().filter(|file| !file.is_file()) {
        bail!("there is no file {}", file.display());
    }
    setup::ensure(&[Purpose::Fuzz])?;
    let tool = tool::ensure("cargo-fuzz", CARGO_FUZZ, |_| {})?.join("cargo-fuzz");
    let mut finds = Vec::new();
    for target in &chosen {
        let fuzzer = Fuzzer::build(&tool, target)?;
        let outcome = match &input {
            Some(file) => fuzzer.run(file),
            None => fuzzer.search(args.seconds),
        };
        match outcome {
            Ok(()) if args.keep => fuzzer.keep()?,
            Ok(()) => {}
            // The other targets may find something as well.
            Err(error) => finds.push(format!("{target}: {error:#}")),
        }
    }
    if !finds.is_empty() {
        bail!("{}\nthe output above says what failed and where the input is", finds.join("\n"));
    }
    Ok(())
}

/// The names of the targets.
fn targets() -> Result<Vec<String>> {
    let dir = process::root().join(DIR).join("targets");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut names: Vec<_> =
        paths.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// One target, ready to run.
struct Fuzzer {
    program: PathBuf,
    /// Inputs in the repository.
    corpus: PathBuf,
    /// Inputs that earlier runs came upon.
    found: PathBuf,
    /// Where inputs go that make it fail.
    artifacts: PathBuf,
}

impl Fuzzer {
    fn build(tool: &Path, target: &str) -> Result<Self> {
        let (dir, target_dir) = (process::root().join(DIR), process::target_dir().join("fuzz"));
        let mut build = process::command(tool);
        // The coverage that libFuzzer needs is an unstable option of the compiler. No sanitizer: there is no
        // unsafe code behind these boundaries, and without one it is twice as fast.
        build.env("RUSTC_BOOTSTRAP", "1").args(["build", "--sanitizer", "none", "--fuzz-dir"]).arg(&dir);
        process::run(build.arg("--target-dir").arg(&target_dir).arg(target))?;
        let fuzzer = Self {
            program: target_dir.join(process::host()?).join("release").join(target),
            corpus: dir.join("corpus").join(target),
            found: target_dir.join("corpus").join(target),
            artifacts: dir.join("artifacts").join(target),
        };
        for dir in [&fuzzer.corpus, &fuzzer.found, &fuzzer.artifacts] {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(fuzzer)
    }

    fn command(&self) -> Command {
        let mut command = process::command(&self.program);
        let mut prefix = std::ffi::OsString::from("-artifact_prefix=");
        prefix.push(self.artifacts.join(""));
        command.arg(prefix).arg(format!("-max_len={LONGEST}")).env("RUST_BACKTRACE", "1");
        command
    }

    fn run(&self, input: &Path) -> Result<()> {
        process::run(self.command().arg(input))
    }

    fn search(&self, seconds: u64) -> Result<()> {
        if seconds == 0 {
            return Ok(());
        }
        let mut command = self.command();
        command.arg(format!("-max_total_time={seconds}")).args(["-timeout=10", "-print_final_stats=1"]);
        // libFuzzer writes what it comes upon into the first directory.
        process::run(command.arg(&self.found).arg(&self.corpus))
    }

    fn keep(&self) -> Result<()> {
        // By branches taken, not by how often: a tenth of the inputs, and the fuzzer finds the rest again.
        let mut command = self.command();
        command.args(["-set_cover_merge=1", "-use_counters=0"]);
        process::run(command.arg(&self.corpus).arg(&self.found))
    }
}
