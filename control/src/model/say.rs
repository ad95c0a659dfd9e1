//! What the daemon logs: the wording of repeated messages, in one place.

use std::fmt;
use std::mem::Discriminant;
use std::time::Duration;

use tracing::Level;

use crate::misses::{Answer, Missed};
use crate::segment::Segment;

/// Steps that one message names; the rest are counted.
const STEPS_NAMED: usize = 6;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Say {
    /// The first pass.
    Built {
        /// What was done.
        steps: Vec<String>,
    },
    /// The overlays were not as they should be, and are again.
    Repaired {
        /// What was done.
        steps: Vec<String>,
    },
    /// They could not be repaired.
    ReconcileFailed {
        /// Why.
        error: String,
        /// When the next attempt follows.
        retry: Duration,
    },
    /// After failures it worked.
    Recovered,
    /// Each pass finds something to change.
    Contested,
    /// A container's namespace is gone.
    ContainerAway {
        /// Its overlay.
        segment: Segment,
        /// Its device on the bridge.
        interface: String,
        /// What was found instead.
        reason: String,
    },
    /// It is there again and was attached.
    ContainerBack {
        /// Its overlay.
        segment: Segment,
        /// Its device on the bridge.
        interface: String,
    },
    /// An operator should know.
    Warning(String),
    /// The kernel dropped notifications.
    Overflowed,
    /// The kernel dropped misses.
    MissesOverflowed,
    /// The kernel missed what no directory has.
    UnknownMissed {
        /// In this overlay.
        segment: Segment,
        /// This.
        missed: Missed,
    },
    /// A miss was answered.
    Answered {
        /// In this overlay.
        segment: Segment,
        /// With this.
        answer: Answer,
    },
    /// The kernel did not take the answer.
    NotAnswered {
        /// In this overlay.
        segment: Segment,
        /// Why.
        error: String,
    },
    /// An operator changed rows.
    Fdb {
        /// In this overlay.
        segment: Segment,
        /// What was done.
        what: String,
    },
    /// The configuration was read again.
    Reloaded,
    /// It was not.
    NotReloaded {
        /// Why.
        error: String,
    },
    /// The daemon ends.
    Stopping,
    /// Another daemon takes over.
    HandingOver,
    /// It removes everything first.
    Removing,
}

impl Say {
    /// For filters over the log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Built { .. } => "built",
            Self::Repaired { .. } => "repaired",
            Self::ReconcileFailed { .. } => "reconcile-failed",
            Self::Recovered => "recovered",
            Self::Contested => "contested",
            Self::ContainerAway { .. } => "container-away",
            Self::ContainerBack { .. } => "container-back",
            Self::Warning(_) => "warning",
            Self::Overflowed => "overflowed",
            Self::MissesOverflowed => "misses-overflowed",
            Self::UnknownMissed { .. } => "unknown-missed",
            Self::Answered { .. } => "answered",
            Self::NotAnswered { .. } => "not-answered",
            Self::Fdb { .. } => "fdb",
            Self::Reloaded => "reloaded",
            Self::NotReloaded { .. } => "not-reloaded",
            Self::Stopping => "stopping",
            Self::HandingOver => "handing-over",
            Self::Removing => "removing",
        }
    }

    /// How loud.
    pub fn level(&self) -> Level {
        match self {
            Self::ReconcileFailed { .. } | Self::NotAnswered { .. } | Self::NotReloaded { .. } => {
                Level::ERROR
            }
            Self::Contested
            | Self::ContainerAway { .. }
            | Self::Warning(_)
            | Self::Overflowed
            | Self::MissesOverflowed => Level::WARN,
            Self::UnknownMissed { .. } | Self::Answered { .. } => Level::DEBUG,
            _ => Level::INFO,
        }
    }
}

impl fmt::Display for Say {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Built { steps } | Self::Repaired { steps } => {
                let word = if matches!(self, Self::Built { .. }) { "built" } else { "repaired" };
                write!(f, "{word}: {}", steps[..steps.len().min(STEPS_NAMED)].join("; "))?;
                match steps.len().saturating_sub(STEPS_NAMED) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more"),
                }
            }
            Self::ReconcileFailed { error, retry } => write!(f, "{error}; next attempt in {retry:.1?}"),
            Self::Recovered => f.write_str("all is as configured again"),
            Self::Contested => f.write_str(
                "every pass finds something to change: does another program manage the same devices? \
                 passes become rarer until one finds nothing",
            ),
            Self::ContainerAway { segment, interface, reason } => {
                write!(f, "{segment}: {interface} is not attached: {reason}")
            }
            Self::ContainerBack { segment, interface } => write!(f, "{segment}: {interface} is attached"),
            Self::Warning(text) => f.write_str(text),
            Self::Overflowed => f.write_str("the kernel dropped notifications; looking at everything again"),
            Self::MissesOverflowed => {
                f.write_str("the kernel dropped misses faster than they were read; the next frame asks again")
            }
            Self::UnknownMissed { segment, missed } => {
                write!(f, "{segment}: the kernel looks for {missed}, which no remote has")
            }
            Self::Answered { segment, answer: Answer::Station { mac, vtep } } => {
                write!(f, "{segment}: {mac} is behind {vtep}, installed on a miss")
            }
            Self::Answered { segment, answer: Answer::Neighbour { address, mac } } => {
                write!(f, "{segment}: {address} is {mac}, installed on a miss")
            }
            Self::NotAnswered { segment, error } => write!(f, "{segment}: a miss was not answered: {error}"),
            Self::Fdb { segment, what } => write!(f, "{segment}: {what}"),
            Self::Reloaded => f.write_str("the configuration was read again"),
            Self::NotReloaded { error } => write!(f, "the old configuration stays in force: {error}"),
            Self::Removing => f.write_str("removing everything the configuration created, then stopping"),
            Self::Stopping => f.write_str("stopping; the kernel overlay goes on forwarding"),
            Self::HandingOver => {
                f.write_str("handing over to another daemon; the kernel overlay goes on forwarding")
            }
        }
    }
}

/// How many messages of one kind may be logged within [`WINDOW`].
const BURST: u32 = 20;

/// The time over which [`BURST`] counts.
const WINDOW: Duration = Duration::from_secs(10);

/// Lets repeated messages through only so often, and counts the rest.
#[derive(Debug, Default)]
pub struct Limit {
    // One entry per kind of message, so a handful.
    kinds: Vec<Kind>,
}

#[derive(Debug)]
struct Kind {
    kind: Discriminant<Say>,
    since: Duration,
    logged: u32,
    withheld: u64,
}

impl Limit {
    /// Whether `say` may be logged; if so, how many of its kind were withheld before it.
    pub fn admit(&mut self, now: Duration, say: &Say) -> Option<u64> {
        let kind = std::mem::discriminant(say);
        let at = self.kinds.iter().position(|known| known.kind == kind).unwrap_or_else(|| {
            self.kinds.push(Kind { kind, since: now, logged: 0, withheld: 0 });
            self.kinds.len() - 1
        });
        let known = &mut self.kinds[at];
        if now.saturating_sub(known.since) >= WINDOW {
            (known.since, known.logged) = (now, 0);
        }
        if known.logged >= BURST {
            known.withheld += 1;
            return None;
        }
        known.logged += 1;
        Some(std::mem::take(&mut known.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_withheld_and_counted() {
        let mut limit = Limit::default();
        let logged = (0..1000).filter(|_| limit.admit(Duration::ZERO, &Say::Overflowed).is_some()).count();
        assert_eq!(logged, BURST as usize);
        assert_eq!(limit.admit(Duration::ZERO, &Say::Reloaded), Some(0));
        assert_eq!(limit.admit(WINDOW, &Say::Overflowed), Some(1000 - u64::from(BURST)));
        assert_eq!(limit.admit(WINDOW, &Say::Overflowed), Some(0));
    }

    #[test]
    fn a_long_list_of_steps_is_cut() {
        let steps = (0..100).map(|n| format!("step {n}")).collect();
        let text = Say::Repaired { steps }.to_string();
        assert!(text.ends_with("and 94 more"), "{text}");
    }
}
