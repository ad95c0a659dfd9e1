//! `cargo xtask setup`: finds what is missing for building, testing and showing, and installs it.

mod apt;
mod requirement;
mod rustup;

use anyhow::{Result, bail};
pub(crate) use apt::{download as download_package, newest as newest_package};
use clap::ValueEnum;
use requirement::{REQUIREMENTS, Requirement};
use std::fmt::Write;

/// Find out what this machine lacks, and install it (Debian and Ubuntu) or say exactly what to install.
///
/// Every other command does this by itself for what it needs; a call that finds nothing missing takes no time.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask setup                    install what is missing for building, the demo and the tests
  cargo xtask setup --check            only look; exit code 1 if something is missing
  cargo xtask setup --for build,bench  only what these need")]
pub(crate) struct Args {
    /// Only look and say what is missing, install nothing
    #[arg(long)]
    check: bool,
    /// What to set up for
    #[arg(long = "for", value_name = "WHAT", value_delimiter = ',', default_values = ["build", "demo", "test"])]
    purposes: Vec<Purpose>,
}

/// What the machine is set up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Purpose {
    /// Building the workspace
    Build,
    /// `cargo xtask demo` and `cargo xtask lab`
    Demo,
    /// `cargo xtask demo --docker`
    Docker,
    /// `cargo xtask test` (building and the demos, too)
    Test,
    /// `cargo xtask bench` (building, too)
    Bench,
    /// `cargo xtask ebpf`
    Ebpf,
    /// `cargo xtask dist` (building, too)
    Dist,
    /// `cargo xtask vm` (building and the demo, too)
    Vm,
    /// `cargo xtask fuzz` (building, too)
    Fuzz,
}

impl Purpose {
    /// Whether being set up for `self` means being set up for `other`.
    fn includes(self, other: Purpose) -> bool {
        match self {
            Purpose::Test => {
                matches!(
                    other,
                    Purpose::Test | Purpose::Build | Purpose::Demo | Purpose::Docker | Purpose::Dist
                )
            }
            Purpose::Bench => matches!(other, Purpose::Bench | Purpose::Build),
            Purpose::Dist => matches!(other, Purpose::Dist | Purpose::Build),
            Purpose::Vm => matches!(other, Purpose::Vm | Purpose::Build | Purpose::Demo),
            Purpose::Fuzz => matches!(other, Purpose::Fuzz | Purpose::Build),
            _ => self == other,
        }
    }
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let wanted = wanted(&args.purposes);
    if args.check {
        return check(&wanted, &args.purposes);
    }
    for requirement in &wanted {
        if requirement.is_met() {
            println!("  found    {:<24} {}", requirement.name(), requirement.why);
        }
    }
    ensure(&args.purposes)?;
    println!("set up for {}: nothing is missing", names(&args.purposes));
    Ok(())
}

/// Makes sure that everything for `purposes` is there; silent when it is.
pub(crate) fn ensure(purposes: &[Purpose]) -> Result<()> {
    let missing = missing(purposes);
    if !missing.is_empty() {
        install(&missing)?;
    }
    if purposes.iter().any(|p| p.includes(Purpose::Test)) {
        rustup::ensure()?;
    }
    Ok(())
}

/// Everything that `purposes` need.
fn wanted(purposes: &[Purpose]) -> Vec<&'static Requirement> {
    let needs = |r: &&Requirement| r.purposes.iter().any(|of| purposes.iter().any(|p| p.includes(*of)));
    REQUIREMENTS.iter().filter(needs).collect()
}

/// What `purposes` need and is not there.
fn missing(purposes: &[Purpose]) -> Vec<&'static Requirement> {
    wanted(purposes).into_iter().filter(|r| !r.is_met()).collect()
}

/// Prints what is there and what is not; an error if anything is not.
fn check(wanted: &[&Requirement], purposes: &[Purpose]) -> Result<()> {
    let mut lacking = 0;
    for requirement in wanted {
        let met = requirement.is_met();
        lacking += usize::from(!met);
        let word = if met { "found" } else { "MISSING" };
        println!("  {word:<8} {:<24} {}", requirement.name(), requirement.why);
    }
    if purposes.iter().any(|p| p.includes(Purpose::Test)) {
        for component in rustup::missing() {
            lacking += 1;
            println!(
                "  {:<8} {:<24} part of the Rust toolchain",
                "MISSING",
                format!("cargo {}", component.name)
            );
        }
    }
    if lacking > 0 {
        bail!("{lacking} missing; `cargo xtask setup` installs or names them");
    }
    Ok(())
}

/// Installs `missing`, or says how to.
fn install(missing: &[&Requirement]) -> Result<()> {
    if apt::is_here() {
        apt::install(missing)?;
    } else {
        bail!("{}", advice(missing, &std::fs::read_to_string("/etc/os-release").unwrap_or_default()));
    }
    let still: Vec<_> = missing.iter().filter(|r| !r.is_met()).map(|r| r.name()).collect();
    if !still.is_empty() {
        bail!(
            "installed, but still not to be found: {}; is another version first in PATH?",
            still.join(", ")
        );
    }
    Ok(())
}

/// What to install by hand, for the system that the text of `/etc/os-release` describes.
fn advice(missing: &[&Requirement], os_release: &str) -> String {
    let mut text =
        "missing on this machine, and only on Debian and Ubuntu can it be installed for you:\n".to_owned();
    for requirement in missing {
        let _ = writeln!(text, "  {:<24} {}", requirement.name(), requirement.why);
    }
    let family = |name: &str| {
        let like = os_release.lines().filter_map(|l| l.strip_prefix("ID=").or(l.strip_prefix("ID_LIKE=")));
        like.flat_map(|l| l.trim_matches('"').split(' ')).any(|id| id == name)
    };
    let list = |package: fn(&Requirement) -> &str| {
        let mut packages: Vec<_> = missing.iter().map(|r| package(r)).collect();
        packages.sort_unstable();
        packages.dedup();
        packages.join(" ")
    };
    let fedora = format!("dnf install {}", list(|r| r.fedora));
    let arch = format!("pacman -S {}", list(|r| r.arch));
    let debian = format!("the packages that Debian calls {}", list(|r| r.debian[0]));
    let how = match () {
        () if family("fedora") => fedora,
        () if family("arch") => arch,
        () => debian,
    };
    let _ = write!(text, "install: {how}");
    text
}

/// The purposes as the command line spells them.
fn names(purposes: &[Purpose]) -> String {
    let names = purposes.iter().filter_map(|p| p.to_possible_value()).map(|v| v.get_name().to_owned());
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_need_what_building_and_the_demos_need() {
        let test = wanted(&[Purpose::Test]).len();
        assert_eq!(
            wanted(&[Purpose::Build, Purpose::Demo, Purpose::Docker, Purpose::Dist, Purpose::Test]).len(),
            test
        );
        assert!(wanted(&[Purpose::Build]).len() < test);
    }

    #[test]
    fn advice_speaks_the_systems_language() {
        let wanted = wanted(&[Purpose::Build]);
        assert!(advice(&wanted, "ID=fedora\n").contains("dnf install clang clang-devel "));
        assert!(advice(&wanted, "ID=rocky\nID_LIKE=\"rhel fedora\"\n").contains("dnf install "));
        assert!(advice(&wanted, "ID=manjaro\nID_LIKE=arch\n").contains("pacman -S clang gcc "));
        let other = advice(&wanted, "");
        assert!(other.contains("Debian calls clang ") && other.contains("header <pcap/dlt.h>"));
    }
}
