//! The daemon's end: everything stops in order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::notes::Notes;
use super::{Error, system};
use crate::api::server::Claim;
use crate::api::{Answer, Kind};
use crate::causes::chain;
use crate::engine::pilot::Pilot;
use crate::kernel::Kernel;
use crate::model::Ending;

/// How long the clients' last answers may take when the daemon stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The end of the main loop.
pub(super) struct Ended {
    pub(super) why: Ending,
    /// Where the client that wanted it waits.
    pub(super) answer: Option<oneshot::Sender<Answer>>,
}

/// What still runs when the main loop has ended.
pub(super) struct Stopping<'a> {
    pub(super) worker: JoinHandle<Kernel>,
    pub(super) pilot: Arc<Pilot>,
    pub(super) api: JoinHandle<()>,
    pub(super) background: JoinSet<()>,
    pub(super) clients: TaskTracker,
    pub(super) notes_path: &'a Path,
}

impl Ended {
    /// Stops the rest in order: no new clients, no new jobs, the job under way to its end, the fast path, removal
    /// if it is wanted, last answers.
    pub(super) async fn finish(self, stopping: Stopping<'_>, claim: Claim) -> Result<(), Error> {
        let Stopping { worker, pilot, api, mut background, clients, notes_path } = stopping;
        api.abort();
        let _ = api.await;
        background.shutdown().await;
        let kernel = worker.await.map_err(|error| Error::Build(format!("the worker broke: {error}")))?;
        pilot.stop().await;
        let (answer, outcome) = match self.why {
            Ending::Removing(_) => remove(kernel, notes_path).await,
            Ending::Told | Ending::HandingOver(_) => (Answer::done(), Ok(())),
        };
        // The lock goes before the answer: who asked may start a new daemon at once, or is one.
        drop(claim);
        if let Some(client) = self.answer {
            // The client may have hung up.
            let _ = client.send(answer);
        }
        clients.close();
        let _ = timeout(LAST_ANSWERS, clients.wait()).await;
        outcome
    }
}

async fn remove(mut kernel: Kernel, notes: &Path) -> (Answer, Result<(), Error>) {
    match kernel.down().await {
        Ok(report) => {
            let removed: Vec<String> = report.steps.iter().map(ToString::to_string).collect();
            let forgotten = Notes::remove(notes).map_err(system("remove the notes of added rows"));
            (Answer::with(&serde_json::json!({ "removed": removed })), forgotten)
        }
        Err(error) => (Answer::refuse(Kind::Failed, chain(&error)), Err(error.into())),
    }
}
