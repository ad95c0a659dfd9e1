//! `tcp`: what a program in a container gets: bulk throughput of one and of four connections, and requests
//! that are answered one after the other on one connection.
//!
//! Our own threads instead of iperf3 and netperf: bytes are counted where they arrive, within a window that
//! begins when every connection flows, and no program has to be installed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::latency::Times;
use crate::cpu;
use crate::figure::{Sample, Unit};
use crate::frame::ADDRESS2;
use crate::session::{Session, Settings};
use crate::subject::Subject;

/// A connection on which nothing moves for so long has failed.
const STALLED: Duration = Duration::from_secs(5);
/// Bytes of a write and of a read, as iperf3's.
const BLOCK: usize = 128 << 10;
/// Bytes of a request and of its answer: small enough for one segment, as a key-value store's.
const REQUEST: usize = 64;
/// Before bytes are counted: congestion windows open meanwhile, and receive buffers grow.
const WARM_UP: Duration = Duration::from_millis(200);

/// What crosses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As many bytes as so many connections carry.
    Bulk(usize),
    /// A request, its answer, the next request.
    RequestResponse,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Bulk(1), Self::Bulk(4), Self::RequestResponse];

    pub(super) fn conditions(self) -> [(&'static str, String); 2] {
        match self {
            Self::Bulk(streams) => [("traffic", "bulk".to_owned()), ("streams", streams.to_string())],
            Self::RequestResponse => {
                [("traffic", "request/response".to_owned()), ("streams", "1".to_owned())]
            }
        }
    }
}

/// Longer than a trial, because a congestion window takes its time.
pub(super) fn length(settings: &Settings) -> Duration {
    settings.trial * 3
}

pub(super) fn run(session: &Session, index: usize, way: Way) -> Result<Vec<Sample>> {
    let subject = &session.subjects[index];
    let length = length(&session.settings);
    match way {
        Way::Bulk(streams) => bulk(subject, streams, length),
        Way::RequestResponse => request_response(subject, length),
    }
}

/// A connection from container 1 to container 2: its two ends.
fn connect(subject: &Subject) -> Result<[TcpStream; 2]> {
    let [c1, c2] = &subject.containers;
    let listener = c2.enter(|| Ok(TcpListener::bind((Ipv4Addr::from(ADDRESS2), 0))?))?;
    let address = listener.local_addr()?;
    let client = c1.enter(|| Ok(TcpStream::connect_timeout(&address, STALLED)?));
    let client = client.context("while connecting the containers")?;
    // It is in the queue already: this does not block.
    let (server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(STALLED))?;
        end.set_write_timeout(Some(STALLED))?;
        end.set_nodelay(true)?;
    }
    Ok([client, server])
}

fn bulk(subject: &Subject, streams: usize, length: Duration) -> Result<Vec<Sample>> {
    let connections = (0..streams).map(|_| connect(subject)).collect::<Result<Vec<_>>>()?;
    let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let window = std::thread::scope(|scope| {
        let mut ends = Vec::new();
        for [client, server] in connections {
            ends.push(scope.spawn(|| send(client, &done)));
            ends.push(scope.spawn(|| receive(server, &received)));
        }
        let window = Window::watch(&received, length);
        done.store(true, Ordering::Relaxed);
        let ended = ends.into_iter().map(|end| end.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        ended.collect::<Result<()>>().and(window)
    })?;
    let seconds = window.elapsed.as_secs_f64();
    ensure!(window.bytes > 0, "no byte came within {seconds:.1} s");
    let kibibytes = window.bytes as f64 / 1024.0;
    Ok(vec![
        Sample::new("bulk throughput", Unit::BitsPerSecond, window.bytes as f64 * 8.0 / seconds),
        Sample::new("processor time of a KiB", Unit::Nanoseconds, window.busy.as_nanos() as f64 / kibibytes),
    ])
}

/// What came within the time that counts.
struct Window {
    bytes: u64,
    elapsed: Duration,
    /// Time that all processors were busy, together; both programs' included.
    busy: Duration,
}

impl Window {
    fn watch(received: &AtomicU64, length: Duration) -> Result<Self> {
        std::thread::sleep(WARM_UP);
        let (before, start, moment) = (received.load(Ordering::Relaxed), Instant::now(), cpu::Moment::now()?);
        while start.elapsed() < length && !vxdp_lab::interrupted() {
            std::thread::sleep(Duration::from_millis(50).min(length.saturating_sub(start.elapsed())));
        }
        let (bytes, elapsed) = (received.load(Ordering::Relaxed) - before, start.elapsed());
        Ok(Self { bytes, elapsed, busy: moment.busy()? })
    }
}

fn send(mut stream: TcpStream, done: &AtomicBool) -> Result<()> {
    let block = vec![0; BLOCK];
    while !done.load(Ordering::Relaxed) {
        stream.write_all(&block).context("while sending")?;
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

fn receive(mut stream: TcpStream, received: &AtomicU64) -> Result<()> {
    let mut buffer = vec![0; BLOCK];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => received.fetch_add(length as u64, Ordering::Relaxed),
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(error).context("while receiving"),
        };
    }
}

fn request_response(subject: &Subject, length: Duration) -> Result<Vec<Sample>> {
    let [mut client, server] = connect(subject)?;
    let (times, elapsed) = std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(server));
        let asked = ask(&mut client, length);
        // The other end reads its end of file, also after an error.
        drop(client);
        let answered = answering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let asked = asked?;
        answered.context("while answering").map(|()| asked)
    })?;
    let mut samples =
        vec![Sample::new("requests", Unit::RequestsPerSecond, times.len() as f64 / elapsed.as_secs_f64())];
    samples.extend(times.samples()?);
    Ok(samples)
}

fn answer(mut server: TcpStream) -> Result<()> {
    let mut request = [0; REQUEST];
    loop {
        match server.read_exact(&mut request) {
            Ok(()) => server.write_all(&request)?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn ask(client: &mut TcpStream, length: Duration) -> Result<(Times, Duration)> {
    let (mut times, mut buffer, start) = (Times::new()?, [0; REQUEST], Instant::now());
    while start.elapsed() < length && !vxdp_lab::interrupted() {
        let sent = Instant::now();
        client.write_all(&[0; REQUEST]).context("while sending a request")?;
        client.read_exact(&mut buffer).context("while waiting for an answer")?;
        times.note(sent.elapsed());
    }
    Ok((times, start.elapsed()))
}
