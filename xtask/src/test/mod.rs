//! `cargo xtask test`: every check and every test, stage by stage, and how many of them passed.

pub(crate) mod binaries;
mod libtest;
mod licences;
mod spdx;
mod summary;
mod tidy;

use crate::process;
use crate::setup::{self, Purpose};
use anyhow::Result;
use binaries::Privilege;
use libtest::Tally;
use summary::Summary;

/// Run everything: format, lints, docs, licences, house rules, tests, and the tests that need root.
///
/// Each of the checks counts as one in the last line, which says how many passed and failed.
/// With a filter, only tests run, and only those whose name contains it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test               everything; asks sudo for the tests that need root
  cargo xtask test --quick       without the tests that need root
  cargo xtask test decap         only tests with `decap` in their name")]
pub(crate) struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Leave out the tests that need root (they count as skipped)
    #[arg(long)]
    quick: bool,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let mut summary = Summary::default();
    let ready = summary.check("set-up", || setup::ensure(&[Purpose::Test]));
    if ready {
        if args.filter.is_none() {
            checks(&mut summary);
        }
        tests(&mut summary, args);
    }
    summary.print();
    if !summary.is_success() {
        // An error would be printed behind the last line, which is for machines to read.
        std::process::exit(1);
    }
    Ok(())
}

/// The checks that are no tests.
fn checks(summary: &mut Summary) {
    let cargo = |args: &[&str]| process::run(process::cargo().args(args));
    summary.check("format", || cargo(&["fmt", "--all", "--check"]));
    summary.check("house rules", tidy::check);
    summary.check("licences", licences::check);
    summary.check("lints", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
    });
    summary.check("docs", || {
        let args = ["doc", "--workspace", "--no-deps", "--quiet"];
        process::run(process::cargo().env("RUSTDOCFLAGS", "-D warnings").args(args))
    });
}

/// The tests: those that anybody may run, then those that need root.
fn tests(summary: &mut Summary, args: &Args) {
    let filter = args.filter.as_deref();
    let mut binaries = Vec::new();
    summary.stage("build tests", || {
        binaries = binaries::build()?;
        Ok(Tally::default())
    });
    if binaries.is_empty() {
        return;
    }
    let mut needing_root = 0;
    summary.stage("tests", || {
        let mut tally = binaries::run(&binaries, Privilege::None, filter)?;
        // What this stage ignores is the next one's job.
        needing_root = std::mem::take(&mut tally.skipped);
        Ok(tally)
    });
    summary.stage("doc tests", || binaries::run_doc_tests(filter));
    if args.quick {
        println!("\n== tests as root: left out, as asked with --quick");
        summary.skip("tests as root", needing_root);
    } else if needing_root > 0 {
        summary.stage("tests as root", || binaries::run(&binaries, Privilege::Root, filter));
    }
}
