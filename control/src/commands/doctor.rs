//! `vxdp doctor`: what stands in the way, why it matters, and the command that changes it.

use std::io::{self, Write as _};

use anyhow::Context as _;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::DoctorArgs;
use crate::config;
use crate::doctor::{self, Finding, Setting, Severity};
use crate::netns::Netns;

/// What `--json` shows.
#[derive(Serialize)]
struct Report<'a> {
    verdict: Severity,
    findings: &'a [Finding],
}

/// Looks at everything, and with `--fix` changes what is safe until it is told to end. The exit code: 0 fine, 1 it
/// works but slower, 2 it does not work.
///
/// # Errors
/// When the configuration cannot be read, or the host not be looked at.
pub fn doctor(args: &DoctorArgs) -> anyhow::Result<u8> {
    let loaded = config::load(&args.config.file)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let host = Netns::current().context("while opening the host's network namespace")?;
    let findings = runtime.block_on(doctor::examine(&loaded, &host))?;
    let verdict = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Fine);
    let text = if args.output.json {
        serde_json::to_string_pretty(&Report { verdict, findings: &findings })? + "\n"
    } else {
        screen(verdict, &findings)
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    if args.fix {
        runtime.block_on(fix(findings.iter().filter_map(|finding| finding.setting.as_ref())))?;
    }
    Ok(match verdict {
        Severity::Fine => 0,
        Severity::Slower => 1,
        Severity::Broken => 2,
    })
}

fn screen(verdict: Severity, findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.severity {
            Severity::Fine => "note",
            Severity::Slower => "slower",
            Severity::Broken => "broken",
        };
        text += &format!("{mark}: {}\n  why: {}\n", finding.what, finding.why);
        if let Some(command) = &finding.command {
            text += &format!("  try: {command}\n");
        }
        if finding.setting.is_some() {
            text += "  --fix changes it while doctor runs\n";
        }
    }
    text + match verdict {
        Severity::Fine => "fine\n",
        Severity::Slower => "it works, but slower than it could\n",
        Severity::Broken => "it does not work\n",
    }
}

/// Changes settings, and changes them back at the first SIGINT, SIGTERM, or SIGHUP (the terminal is closed).
async fn fix(settings: impl Iterator<Item = &Setting>) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let mut undo = Vec::new();
    for setting in settings {
        let Some(before) = setting.read() else { continue };
        let place = format!("{} in {}", setting.file.display(), setting.netns.label());
        match setting.write(&setting.value) {
            Ok(()) => {
                say(&format!("changed {place} from {before} to {}", setting.value));
                undo.push((setting, before, place));
            }
            Err(error) => say(&format!("vxdp: cannot write {place}: {error}")),
        }
    }
    if undo.is_empty() {
        say("nothing to fix that is safe to change");
        return Ok(());
    }
    say("Ctrl-C changes it back");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    let mut failed = Ok(());
    for (setting, before, place) in undo.into_iter().rev() {
        // Somebody else's later choice stays.
        if setting.read().as_ref() == Some(&setting.value) {
            let undone = setting.write(&before);
            match undone.with_context(|| format!("cannot change {place} back to {before}")) {
                Ok(()) => say(&format!("changed {place} back to {before}")),
                Err(error) => {
                    say(&format!("vxdp: {error:#}"));
                    failed = Err(error);
                }
            }
        }
    }
    failed
}

/// `eprintln!` would panic where the terminal is gone, and leave the rest as it is.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
}
