//! Places for clients of the API: as many as are served at one time. Who is silent makes room for others.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// Clients served at one time; a further one waits for a place.
pub(super) const PLACES: usize = 64;

/// How long a client that asks nothing keeps its place while others wait for one. A program on a busy machine
/// may take a while between connecting and asking.
pub(super) const SILENT: Duration = Duration::from_millis(500);

/// The places.
pub(super) struct Room {
    places: Arc<Semaphore>,
    /// A permit for each place that is wanted; whoever takes it leaves.
    wanted: Semaphore,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(PLACES)), wanted: Semaphore::new(0) }
    }

    /// A place, once there is one; it is free again when the permit goes.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
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
    pub(super) async fn is_wanted(&self) {
        sleep(SILENT).await;
        if let Ok(wanted) = self.wanted.acquire().await {
            wanted.forget();
        }
    }
}
