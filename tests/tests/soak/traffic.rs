//! The soak's traffic: pings, numbered datagrams and long-lived TCP connections, both ways, until told to stop.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vxdp_lab::{Ping, Place, RunningPing, udp_pair};

/// How long a thread waits before it looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);

/// Pause between two datagrams, and between two blocks of a stream: some hundred frames per second each way,
/// enough that no disturbance goes unnoticed, and few enough for a machine that does other things as well.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);

/// Bytes of a stream's block: several segments.
const BLOCK: usize = 8000;

/// After this time a datagram will not come any more, and a connection without progress is broken.
const LATE: Duration = Duration::from_secs(2);
const STALLED: Duration = Duration::from_secs(10);

/// The traffic between two containers.
pub(crate) struct Traffic {
    end: Arc<AtomicBool>,
    echo: Arc<Echo>,
    pings: Vec<RunningPing>,
    threads: Vec<JoinHandle<Result<u64>>>,
}

/// What was carried.
pub(crate) struct Carried {
    datagrams: u64,
    bytes: u64,
    pings: (u32, u32),
}

impl std::fmt::Display for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { datagrams, bytes, pings: (received, sent) } = self;
        write!(f, "{datagrams} datagrams echoed, {} MB in streams, ", bytes / 1_000_000)?;
        write!(f, "{received} of {sent} pings")
    }
}

/// Datagrams sent, and those that came back.
#[derive(Default)]
struct Echo {
    /// Locked while one is sent.
    sent: Mutex<u64>,
    returned: AtomicU64,
    /// Those that were waited for in vain.
    given_up: AtomicU64,
}

impl Traffic {
    /// Starts it.
    pub(crate) fn start(c1: &Place, c2: &Place) -> Result<Self> {
        let end = Arc::<AtomicBool>::default();
        let echo = Arc::<Echo>::default();
        let mut threads = Vec::new();
        let [client, server] = udp_pair(c1, c2, [10, 0, 0, 3], TICK)?;
        let reader = client.try_clone()?;
        let (stop, count) = (Arc::clone(&end), Arc::clone(&echo));
        threads.push(std::thread::spawn(move || send_datagrams(&client, &stop, &count)));
        let (stop, count) = (Arc::clone(&end), Arc::clone(&echo));
        threads.push(std::thread::spawn(move || take_datagrams(&reader, &stop, &count)));
        let stop = Arc::clone(&end);
        threads.push(std::thread::spawn(move || echo_datagrams(&server, &stop)));
        for (from, to, address) in [(c1, c2, [10, 0, 0, 3]), (c2, c1, [10, 0, 0, 2])] {
            let listener = to.enter(|| Ok(TcpListener::bind(SocketAddr::from((address, 0)))?))?;
            let address = listener.local_addr()?;
            let stream = from.enter(|| Ok(TcpStream::connect_timeout(&address, STALLED)?))?;
            let (accepted, _) = listener.accept()?;
            let stop = Arc::clone(&end);
            threads.push(std::thread::spawn(move || send_stream(stream, &stop)));
            threads.push(std::thread::spawn(move || take_stream(accepted)));
        }
        let ping = |from, to: [u8; 4]| Ping::new(to).interval(Duration::from_millis(20)).start(from);
        let pings = vec![ping(c1, [10, 0, 0, 3])?, ping(c2, [10, 0, 0, 2])?];
        Ok(Self { end, echo, pings, threads })
    }

    /// Datagrams that did not come back so far. Nothing is sent while those under way are waited for.
    pub(crate) fn lost(&self) -> Result<u64> {
        if let Some(ended) = self.threads.iter().position(JoinHandle::is_finished) {
            bail!("traffic thread {ended} has ended before its time");
        }
        let sent = self.echo.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        loop {
            let missing = *sent - self.echo.returned.load(Ordering::Relaxed);
            if missing <= self.echo.given_up.load(Ordering::Relaxed) || begun.elapsed() > LATE {
                self.echo.given_up.store(missing, Ordering::Relaxed);
                return Ok(missing);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends it and wants everything to have been as it should.
    pub(crate) fn stop(self) -> Result<Carried> {
        self.end.store(true, Ordering::Relaxed);
        let mut pings = (0, 0);
        for ping in self.pings {
            let pinged = ping.stop()?;
            pings = (pings.0 + pinged.received, pings.1 + pinged.sent);
        }
        let mut bytes = 0;
        for thread in self.threads {
            bytes += thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(Carried { datagrams: self.echo.returned.load(Ordering::Relaxed), bytes, pings })
    }
}

/// The byte at `position` of a stream or datagram: a period that no power of two divides.
fn byte_at(position: u64) -> u8 {
    (position % 251) as u8
}

/// Datagram number `number`: its number, and a pattern of a length that goes through all that fit the MTU.
fn datagram(number: u64) -> Vec<u8> {
    let length = (number * 7) % 1415;
    number.to_be_bytes().into_iter().chain((0..length).map(|position| byte_at(number + position))).collect()
}

fn send_datagrams(socket: &UdpSocket, end: &AtomicBool, echo: &Echo) -> Result<u64> {
    while !end.load(Ordering::Relaxed) {
        {
            let mut sent = echo.sent.lock().unwrap_or_else(PoisonError::into_inner);
            // An error is the answer to an earlier one (unreachable, refused), or there is no route for a moment.
            if socket.send(&datagram(*sent)).is_ok() {
                *sent += 1;
            }
        }
        std::thread::sleep(PAUSE);
    }
    Ok(0)
}

fn echo_datagrams(socket: &UdpSocket, end: &AtomicBool) -> Result<u64> {
    let mut buffer = [0; 2048];
    while !end.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
    Ok(0)
}

fn take_datagrams(socket: &UdpSocket, end: &AtomicBool, echo: &Echo) -> Result<u64> {
    let mut buffer = [0; 2048];
    let mut seen = HashSet::new();
    while !end.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let number = buffer.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        ensure!(buffer[..length] == datagram(number), "datagram {number} came back changed");
        ensure!(seen.insert(number), "datagram {number} came back twice");
        echo.returned.fetch_add(1, Ordering::Relaxed);
    }
    Ok(0)
}

fn send_stream(mut stream: TcpStream, end: &AtomicBool) -> Result<u64> {
    stream.set_write_timeout(Some(STALLED))?;
    let mut position = 0;
    while !end.load(Ordering::Relaxed) {
        let block = (position..position + BLOCK as u64).map(byte_at).collect::<Vec<_>>();
        stream.write_all(&block).with_context(|| format!("a stream broke after {position} bytes"))?;
        position += BLOCK as u64;
        std::thread::sleep(PAUSE);
    }
    Ok(0)
}

/// Checks every byte; answers how many there were.
fn take_stream(mut stream: TcpStream) -> Result<u64> {
    stream.set_read_timeout(Some(STALLED))?;
    let mut buffer = vec![0; 1 << 16];
    let mut position = 0;
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Ok(position),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.with_context(|| format!("a stream broke after {position} bytes"))?,
        };
        let wrong = buffer[..length].iter().zip(position..).find(|(byte, at)| **byte != byte_at(*at));
        ensure!(wrong.is_none(), "wrong byte in a stream (value, position): {wrong:?}");
        position += length as u64;
    }
}
