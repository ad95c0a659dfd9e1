//! `cargo xtask vm`: other kernels than this machine's, emulated, with the demo and tests inside.

mod console;
mod job;
mod kernel;
mod machine;
mod root;
mod vmlinux;

use crate::process;
use crate::setup::{self, Purpose};
use anyhow::{Result, bail};
use job::Job;
use kernel::Kernel;
use machine::Machine;
use root::Root;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The series that `all` stands for: the oldest that is supported, and the newest in Debian 12.
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// What runs when nothing is asked for: a test of each kind of thing that kernels may answer differently.
const TESTS: [&str; 8] = [
    // The verifier, and the helpers that the programs call.
    "gives_every_packet_its_verdict",
    // Attaching, links that outlive a process, programs of others.
    "goes_with_its_instance",
    "another_program_is_left_alone",
    "a_kept_program_stays",
    // AF_XDP sockets on veths.
    "known_unicast_goes_through_userspace",
    // The in-kernel engine: tc programs under clsact before 6.6 and by links since then, and XDP programs.
    "known_unicast_goes_through_the_programs",
    "the_tc_program_of_a_killed_daemon",
    // Netlink: building and repairing. What has a bound in seconds is better asked for by name.
    "every_drift_is_repaired",
];

/// Boot Debian's kernels in qemu, and run the demo, tests and the benchmark there.
///
/// The kernels are packages that are fetched and unpacked into target/vm; nothing is installed for good but
/// qemu. Everything is emulated (no KVM), so that results are the same on every machine: slow, and no
/// figure says anything about real hardware.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm                          everything, on Linux 6.1 and 6.12
  cargo xtask vm --kernel 6.1 --demo      the demo in every mode, on 6.1
  cargo xtask vm --bench                  throughput of every mode, with the kernel's packet generator
  cargo xtask vm --test switching         the tests that need root and have `switching` in their name
  cargo xtask vm --kernel 6.12 --shell    look around: vxdp-lab up, vxdp status …")]
pub(crate) struct Args {
    /// Series of the kernel, as in 6.1, or `all`
    #[arg(long, default_value = "all", value_parser = parse_kernel)]
    kernel: String,
    /// Run the demo, in every mode
    #[arg(long)]
    demo: bool,
    /// Measure the throughput of every mode with pktgen; the figures are marked as emulated
    #[arg(long)]
    bench: bool,
    /// Run the tests that need root and have this in their name
    #[arg(long, value_name = "FILTER")]
    test: Option<String>,
    /// Open a shell; its end is the machine's
    #[arg(long, conflicts_with_all = ["demo", "bench", "test"])]
    shell: bool,
}

fn parse_kernel(text: &str) -> Result<String> {
    if text == "all" { Ok(text.to_owned()) } else { kernel::parse_series(text) }
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let series: Vec<_> = if args.kernel == "all" { SERIES.into() } else { vec![args.kernel.as_str()] };
    if args.shell {
        let [series] = series[..] else { bail!("--shell takes one kernel, as in: --kernel {}", SERIES[0]) };
        return shell(series);
    }
    setup::ensure(&[Purpose::Vm])?;
    let jobs = jobs(args)?;
    let mut report = Vec::new();
    for series in series {
        run(series, &jobs, &mut report);
    }
    println!("\n{:<24} {:<48} result (emulated)", "kernel", "job");
    for Outcome { kernel, job, result } in &report {
        println!("{kernel:<24} {job:<48} {}", result.as_deref().unwrap_or("fine"));
    }
    let failed = report.iter().filter(|outcome| outcome.result.is_some()).count();
    if failed > 0 {
        bail!("{failed} of {} failed", report.len());
    }
    Ok(())
}

/// What became of a job.
struct Outcome {
    kernel: String,
    job: String,
    /// What went wrong.
    result: Option<String>,
}

/// What was asked for.
fn jobs(args: &Args) -> Result<Vec<Job>> {
    let all = !args.demo && !args.bench && args.test.is_none();
    let mut jobs = Vec::new();
    if args.demo || all {
        jobs.extend(job::demos()?);
    }
    if let Some(filter) = &args.test {
        jobs.extend(job::tests(&[filter])?);
    }
    if all {
        jobs.extend(job::tests(&TESTS)?);
    }
    if args.bench || all {
        jobs.push(job::bench(machine::RESULTS)?);
    }
    Ok(jobs)
}

/// Runs `jobs` on the kernel `series`, and adds to `report` what became of each.
fn run(series: &str, jobs: &[Job], report: &mut Vec<Outcome>) {
    println!("\n== Linux {series}");
    let start = Instant::now();
    let ran = machine(series, |root| root.add_jobs(jobs)).and_then(|(kernel, archive)| {
        let machine = Machine { kernel: &kernel, archive };
        Ok((machine.run(job::limit(jobs))?, machine.results()))
    });
    let (console, results) = match ran {
        Ok(ran) => ran,
        Err(error) => {
            println!("Linux {series}: {error:#}");
            let result = Some(format!("{error:#}").lines().next().unwrap_or_default().to_owned());
            report.push(Outcome { kernel: series.to_owned(), job: "all".to_owned(), result });
            return;
        }
    };
    println!("\nLinux {series} took {:.0} s", start.elapsed().as_secs_f64());
    let kernel = console.release.as_deref().unwrap_or(series);
    for job in jobs {
        // Only what reported its end can have gone well.
        let status = console.ended.iter().find(|ended| ended.job == job.name).map(|ended| ended.status);
        let result = match status {
            Some(0) if job.name == job::BENCH => report_of(series, &results).err().map(|e| format!("{e:#}")),
            Some(0) => None,
            Some(143) => Some(format!("stopped after {} s", job.seconds)),
            Some(status) => Some(format!("exit code {status}")),
            None if console.running.as_ref() == Some(&job.name) => Some("the machine ended".to_owned()),
            None => Some("did not run".to_owned()),
        };
        report.push(Outcome { kernel: kernel.to_owned(), job: job.name.clone(), result });
    }
}

/// Has the benchmark make a report of what it measured on `series`, which lies in `results`.
fn report_of(series: &str, results: &Path) -> Result<()> {
    let out = process::target_dir().join("vm").join(format!("bench-{series}"));
    let bench = process::target_dir().join("release").join(crate::bench::PROGRAM);
    process::run(process::command(bench).arg("--from").arg(results).arg("--out").arg(out))
}

/// Opens a shell on the kernel `series`.
fn shell(series: &str) -> Result<()> {
    setup::ensure(&[Purpose::Vm])?;
    let toys = job::toys()?;
    let (kernel, archive) = machine(series, |root| {
        root.add_jobs(&[])?;
        // Side by side, since the lab looks for the daemon beside itself.
        toys.iter().try_for_each(|toy| {
            root.add_our_program(toy, &Path::new("/usr/bin").join(toy.file_name().unwrap_or_default()))
        })
    })?;
    Machine { kernel: &kernel, archive }.shell()
}

/// The kernel of `series`, and an archive of the files beside which `fill` puts more.
fn machine(series: &str, fill: impl FnOnce(&Root) -> Result<()>) -> Result<(Kernel, PathBuf)> {
    let kernel = Kernel::fetch(series)?;
    let root = Root::create(&kernel)?;
    fill(&root)?;
    let archive = process::target_dir().join("vm").join(format!("{series}.cpio"));
    root.pack(&archive)?;
    Ok((kernel, archive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_a_series_or_all() {
        assert_eq!(parse_kernel("all").unwrap(), "all");
        assert_eq!(parse_kernel("6.12").unwrap(), "6.12");
        assert!(parse_kernel("newest").is_err());
    }
}
