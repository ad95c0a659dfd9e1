//! Running a program to its end, with a bound on time and with what it printed.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::wait;

/// Time given to a program when nothing else is said; `ip` and its like need milliseconds.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its command line, for messages.
    pub command: String,
    /// Exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Outcome {
    /// The exit code; `None` when a signal ended the program.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output of a program that succeeded; otherwise an error with all it said.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("`{}`: {}\n{}{}", self.command, self.status, self.stdout, self.stderr)
    }
}

/// Runs `command` to its end; kills it after `timeout` or when the lab is interrupted.
pub(crate) fn run(mut command: Command, timeout: Duration) -> Result<Outcome> {
    let line = line_of(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("while starting `{line}`"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait_bounded(&mut child, timeout)?;
    if status.is_none() {
        child.kill().with_context(|| format!("while killing `{line}`"))?;
        child.wait()?;
    }
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    match status {
        Some(status) => Ok(Outcome { command: line, status, stdout, stderr }),
        None if wait::interrupted() => bail!("interrupted during `{line}`"),
        None => bail!("`{line}` was stopped after {timeout:?}\n{stdout}{stderr}"),
    }
}

/// Waits for `child` at most `timeout`; `None` means that it still runs (or that we were interrupted).
pub(crate) fn wait_bounded(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline || wait::interrupted() {
            return Ok(None);
        }
        std::thread::sleep(wait::POLL_INTERVAL);
    }
}

/// The command line, for messages.
pub(crate) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Reads a pipe on a thread of its own, so that a program that prints much cannot block.
fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> Option<JoinHandle<String>> {
    pipe.map(|mut pipe| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A read error ends the text; the exit status tells the rest.
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    })
}

fn collect(reader: Option<JoinHandle<String>>) -> String {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failing_program_is_an_error_that_holds_its_output() {
        let outcome = run(shell("echo out; echo err >&2; exit 3"), DEFAULT_TIMEOUT).unwrap();
        assert_eq!(outcome.code(), Some(3));
        let message = outcome.success().unwrap_err().to_string();
        assert!(message.contains("out") && message.contains("err"), "{message}");
    }

    #[test]
    fn a_program_that_hangs_is_stopped() {
        let begin = Instant::now();
        let error = run(shell("echo begun; exec sleep 60"), Duration::from_millis(100)).unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(error.to_string().contains("begun"), "{error}");
    }
}
