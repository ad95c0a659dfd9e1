//! What runs inside the virtual machine.

use crate::process;
use crate::test::binaries::{self, Binary};
use anyhow::{Result, ensure};
use std::path::PathBuf;

/// A command with a name and a limit of time.
#[derive(Debug)]
pub(super) struct Job {
    /// Shown, and how its end is recognised.
    pub(super) name: String,
    /// After so many seconds it is stopped, and has failed.
    pub(super) seconds: u32,
    /// A line of shell.
    pub(super) command: String,
    /// Where it starts.
    pub(super) directory: PathBuf,
    /// Our programs that it takes.
    pub(super) programs: Vec<PathBuf>,
}

/// Share of frames that may be lost: an emulated processor stands still for longer than any queue lasts.
const TOLERANCE: f64 = 0.001;

/// The file with the figures in a report of the benchmark's.
pub(super) const RUN: &str = "run.json";

/// Packages whose tests a virtual machine can run; those of `dataplane` compile C while they run.
const TESTED: [&str; 3] = ["control", "ebpf", "tests"];

impl Job {
    /// The call of `job` in `init.sh`.
    pub(super) fn script(&self) -> String {
        let command = format!("cd {} && {}", quote(&self.directory.display().to_string()), self.command);
        format!("job {} {} {}\n", quote(&self.name), self.seconds, quote(&command))
    }
}

/// `text` as one word of a shell's.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A program that was built as for `cargo xtask demo`.
fn built(name: &str) -> PathBuf {
    process::target_dir().join("debug").join(name)
}

/// Builds and lists the demo in every mode.
pub(super) fn demos() -> Result<Vec<Job>> {
    crate::demo::build()?;
    let demo = |mode: &str| Job {
        name: format!("demo, {mode} mode"),
        seconds: 240,
        command: format!("{} --mode {mode}", quote(&built("vxdp-demo").display().to_string())),
        directory: process::root(),
        programs: ["vxdp", "vxdp-demo"].map(built).into(),
    };
    Ok(["kernel", "xdp", "inkernel"].map(demo).into())
}

/// The name of the benchmark's job.
pub(super) const BENCH: &str = "benchmark";

/// Where the benchmark leaves its report in the machine.
const REPORT: &str = "/tmp/bench";

/// Builds the benchmark: every mode, with the kernel's own packet generator, and what it measured on the serial
/// line `line`.
pub(super) fn bench(line: &str) -> Result<Job> {
    let programs = crate::bench::build()?;
    let bench = programs.join(crate::bench::PROGRAM);
    let arguments = format!(
        "throughput --generator pktgen --modes kernel,xdp,inkernel,inkernel-xdp --frames 64 --flows 1 \
         --rounds 2 --trial 300 --tolerance {TOLERANCE} --out {REPORT}"
    );
    let command =
        format!("{} {arguments} && cat {REPORT}/{RUN} >{line}", quote(&bench.display().to_string()));
    Ok(Job {
        name: BENCH.to_owned(),
        seconds: 600,
        command,
        directory: process::root(),
        programs: vec![bench, programs.join("vxdp")],
    })
}

/// Builds the tests and lists those that need root and have one of `filters` in their name.
pub(super) fn tests(filters: &[&str]) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let mut unused: Vec<_> = filters.to_vec();
    for binary in binaries::build()? {
        let package = binary.directory.file_name().unwrap_or_default();
        if !TESTED.iter().any(|tested| package == *tested) {
            continue;
        }
        let mut matching = Vec::new();
        for filter in filters {
            if binaries::has_ignored(&binary, Some(filter))? {
                matching.push(quote(filter));
                unused.retain(|other| other != filter);
            }
        }
        if !matching.is_empty() {
            jobs.push(test(&binary, &matching.join(" ")));
        }
    }
    ensure!(
        unused.is_empty(),
        "no test that needs root has {} in its name, in {}",
        unused.join(" or "),
        TESTED.join(", ")
    );
    Ok(jobs)
}

/// Those tests of `binary` that need root and match one of `filters`, which are words of a shell's.
fn test(binary: &Binary, filters: &str) -> Job {
    let executable = quote(&binary.executable.display().to_string());
    let directory = quote(&binary.directory.display().to_string());
    Job {
        name: binary.name.clone(),
        seconds: 900,
        // One at a time: what waits for a condition must not wait for the emulated processors as well.
        command: format!("CARGO_MANIFEST_DIR={directory} {executable} --ignored --test-threads 1 {filters}"),
        directory: binary.directory.clone(),
        programs: vec![binary.executable.clone(), built("vxdp")],
    }
}

/// The longest that `jobs` can take.
pub(super) fn limit(jobs: &[Job]) -> u32 {
    jobs.iter().map(|job| job.seconds).sum()
}

/// The programs to play with in a shell.
pub(super) fn toys() -> Result<Vec<PathBuf>> {
    crate::demo::build()?;
    Ok(["vxdp", "vxdp-demo", "vxdp-lab"].map(built).into())
}

#[cfg(test)]
mod tests_of_jobs {
    use super::*;

    #[test]
    fn a_job_is_one_line_of_shell_whatever_is_in_it() {
        let job = Job {
            name: "it's".to_owned(),
            seconds: 5,
            command: "echo 'a b'".to_owned(),
            directory: PathBuf::from("/a b"),
            programs: Vec::new(),
        };
        let script = format!("job() {{ printf '%s|%s|' \"$1\" \"$2\"; echo \"$3\"; }}\n{}", job.script());
        let out = process::output(process::command("sh").args(["-c", &script])).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "it's|5|cd '/a b' && echo 'a b'\n");
    }
}
