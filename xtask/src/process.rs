//! Starting other programs: from the workspace's root, as root where needed, with errors that name them.

use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian keeps administrators' programs; not on an ordinary user's `PATH`, but on sudo's.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The capabilities that building an overlay takes, with their bit in `CapEff`.
///
/// CAP_BPF is not among them: the kernel lets CAP_SYS_ADMIN, needed to enter namespaces, stand in for it.
const CAPABILITIES: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21)];

/// The workspace's root directory.
pub(crate) fn root() -> PathBuf {
    // `cargo run` sets the variable at run time as well, which keeps a moved checkout working.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The directory that we were started in, which relative paths of the user's are relative to.
pub(crate) fn caller_dir() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."))
}

/// A command that starts in the workspace's root.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that started us.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or("cargo".into()))
}

/// The platform we build for, as in `x86_64-unknown-linux-gnu`.
pub(crate) fn host() -> Result<String> {
    let version = output(command("rustc").arg("-vV"))?;
    let version = String::from_utf8_lossy(&version);
    let host = version.lines().find_map(|l| l.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Whether `program` is on the `PATH` or in a system administrator's directory.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(SBIN.map(PathBuf::from)).map(|d| d.join(program)).find(|f| f.is_file())
}

/// Runs `command` to its end; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = show(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// What `command` writes to its standard output; its errors are shown as they come.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let line = show(command);
    let out = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !out.status.success() {
        bail!("`{line}` failed ({})", out.status);
    }
    Ok(out.stdout)
}

/// Replaces this process by `command`, so that signals and the exit code are the program's own.
pub(crate) fn exec(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", show(command)))
}

/// The command line, for messages.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// `program` with whatever it takes to run it as root: nothing, or sudo. `purpose` is for the error.
pub(crate) fn as_root(program: impl AsRef<OsStr>, purpose: &str) -> Result<Command> {
    if is_root() {
        return Ok(command(program));
    }
    if find("sudo").is_none() {
        bail!("{purpose} needs root, and there is no sudo here: start it as root");
    }
    let mut sudo = command("sudo");
    sudo.arg("--").arg(program);
    Ok(sudo)
}

/// `program` with the capabilities that network namespaces and devices take; says so when it uses sudo.
pub(crate) fn privileged(program: &Path) -> Result<Command> {
    let missing = missing_capabilities(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    if missing.is_empty() {
        return Ok(command(program));
    }
    let (name, missing) = (program.display(), missing.join(", "));
    if is_root() {
        bail!(
            "{name} needs {missing}, which this root has not got: start it on the host, or in a container with more privileges"
        );
    }
    if find("sudo").is_none() {
        bail!("{name} needs {missing}: start this command as root, or install sudo");
    }
    eprintln!("{name} needs {missing}: running it through sudo");
    let mut sudo = command("sudo");
    let keep = kept_environment(std::env::vars_os().map(|(name, _)| name));
    if !keep.is_empty() {
        sudo.arg(format!("--preserve-env={}", keep.join(",")));
    }
    sudo.arg("--").arg(program);
    Ok(sudo)
}

/// The variables that reach a program through sudo: logging, backtraces, and vxdp's own.
fn kept_environment(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let ours = |n: &String| n.starts_with("VXDP_") || n == "RUST_LOG" || n == "RUST_BACKTRACE";
    names.filter_map(|n| n.into_string().ok()).filter(ours).collect()
}

/// Which of [`CAPABILITIES`] the text of `/proc/self/status` does not list as effective.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or_default();
    let effective = u64::from_str_radix(hex.trim(), 16).unwrap_or(0);
    CAPABILITIES.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert!(missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(missing_capabilities("CapEff:\t0000000000003000\n"), ["CAP_SYS_ADMIN"]);
        assert_eq!(missing_capabilities("CapEff:\t0000000000000000\n").len(), CAPABILITIES.len());
        assert_eq!(missing_capabilities("").len(), CAPABILITIES.len());
    }

    #[test]
    fn only_named_variables_pass_through_sudo() {
        let names = ["RUST_LOG", "HOME", "VXDP_SOCKET", "LD_PRELOAD"].map(OsString::from);
        assert_eq!(kept_environment(names.into_iter()), ["RUST_LOG", "VXDP_SOCKET"]);
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
