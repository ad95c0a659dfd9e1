//! Captures of clients: begun in the engines, served by a thread each, ended when the client hangs up.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::api::{Answer, Kind};
use crate::capture::Wanted;
use crate::capture::session::Capture;
use crate::engine::pilot::Pilot;

/// Begins a capture; its frames go to the connection that comes once the client has the answer.
pub(super) async fn begin(
    pilot: Arc<Pilot>,
    wanted: Wanted,
    stream: oneshot::Receiver<UnixStream>,
) -> Answer {
    let (capture, frames) = match Capture::new(wanted) {
        Ok(begun) => begun,
        Err(error) => return Answer::refuse(Kind::Refused, error.to_string()),
    };
    if let Err(why) = pilot.watch(Arc::clone(&capture)).await {
        return Answer::refuse(Kind::Busy, why);
    }
    tokio::spawn(async move {
        // A client that has hung up already gives no connection.
        if let Ok(stream) = stream.await {
            let (ended, end) = oneshot::channel();
            let serving = Arc::clone(&capture);
            // A thread of its own, not the runtime's: a client that does not read must not keep the daemon
            // from ending.
            let body = move || {
                let _ = serving.serve(stream, &frames);
                let _ = ended.send(());
            };
            if std::thread::Builder::new().name("vxdp-capture".to_owned()).spawn(body).is_ok() {
                let _ = end.await;
            }
        }
        pilot.unwatch(&capture).await;
    });
    Answer::done()
}
