//! Places for clients of a server: as many as are served at one time. Who is silent makes room for others.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// The places.
pub(crate) struct Room {
    places: Arc<Semaphore>,
    /// A permit for each place that is wanted; whoever takes it leaves.
    wanted: Semaphore,
    silence: Duration,
}

impl Room {
    /// As many `places`; a client that asks nothing keeps its place for `silence` while others wait for one.
    pub(crate) fn new(places: usize, silence: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), wanted: Semaphore::new(0), silence }
    }

    /// A place, once there is one; it is free again when the permit goes.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        self.wanted.add_permits(1);
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        // Still there if a client has left by itself.
        self.wanted.forget_permits(1);
        place
    }

    /// Waits until a silent client has to leave: semaphores serve in turn, so first the one that has been silent
    /// for longest.
    pub(crate) async fn is_wanted(&self) {
        sleep(self.silence).await;
        if let Ok(wanted) = self.wanted.acquire().await {
            wanted.forget();
        }
    }
}
