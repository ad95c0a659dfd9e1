//! Metrics and health over HTTP, for Prometheus and for whoever watches whether the daemon is well.
//!
//! Both are drawn from the answer to a `status` request, so the counters have one source; nothing here touches
//! a worker.

mod list;
#[cfg(test)]
mod tests;
mod text;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub use list::{Form, METRICS, Metric};
pub use text::{Format, render};

use crate::api::server::Call;
use crate::api::status::{MetricsStatus, Status};
use crate::api::{self, Answer};
use crate::config::Mode;
use crate::room::Room;

/// Clients served at one time; a further one waits for a place.
const PLACES: usize = 32;

/// How long a client that asks nothing keeps its place while others wait for one. Prometheus gives up after ten
/// seconds, and behind a thousand silent clients it waits for thirty-one times this; less would not do for a
/// request that comes from far away.
const SILENT: Duration = Duration::from_millis(100);

/// How long a client may take over one request and its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the main loop may take over its answer before the daemon counts as unwell.
const LOOP_PATIENCE: Duration = Duration::from_secs(3);

/// How old an answer to a scrape may be: many clients cost as much as one.
const FRESH: Duration = Duration::from_millis(500);

/// Between two attempts to listen.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// The metrics endpoint.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    calls: mpsc::Sender<Call>,
    trouble: Mutex<Option<String>>,
    latest: AsyncMutex<Option<(Instant, Status)>>,
}

impl Endpoint {
    /// One that will listen at `address` and send its questions to `calls`.
    pub fn new(address: SocketAddr, calls: mpsc::Sender<Call>) -> Arc<Self> {
        let (trouble, latest) = Default::default();
        Arc::new(Self { address, calls, trouble, latest })
    }

    /// Where it listens, and why it does not.
    pub fn status(&self) -> MetricsStatus {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        MetricsStatus { address: self.address, trouble }
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Serves until it is dropped. An address that cannot be had now is tried again and again: the overlay does
    /// not wait for it.
    pub async fn serve(self: Arc<Self>) {
        let listener = self.listen().await;
        // With it go its clients.
        let mut served = JoinSet::new();
        let room = Arc::new(Room::new(PLACES, SILENT));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let place = room.place().await;
                    let (endpoint, room) = (Arc::clone(&self), Arc::clone(&room));
                    served.spawn(async move {
                        let _place = place;
                        // A client that is slow or goes away is its own affair.
                        let _ = timeout(PATIENCE, endpoint.serve_client(stream, &room)).await;
                    });
                    while served.try_join_next().is_some() {}
                }
                // Out of descriptors, for one: later there may be some.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn listen(&self) -> TcpListener {
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => {
                    self.set_trouble(None);
                    tracing::info!("metrics at http://{}/metrics", self.address);
                    return listener;
                }
                Err(error) => {
                    let trouble = format!(
                        "cannot listen at {}: {error}; tried again every {LISTEN_AGAIN:?} \
                         (`[control] metrics` sets another address)",
                        self.address
                    );
                    if self.status().trouble.is_none() {
                        tracing::warn!("no metrics: {trouble}");
                    }
                    self.set_trouble(Some(trouble));
                    sleep(LISTEN_AGAIN).await;
                }
            }
        }
    }

    async fn serve_client(&self, stream: TcpStream, room: &Room) -> hyper::Result<()> {
        let asked = Notify::new();
        let service = service_fn(|request| {
            asked.notify_one();
            async move { Ok::<_, Infallible>(self.answer(&request).await) }
        });
        let mut server = http1::Builder::new();
        // A connection for each request: one that is kept open would keep another client out.
        server
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .keep_alive(false)
            .max_buf_size(16 << 10);
        let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            biased;
            served = &mut connection => return served,
            () = asked.notified() => {}
            () = room.is_wanted() => return Ok(()),
        }
        connection.await
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
            refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match request.uri().path() {
            "/metrics" => {
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                let format = Format::accepted(accept.unwrap_or_default());
                match self.latest().await {
                    Ok(status) => response(StatusCode::OK, format.content_type(), render(status, format)),
                    Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
                }
            }
            "/healthz" => match self.latest().await.and_then(|status| health(&status)) {
                Ok(()) => plain(StatusCode::OK, "ok\n"),
                Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
            },
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        }
    }

    /// A status that is hardly older than the question.
    async fn latest(&self) -> Result<Status, String> {
        let mut latest = self.latest.lock().await;
        if let Some((at, status)) = &*latest
            && at.elapsed() < FRESH
        {
            return Ok(status.clone());
        }
        let (answer, receiver) = oneshot::channel();
        let ask = async {
            self.calls.send(Call { request: api::Request::Status, answer, stream: None }).await.ok()?;
            receiver.await.ok()
        };
        let answer = timeout(LOOP_PATIENCE, ask).await;
        let answer = answer.map_err(|_| format!("the main loop has not answered for {LOOP_PATIENCE:?}"))?;
        let status = match answer.ok_or("the daemon is stopping")? {
            Answer::Ok(status) => {
                serde_json::from_value::<Status>(status).map_err(|error| error.to_string())?
            }
            Answer::Error(refusal) => return Err(refusal.to_string()),
        };
        *latest = Some((Instant::now(), status.clone()));
        Ok(status)
    }
}

/// Whether all is as it was asked for; or what is not. A mode that was left open is well without xdp.
fn health(status: &Status) -> Result<(), String> {
    if status.reconcile.failures > 0 {
        let why = status.errors.first().map_or("see `vxdp status`", |error| &error.message);
        return Err(format!("the overlays cannot be put as they should be: {why}"));
    }
    let missing = |overlay: &&crate::engine::pilot::OverlayMode| {
        overlay.asked == Mode::Xdp && overlay.mode != Mode::Xdp
    };
    match status.modes.overlays.iter().find(missing) {
        Some(overlay) => {
            let why = status.modes.trouble.as_deref().unwrap_or("it is starting");
            Err(format!("overlay {} is not in xdp mode: {why}", overlay.vni))
        }
        None => Ok(()),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text.to_owned())
}

fn response(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}
