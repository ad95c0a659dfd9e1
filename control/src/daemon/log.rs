//! Writes the log: the model's messages, with repeats withheld.

use std::io;
use std::time::Duration;

use tracing::{Level, debug, error, info, warn};

use crate::model::Outcome;
use crate::model::say::{Limit, Say};

/// The log, and how often each kind of message was written lately.
#[derive(Debug, Default)]
pub(super) struct Log {
    limit: Limit,
}

impl Log {
    /// Writes a message, unless there were too many of its kind.
    pub(super) fn say(&mut self, now: Duration, say: &Say) {
        let Some(withheld) = self.limit.admit(now, say) else { return };
        let kind = say.kind();
        match say.level() {
            Level::ERROR => error!(kind, withheld, "{say}"),
            Level::WARN => warn!(kind, withheld, "{say}"),
            Level::INFO => info!(kind, withheld, "{say}"),
            _ => debug!(kind, withheld, "{say}"),
        }
    }

    /// What the first pass did.
    pub(super) fn first(&mut self, outcome: &Outcome) {
        for warning in &outcome.warnings {
            self.say(Duration::ZERO, &Say::Warning(warning.clone()));
        }
        let steps = outcome.done.clone();
        match (&outcome.error, steps.is_empty()) {
            (Some(_), _) => {}
            (None, true) => info!("everything stands as configured; nothing was changed"),
            (None, false) => self.say(Duration::ZERO, &Say::Built { steps }),
        }
    }

    /// A note was not written.
    pub(super) fn unnoted(&mut self, error: &io::Error) {
        self.say(Duration::ZERO, &Say::Warning(format!("a later daemon will not know of this: {error}")));
    }
}
