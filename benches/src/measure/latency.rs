//! `latency`: round trips of a UDP request between the containers, as histograms.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use crate::echo::{self, Echo, LOST};
use crate::figure::{Sample, Unit};
use crate::frame::ADDRESS2;
use crate::generator::Pace;
use crate::rig::{Rig, Traffic};
use crate::session::{Session, Settings};

/// Time between two requests of the sparse kind.
const SPARSE: Duration = Duration::from_millis(1);
/// Bytes of a request: its frame is one of 64 bytes, the frame check sequence included.
const REQUEST: usize = 18;
/// Share of a no-drop rate that goes on beside the requests under load.
pub(crate) const HALF: f64 = 0.5;

/// How requests are sent, and what else crosses meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The next as soon as the last was answered.
    BackToBack,
    /// One a millisecond: whoever waits for them sleeps in between.
    Sparse,
    /// Back to back, beside frames at half the subject's own no-drop rate.
    HalfLoad,
    /// Back to back, beside frames at the same rate for every subject.
    EqualLoad,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [Self::BackToBack, Self::Sparse, Self::HalfLoad, Self::EqualLoad];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BackToBack => "none, back to back",
            Self::Sparse => "none, one a millisecond",
            Self::HalfLoad => "half of its own no-drop rate",
            Self::EqualLoad => "the same for all",
        }
    }
}

/// What goes on beside the requests under load.
pub(crate) fn load(settings: &Settings) -> Traffic {
    Traffic { frame: 64, flows: 1, destinations: 1, generator: settings.generators[0] }
}

pub(crate) fn length(settings: &Settings) -> Duration {
    settings.trial * 3
}

pub(super) fn run(session: &mut Session, index: usize, way: Way) -> Result<Vec<Sample>> {
    let (length, traffic) = (length(&session.settings), load(&session.settings));
    let rate = match way {
        Way::BackToBack | Way::Sparse => None,
        Way::HalfLoad => Some(session.no_drop_rate(index, traffic)? * HALF),
        Way::EqualLoad => Some(session.lowest_no_drop_rate(traffic)? * HALF),
    };
    // Other subjects may have been searched for the rate.
    session.wake(index)?;
    let mut rig = rate.map(|_| session.rig(index, traffic)).transpose()?;
    let [c1, c2] = &session.subjects[index].containers;
    let echo = Echo::start(c2, ADDRESS2.into())?;
    let client = echo::client(c1, echo.address())?;
    samples(&client, way, length, rig.as_mut().zip(rate))
}

/// Sends requests to an echo for `length`, beside frames at a rate where there is one.
pub(crate) fn samples(
    client: &UdpSocket,
    way: Way,
    length: Duration,
    load: Option<(&mut Rig, f64)>,
) -> Result<Vec<Sample>> {
    let pause = if way == Way::Sparse { SPARSE } else { Duration::ZERO };
    let Some((rig, rate)) = load else {
        return ask(client, pause, length)?.samples();
    };
    let (found, trial) = std::thread::scope(|scope| {
        // A little longer than the requests, so that none of them is alone.
        let beside = scope.spawn(|| rig.trial(Pace::Rate(rate), length + LOST));
        let found = ask(client, pause, length);
        let trial = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (found, trial)
    });
    let (mut samples, trial) = (found?.samples()?, trial?);
    samples.push(Sample::context("load", Unit::FramesPerSecond, trial.sent_rate()));
    samples.push(Sample::new("load lost", Unit::Share, trial.loss()));
    Ok(samples)
}

/// How long answers took.
pub(super) struct Times(Histogram<u64>);

impl Times {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(100, 10_000_000_000, 3)?))
    }

    pub(super) fn note(&mut self, time: Duration) {
        self.0.saturating_record(time.as_nanos() as u64);
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len()
    }

    pub(super) fn samples(&self) -> Result<Vec<Sample>> {
        ensure!(!self.0.is_empty(), "no request was answered");
        let at = |(metric, quantile)| {
            Sample::new(metric, Unit::Nanoseconds, self.0.value_at_quantile(quantile) as f64)
        };
        Ok([("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)].map(at).to_vec())
    }
}

/// Round trips, and requests without an answer.
struct RoundTrips {
    times: Times,
    lost: u64,
}

impl RoundTrips {
    fn samples(&self) -> Result<Vec<Sample>> {
        let mut samples = self.times.samples()?;
        samples.push(Sample::new("requests lost", Unit::Frames, self.lost as f64));
        Ok(samples)
    }
}

fn ask(client: &UdpSocket, pause: Duration, length: Duration) -> Result<RoundTrips> {
    let mut found = RoundTrips { times: Times::new()?, lost: 0 };
    let (mut request, mut buffer) = ([0; REQUEST], [0; 2048]);
    nix::sys::prctl::set_timerslack(1)?;
    let (start, mut number) = (Instant::now(), 0_u64);
    while start.elapsed() < length && !vxdp_lab::interrupted() {
        number += 1;
        request[..8].copy_from_slice(&number.to_ne_bytes());
        let sent = Instant::now();
        client.send(&request).context("while sending a request")?;
        loop {
            match client.recv(&mut buffer) {
                // A late answer to a request that was given up.
                Ok(length) if buffer[..length] != request => {}
                Ok(_) => {
                    found.times.note(sent.elapsed());
                    break;
                }
                Err(_) => {
                    found.lost += 1;
                    break;
                }
            }
        }
        std::thread::sleep(pause.saturating_sub(sent.elapsed()));
    }
    Ok(found)
}
