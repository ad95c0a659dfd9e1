//! A try of the package, installed, run, upgraded and removed in a throw-away copy of this system; and of the tarball's
//! program.

use crate::process;
use anyhow::{Context, Result, bail};
use std::path::Path;

/// Makes the copy and starts systemd in it, as root.
const COPY: &str = include_str!("trial/copy.sh");

/// What systemd starts in it: the try itself.
const TRY: &str = include_str!("trial/try.sh");

/// Tries `package`, and the program of `tarball` if there is one, and gives what was found out, line by line. Works in `directory`.
///
/// The copy is the system's own files below a layer of memory: dpkg finds the real packages, whatever it writes
/// is gone at the end, and the machine's processes, network and mounts are out of sight.
pub(super) fn run(package: &Path, tarball: Option<&Path>, directory: &Path) -> Result<String> {
    let place = directory.join(format!("trial-{}", std::process::id()));
    std::fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    let tried = run_in(package, tarball, &place);
    // What root made of it is root's.
    process::run(process::as_root("rm", "removing the try")?.arg("-rf").arg(&place))?;
    tried
}

fn run_in(package: &Path, tarball: Option<&Path>, place: &Path) -> Result<String> {
    std::fs::copy(package, place.join("vxdp.deb")).with_context(|| package.display().to_string())?;
    if let Some(tarball) = tarball {
        std::fs::copy(tarball, place.join("vxdp.tar.gz")).with_context(|| tarball.display().to_string())?;
    }
    std::fs::copy(process::root().join("examples/host1.toml"), place.join("host1.toml"))?;
    std::fs::write(place.join("try.sh"), TRY)?;
    let report = place.join("report");
    std::fs::write(&report, "")?;
    // When we die, so does everything in the copy.
    let mut command = process::as_root("setpriv", "trying the package")?;
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--", "sh", "-euc", COPY, "copy"]).arg(place);
    let out = command.output().with_context(|| format!("cannot start `{}`", process::show(&command)))?;
    let found = std::fs::read_to_string(&report)?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("the package failed its try ({}); so far:\n{found}{said}", out.status);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::{deb, tarball};

    /// Of the unoptimised program that the tests use, too: the package is the same.
    #[test]
    #[ignore = "needs root"]
    fn the_package_installs_runs_upgrades_and_is_removed_without_a_trace() {
        let own = std::env::current_exe().unwrap();
        let program = own.ancestors().nth(2).unwrap().join("vxdp");
        assert!(program.is_file(), "no {}; run `cargo build --package vxdp-control`", program.display());
        let directory = std::env::temp_dir().join(format!("vxdp-dist-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let build = |name: &str| {
            let directory = directory.join(name);
            std::fs::create_dir_all(&directory)?;
            let (package, _) = deb::build(&program, &directory, "1000000000", deb::Packing::Fast)?;
            Ok::<_, anyhow::Error>([package, tarball::build(&program, &directory, "1000000000")?])
        };
        let tried = build("one").and_then(|[package, tarball]| {
            let again = build("other")?;
            for (one, other) in [&package, &tarball].into_iter().zip(&again) {
                let same = std::fs::read(one)? == std::fs::read(other)?;
                anyhow::ensure!(same, "{} and {} differ", one.display(), other.display());
            }
            run(&package, Some(&tarball), &directory)
        });
        std::fs::remove_dir_all(&directory).unwrap();
        let found = tried.unwrap_or_else(|error| panic!("{error:#}"));
        print!("{found}");
        // Another systemd may count otherwise; the try itself has a limit for all of them.
        let page = std::fs::read_to_string(process::root().join("docs/operations.md")).unwrap();
        let security = found.lines().find_map(|line| line.strip_prefix("systemd 252 security: "));
        let written = |figure| page.contains(&format!("(systemd 252) says {figure}, "));
        assert!(security.is_none_or(written), "docs/operations.md does not say {security:?}");
        assert!(found.ends_with("removed without a trace\n"), "{found}");
    }
}
