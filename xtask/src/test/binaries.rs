//! Building the test binaries as the user, and running them as the user or as root.

use super::libtest::{Reader, Tally};
use crate::process;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A test binary.
pub(crate) struct Binary {
    /// Package and target, for messages.
    pub(crate) name: String,
    /// The program.
    pub(crate) executable: PathBuf,
    /// Where cargo would start it.
    pub(crate) directory: PathBuf,
}

/// As whom tests run, which decides which of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Privilege {
    /// As whoever we are: the tests that are not ignored.
    None,
    /// As root: the ignored ones.
    Root,
}

/// Raises what tests with many namespaces and sockets run into, as far as the system lets us, and starts "$@".
const RAISE_LIMITS: &str = r#"
ulimit -n "$(ulimit -H -n)" 2>/dev/null || true
ulimit -l unlimited 2>/dev/null || true
exec "$@"
"#;

/// Makes the soak last as many minutes; `sudo` would not let it pass.
const SOAK_MINUTES: &str = "VXDP_SOAK_MINUTES";

/// Builds all test binaries of the workspace.
pub(crate) fn build() -> Result<Vec<Binary>> {
    // The lab's tests run the daemon itself, which cargo builds for tests of its own package only.
    process::run(process::cargo().args(["build", "--package", "vxdp-control", "--bins", "--quiet"]))?;
    let mut cargo = process::cargo();
    cargo.args(["test", "--workspace", "--no-run", "--quiet", "--message-format=json-render-diagnostics"]);
    let messages = process::output(&mut cargo)?;
    let binaries: Vec<_> = String::from_utf8_lossy(&messages).lines().filter_map(parse_message).collect();
    if binaries.is_empty() {
        bail!("cargo built no test binary");
    }
    Ok(binaries)
}

/// The test binary that a message of cargo's speaks of.
fn parse_message(line: &str) -> Option<Binary> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let directory = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let package = directory.file_name()?.to_string_lossy().into_owned();
    let (target, kind) = (message["target"]["name"].as_str()?, message["target"]["kind"][0].as_str()?);
    let executable = PathBuf::from(message["executable"].as_str()?);
    Some(Binary { name: format!("{package}: {kind} {target}"), executable, directory })
}

/// Runs the tests of `binaries` whose names contain `filter`.
pub(super) fn run(binaries: &[Binary], privilege: Privilege, filter: Option<&str>) -> Result<Tally> {
    let mut total = Tally::default();
    for binary in binaries {
        if privilege == Privilege::Root && !has_ignored(binary, filter)? {
            continue;
        }
        println!("\n-- {}", binary.name);
        let mut command = match privilege {
            Privilege::None => process::command("sh"),
            Privilege::Root => process::as_root("sh", "running these tests")?,
        };
        command.args(["-c", RAISE_LIMITS, "sh", "env", "RUST_BACKTRACE=1"]);
        let mut directory = std::ffi::OsString::from("CARGO_MANIFEST_DIR=");
        directory.push(&binary.directory);
        command.arg(directory);
        command.args(std::env::var(SOAK_MINUTES).map(|minutes| format!("{SOAK_MINUTES}={minutes}")));
        command.arg(&binary.executable).args(filter);
        command.args((privilege == Privilege::Root).then_some("--ignored"));
        command.current_dir(&binary.directory);
        total = total + &read(&mut command, &binary.name)?;
    }
    Ok(total)
}

/// Whether `binary` has tests that need root, so that it is worth starting as root.
pub(crate) fn has_ignored(binary: &Binary, filter: Option<&str>) -> Result<bool> {
    let mut command = process::command(&binary.executable);
    command.current_dir(&binary.directory).args(["--list", "--ignored", "--format=terse"]).args(filter);
    Ok(process::output(&mut command)?.split(|b| *b == b'\n').any(|line| line.ends_with(b": test")))
}

/// Runs the examples in the documentation.
pub(super) fn run_doc_tests(filter: Option<&str>) -> Result<Tally> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--workspace", "--doc", "--quiet", "--no-fail-fast", "--"]).args(filter);
    read(&mut cargo, "doc tests")
}

/// Runs `command`, passing its output through, and reads from it how the tests went.
fn read(command: &mut Command, name: &str) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::show(command)))?;
    let mut reader = Reader::default();
    let output = child.stdout.take().context("the child's output is not piped")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what the tests say")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        reader.line(&line);
    }
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    if !status.success() {
        println!("{name}: {status}");
    }
    Ok(reader.finish(name, status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_artifacts_are_test_binaries() {
        let artifact = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/control/Cargo.toml","profile":{{"test":{test}}},
                "target":{{"name":"vxdp_control","kind":["lib"]}},"executable":{executable}}}"#
            )
        };
        let binary = parse_message(&artifact(true, r#""/w/target/debug/deps/x-1""#)).unwrap();
        assert_eq!(binary.name, "control: lib vxdp_control");
        assert_eq!(binary.directory, PathBuf::from("/w/control"));
        assert!(parse_message(&artifact(false, r#""/w/target/debug/vxdp""#)).is_none());
        assert!(parse_message(&artifact(true, "null")).is_none());
        assert!(parse_message(r#"{"reason":"build-finished","success":true}"#).is_none());
        assert!(parse_message("no json").is_none());
    }

    #[test]
    fn output_that_is_not_utf8_is_read_all_the_same() {
        let line =
            r"test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let mut command = process::command("printf");
        let tally = read(command.arg(format!("\\377\\n{line}\\n")), "x").unwrap();
        assert_eq!((tally.passed, tally.failed), (1, 0));
    }
}
