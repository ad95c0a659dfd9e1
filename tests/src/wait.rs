//! Waiting for conditions instead of sleeping, and being interruptible meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Pause between two looks at a condition: short against everything that is waited for here, long enough to
/// leave the processor to those who work.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Removals under way.
static REMOVING: AtomicUsize = AtomicUsize::new(0);

/// Turns SIGINT and SIGTERM into errors of whatever the lab waits for, so that an interrupted program unwinds
/// and its labs are removed. To be called before any thread is started.
///
/// Programs started later are not affected: `std::process::Command` gives them an empty signal mask.
pub fn catch_interrupts() -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("while blocking SIGINT and SIGTERM")?;
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            INTERRUPTED.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Whether SIGINT or SIGTERM has come since [`catch_interrupts`], and nothing is being removed now.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed) && REMOVING.load(Ordering::Relaxed) == 0
}

/// While it lives interrupts are put off: something is being removed, and that has to come to its end.
#[must_use = "interrupts are put off while it lives"]
pub(crate) struct Removal(());

impl Removal {
    pub(crate) fn begin() -> Self {
        REMOVING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        REMOVING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks at `predicate` until it is true; an error after `timeout`, saying what was waited for.
pub fn wait_until(what: &str, timeout: Duration, mut predicate: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        if predicate().with_context(|| format!("while waiting until {what}"))? {
            return Ok(());
        }
        if interrupted() {
            bail!("interrupted while waiting until {what}");
        }
        if Instant::now() >= deadline {
            bail!("waited {timeout:?} in vain until {what}");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
