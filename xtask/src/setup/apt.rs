//! Installing Debian and Ubuntu packages: named first, without questions, without starting services; and
//! fetching some without installing them.

use super::requirement::Requirement;
use crate::process;
use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Installs the packages in its arguments.
///
/// A package that brings a daemon (Docker does) starts it when it is installed; the commands here start
/// what they need by themselves, so `policy-rc.d` forbids it for the time of the installation.
/// `--no-remove`: nothing here is worth taking away what somebody installed (`rustc-web` and Debian's own
/// `rustc` exclude each other). Standard output stays clean for the command that is being set up for.
const INSTALL: &str = r#"
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install --yes --quiet --no-install-recommends --no-remove -o DPkg::Lock::Timeout=120 "$@" >&2
"#;

/// Whether this is a system that apt installs packages on.
pub(super) fn is_here() -> bool {
    process::find("apt-get").is_some() && process::find("apt-cache").is_some()
}

/// Installs the packages of `missing`, after naming each of them.
pub(super) fn install(missing: &[&Requirement]) -> Result<()> {
    let mut fresh = !has_lists();
    if fresh {
        update()?;
    }
    loop {
        let result = try_install(missing);
        // Lists that are too old name packages that the mirror no longer has: fetch them and try once more.
        if result.is_ok() || fresh {
            return result;
        }
        eprintln!("that failed; the package lists may be too old");
        update()?;
        fresh = true;
    }
}

/// One attempt with the lists as they are.
fn try_install(missing: &[&Requirement]) -> Result<()> {
    let mut packages: Vec<String> = Vec::new();
    let mut plan = String::new();
    for requirement in missing {
        let package = choose(requirement.debian)?;
        let _ = writeln!(plan, "  {package:<18} for {}: {}", requirement.name(), requirement.why);
        if !packages.contains(&package) {
            packages.push(package);
        }
    }
    eprintln!("installing with apt-get:\n{}", plan.trim_end());
    let mut shell = process::as_root("sh", &format!("installing {}", packages.join(" ")))?;
    shell.args(["-c", INSTALL, "sh"]).args(&packages).stdin(std::process::Stdio::inherit());
    let status = shell.status().context("cannot start a shell for apt-get")?;
    if !status.success() {
        bail!(
            "apt-get could not install {} ({status}); the reason is above. By hand: \
             sudo apt-get update && sudo apt-get install --no-install-recommends {0}",
            packages.join(" ")
        );
    }
    Ok(())
}

/// The first of `candidates` that the package lists know.
fn choose(candidates: &[&str]) -> Result<String> {
    for candidate in candidates {
        let out = process::output(process::command("apt-cache").args(["policy", candidate]))?;
        if has_candidate(&String::from_utf8_lossy(&out)) {
            return Ok((*candidate).to_owned());
        }
    }
    let what = if candidates.is_empty() { "it".to_owned() } else { candidates.join(" or ") };
    bail!("no package source of this system has {what}")
}

/// Whether the output of `apt-cache policy` names an installable version.
fn has_candidate(policy: &str) -> bool {
    policy.lines().filter_map(|l| l.trim().strip_prefix("Candidate:")).any(|v| v.trim() != "(none)")
}

/// Whether there are package lists at all; container images come without.
fn has_lists() -> bool {
    let entries = std::fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    entries.into_iter().any(|e| e.file_name().to_string_lossy().contains("_Packages"))
}

/// Fetches the package lists. One unreachable source is no reason to give up: the others may have it all.
fn update() -> Result<()> {
    eprintln!("fetching the package lists: apt-get update");
    let mut apt = process::as_root("apt-get", "apt-get update")?;
    apt.args(["update", "--quiet", "-o", "DPkg::Lock::Timeout=120"]).stdout(std::io::stderr());
    if let Err(error) = process::run(&mut apt) {
        eprintln!("{error:#}; going on with the lists there are");
    }
    Ok(())
}

/// The package with the highest version among those whose names have one.
///
/// An error where there is no such package, or no apt.
pub(crate) fn newest<V: Ord>(version: impl Fn(&str) -> Option<V>) -> Result<String> {
    if !is_here() {
        bail!("only on Debian and its like can packages be fetched");
    }
    if !has_lists() {
        update()?;
    }
    let names = process::output(process::command("apt-cache").arg("pkgnames"))?;
    let names = String::from_utf8_lossy(&names);
    let mut names: Vec<_> = names.lines().filter_map(|name| Some((version(name)?, name))).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    // apt knows names that are only mentioned, by other packages.
    choose(&names.into_iter().map(|(_, name)| name).collect::<Vec<_>>())
}

/// Fetches `package` into `directory` without installing it; the file.
pub(crate) fn download(package: &str, directory: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    // Into a directory of its own, since only apt knows the name of the file.
    let fresh = directory.join(format!("{package}.download"));
    let _ = std::fs::remove_dir_all(&fresh);
    std::fs::create_dir(&fresh).with_context(|| fresh.display().to_string())?;
    let fetch = || {
        let mut apt = process::command("apt-get");
        apt.args(["download", "--quiet", package]).current_dir(&fresh).stdout(std::io::stderr());
        // As root apt would fetch as a user of its own, who may not write here.
        process::run(apt.args(["-o", "APT::Sandbox::User=root"]))
    };
    if fetch().is_err() {
        eprintln!("that failed; the package lists may be too old");
        update()?;
        fetch()?;
    }
    let file = std::fs::read_dir(&fresh)?.next().context("apt-get fetched nothing")??.path();
    let archive = directory.join(format!("{package}.deb"));
    std::fs::rename(file, &archive)?;
    std::fs::remove_dir(&fresh)?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_candidate_is_not_installable() {
        assert!(has_candidate("m4:\n  Installed: (none)\n  Candidate: 1.4.19-3\n"));
        assert!(!has_candidate("docker-cli:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
