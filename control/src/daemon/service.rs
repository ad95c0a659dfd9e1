//! Tells the service manager how we are (`sd_notify(3)`).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::model::State;

/// The service manager, where there is one.
#[derive(Debug)]
pub(super) struct Service {
    watchdog: Option<Interval>,
}

impl Service {
    /// The one that started us.
    pub(super) fn new() -> Self {
        // Twice per period, as `sd_watchdog_enabled(3)` advises.
        let period = sd_notify::watchdog_enabled().map(|timeout| (timeout / 2).max(Duration::from_millis(1)));
        let watchdog = period.map(|period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self { watchdog }
    }

    pub(super) fn ready(&self, state: &State, mode: &str) {
        let overlays = state.config().overlays.len();
        let text = format!("{overlays} overlay{}, mode {mode}", if overlays == 1 { "" } else { "s" });
        notify(&[NotifyState::Ready, NotifyState::Status(&text)]);
    }

    pub(super) fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, now]);
        }
    }

    pub(super) fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// Waits until the watchdog is due and reports that the main loop is alive.
    pub(super) async fn watchdog(&mut self) {
        match &mut self.watchdog {
            Some(interval) => {
                interval.tick().await;
                notify(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // Without a service manager this does nothing; with one that does not listen we go on all the same.
    let _ = sd_notify::notify(states);
}
