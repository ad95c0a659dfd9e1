//! The place of the engine of one kind: who sits there, and when it is tried again after a failure.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::{End, Engine, Kind, Part};

/// First pause after a failed start, doubled each time up to the last. The kernel carries the traffic
/// meanwhile, so nothing presses; but a namespace that is being rebuilt is back within a second.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// The place of the engine of one kind.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) kind: Kind,
    pub(super) engine: Option<Engine>,
    /// With which it was started.
    pub(super) parts: Vec<Part>,
    pub(super) trouble: Option<String>,
    pub(super) pause: Duration,
    pub(super) retry: Instant,
}

impl Seat {
    pub(super) fn new(kind: Kind) -> Self {
        let (pause, retry) = (FIRST_PAUSE, Instant::now());
        Self { kind, engine: None, parts: Vec::new(), trouble: None, pause, retry }
    }

    /// Takes note of an engine that has ended by itself; the words for it.
    pub(super) fn bury(&mut self) -> Option<String> {
        let end = self.engine.as_ref().and_then(|engine| engine.end().borrow().clone())?;
        self.engine = None;
        let why = match end {
            End::Lost(why) => why,
            End::Stopped => "the engine was stopped".to_owned(),
        };
        self.fail(why.clone());
        Some(why)
    }

    pub(super) fn fail(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!("no xdp mode, the kernel carries everything: {why}");
        }
        self.trouble = Some(why);
        self.retry = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }

    /// Whether the overlays are shared out as they were when the engine was started.
    pub(super) fn has_same_part(&self, parts: &[Part]) -> bool {
        let owns = |part: &Part| *part != Part::None;
        self.parts.iter().map(owns).eq(parts.iter().map(owns))
    }
}
