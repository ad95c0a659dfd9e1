//! Numbered datagrams and a steady TCP stream between two places, for counting what an event costs.
//!
//! A `ping` that is told to end leaves its last requests under way, and takes late answers for lost ones; here
//! sending ends first, and every answer that still comes is counted.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::place::Place;
use crate::traffic::udp_pair;
use crate::wait::wait_until;

/// How often blocked calls look whether they should end.
const LOOK: Duration = Duration::from_millis(20);

/// How long after the last request an answer may come: a neighbour that must be asked for again takes a second.
const LATE: Duration = Duration::from_secs(2);

/// Bytes of a datagram, and of a block of the stream.
const DATAGRAM: usize = 64;
const BLOCK: usize = 16 << 10;

/// What became of the datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// Requests sent.
    pub sent: usize,
    /// Requests without an answer.
    pub lost: usize,
    /// Answers that came more than once.
    pub doubled: usize,
    /// Longest time between two answers.
    pub gap: Duration,
}

/// Requests at a steady pace, each answered from the other end.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    echo: JoinHandle<()>,
    client: JoinHandle<Result<Probed>>,
}

impl Probe {
    /// Sends a datagram from `from` to `address` in `to` every `interval`, until it is stopped; returns when the
    /// first answer has come.
    pub fn start(from: &Place, to: &Place, address: impl Into<IpAddr>, interval: Duration) -> Result<Self> {
        let address = address.into();
        let [client, server] = udp_pair(from, to, address, LOOK)?;
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let echo = std::thread::spawn(move || echo(&server, &ended));
        let ended = Arc::clone(&stop);
        let route = format!("{} → {} ({address})", from.label(), to.label());
        first_answer(&client).with_context(|| route.clone())?;
        let answered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answered);
        let client = std::thread::spawn(move || {
            let probed = ask(&client, interval, &ended, &count);
            done.store(true, Ordering::Relaxed);
            probed.context(route)
        });
        Ok(Self { stop, answered, echo, client })
    }

    /// Waits until `answers` more answers have come.
    pub fn wait_for(&self, answers: usize) -> Result<()> {
        let wanted = self.answered.load(Ordering::Relaxed) + answers;
        wait_until(&format!("{answers} more answers have come"), STALLED, || {
            Ok(self.answered.load(Ordering::Relaxed) >= wanted)
        })
    }

    /// Ends it and waits for the last answers.
    pub fn stop(self) -> Result<Probed> {
        self.stop.store(true, Ordering::Relaxed);
        let probed = self.client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.echo.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        probed
    }
}

/// Sends every request back until nobody waits for answers any more.
fn echo(server: &UdpSocket, done: &AtomicBool) {
    let mut buffer = [0; DATAGRAM];
    while !done.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = server.recv_from(&mut buffer) {
            // Without a route at the moment the answer is lost, which the other end counts.
            let _ = server.send_to(&buffer[..length], peer);
        }
    }
}

/// Number 0 is asked until it is answered: whatever must be learned first is learned then.
fn first_answer(client: &UdpSocket) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let _ = client.send(&[0; DATAGRAM]);
        if client.recv(&mut [0; DATAGRAM]).is_ok() {
            return Ok(());
        }
    }
    bail!("no answer to the first datagram")
}

fn ask(client: &UdpSocket, interval: Duration, stop: &AtomicBool, answered: &AtomicUsize) -> Result<Probed> {
    // By number: answers so far.
    let mut answers: Vec<u8> = vec![1];
    let (mut missing, mut doubled, mut gap) = (0, 0, Duration::ZERO);
    let (mut last_answer, mut next) = (Instant::now(), Instant::now());
    let mut until = None;
    let mut buffer = [0; DATAGRAM];
    loop {
        let now = Instant::now();
        if until.is_none() && stop.load(Ordering::Relaxed) {
            until = Some(now + LATE);
        }
        if until.is_none() && now >= next {
            let mut request = [0; DATAGRAM];
            request[..8].copy_from_slice(&(answers.len() as u64).to_be_bytes());
            // An error is about the path at the moment, or about an earlier request: either way a loss.
            let _ = client.send(&request);
            answers.push(0);
            missing += 1;
            next += interval;
        }
        if until.is_some_and(|until| missing == 0 || now >= until) {
            break;
        }
        let wait = if until.is_some() { LOOK } else { next.saturating_duration_since(now).min(LOOK) };
        // A socket's own time limit is rounded up to the kernel's ticks: where nothing comes, requests would be
        // fewer, and with them the losses.
        let mut ready = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
        if ppoll(&mut ready, Some(TimeSpec::from_duration(wait)), None).unwrap_or(0) == 0 {
            continue;
        }
        let Ok(DATAGRAM) = client.recv(&mut buffer) else { continue };
        let number = buffer.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let answer = usize::try_from(number).ok().and_then(|number| answers.get_mut(number));
        let answer =
            answer.with_context(|| format!("an answer to request {number}, which was never sent"))?;
        // Number 0 was asked more than once.
        match (number, *answer) {
            (0, _) => continue,
            (_, 0) => missing -= 1,
            _ => doubled += 1,
        }
        *answer = answer.saturating_add(1);
        answered.fetch_add(1, Ordering::Relaxed);
        gap = gap.max(last_answer.elapsed());
        last_answer = Instant::now();
    }
    Ok(Probed { sent: answers.len() - 1, lost: missing, doubled, gap })
}

/// One TCP connection on which bytes flow without a pause.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<(u64, Duration)>>,
}

/// What became of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streamed {
    /// Bytes that arrived, all of them right.
    pub bytes: u64,
    /// Longest time without any.
    pub stall: Duration,
}

/// Time without progress after which the stream has failed.
const STALLED: Duration = Duration::from_secs(10);

impl Stream {
    /// Connects `from` to the address `address` of `to` and sends until it is stopped.
    pub fn start(from: &Place, to: &Place, address: impl Into<IpAddr>) -> Result<Self> {
        let address = address.into();
        let listener = to.enter(|| Ok(TcpListener::bind((address, 0))?))?;
        let at: SocketAddr = listener.local_addr()?;
        let sender = from.enter(|| Ok(TcpStream::connect_timeout(&at, STALLED)?))?;
        let (receiver, _) = listener.accept()?;
        sender.set_write_timeout(Some(STALLED))?;
        receiver.set_read_timeout(Some(STALLED))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let sender = std::thread::spawn(move || send(sender, &ended));
        let receiver = std::thread::spawn(move || receive(receiver));
        Ok(Self { stop, sender, receiver })
    }

    /// Ends it; an error if the connection broke or a byte was wrong.
    pub fn stop(self) -> Result<Streamed> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let received = self.receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (sent, (bytes, stall)) = (sent.context("while sending")?, received.context("while receiving")?);
        ensure!(sent == bytes, "{bytes} of {sent} bytes came");
        Ok(Streamed { bytes, stall })
    }
}

/// A probe one way and a stream the other way between two containers, while something happens.
#[derive(Debug)]
pub struct Load {
    probe: Probe,
    stream: Stream,
}

/// What an event cost the traffic that ran meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Of the datagrams.
    pub probe: Probed,
    /// Of the stream.
    pub stream: Streamed,
}

/// Time between two datagrams of a load: many in the shortest outage that is told apart, few enough to leave a
/// small machine room for the stream.
const PACE: Duration = Duration::from_millis(2);

impl Load {
    /// Starts both between `[from, to]`; returns when traffic flows.
    pub fn start(between: [(&Place, IpAddr); 2]) -> Result<Self> {
        let [(one, address1), (two, address2)] = between;
        let probe = Probe::start(one, two, address2, PACE)?;
        let stream = Stream::start(two, one, address1)?;
        probe.wait_for(100)?;
        Ok(Self { probe, stream })
    }

    /// Waits until `answers` more datagrams have been answered.
    pub fn wait_for(&self, answers: usize) -> Result<()> {
        self.probe.wait_for(answers)
    }

    /// Ends both once traffic has flowed for a while after what happened; an error if the stream broke.
    pub fn stop(self) -> Result<Cost> {
        let flowed = self.probe.wait_for(100);
        // The stream has ended before the probe waits for late answers, of which it would make some.
        let stream = self.stream.stop();
        let probe = self.probe.stop();
        flowed.and(Ok(Cost { probe: probe?, stream: stream? }))
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Probed { sent, lost, doubled, gap } = self.probe;
        let (megabytes, stall) = (self.stream.bytes >> 20, self.stream.stall);
        write!(f, "{lost} of {sent} datagrams lost, {doubled} doubled, longest gap {gap:.0?}; ")?;
        write!(f, "{megabytes} MiB of TCP, longest stall {stall:.0?}")
    }
}

/// A block whose bytes depend on its number.
fn block(number: u64) -> [u8; BLOCK] {
    std::array::from_fn(|index| (index as u64 % 251 + number) as u8)
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> Result<u64> {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&block(number)).with_context(|| format!("block {number}"))?;
        number += 1;
    }
    Ok(number * BLOCK as u64)
}

fn receive(mut stream: TcpStream) -> Result<(u64, Duration)> {
    let (mut number, mut stall) = (0, Duration::ZERO);
    let mut buffer = [0; BLOCK];
    loop {
        let mut filled = 0;
        while filled < BLOCK {
            let begun = Instant::now();
            match stream.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok((number * BLOCK as u64, stall)),
                Ok(0) => bail!("the stream ends inside block {number}"),
                Ok(length) => filled += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("block {number}")),
            }
            stall = stall.max(begun.elapsed());
        }
        ensure!(buffer == block(number), "block {number} is wrong");
        number += 1;
    }
}
