//! Ping between places, and what it found.

use std::io::Read;
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use crate::command;
use crate::place::Place;

/// Pings to one address.
#[derive(Debug, Clone)]
pub struct Ping {
    target: IpAddr,
    count: u32,
    interval: Duration,
    payload: u32,
    tos: u8,
    dont_fragment: Option<&'static str>,
}

/// The summary that `ping` prints.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pinged {
    /// Echo requests sent.
    pub sent: u32,
    /// Echo replies received.
    pub received: u32,
    /// Round trip times in milliseconds; absent when nothing was received.
    #[serde(rename = "rtt_ms")]
    pub rtt: Option<RoundTrip>,
}

/// Round trip times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RoundTrip {
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub avg: f64,
    /// The longest.
    pub max: f64,
}

impl Ping {
    /// Three echo requests of 56 bytes, as `ping` sends them.
    pub fn new(target: impl Into<IpAddr>) -> Self {
        let interval = Duration::from_millis(200);
        Self { target: target.into(), count: 3, interval, payload: 56, tos: 0, dont_fragment: None }
    }

    /// Number of requests.
    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// Time between two requests. It is also how long `ping` waits for the last answer once others have come
    /// (iputils heeds `-W` only while there was none), so a short one takes a busy machine for a loss.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Bytes after the ICMP header.
    pub fn payload(mut self, bytes: u32) -> Self {
        self.payload = bytes;
        self
    }

    /// Type of service: DSCP in the upper six bits, ECN in the lower two.
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Sets the don't-fragment bit and refuses what does not fit the device.
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = Some("do");
        self
    }

    /// Sets the don't-fragment bit and sends all the same, whatever the device or the path allow.
    pub fn ignore_path_mtu(mut self) -> Self {
        self.dont_fragment = Some("probe");
        self
    }

    /// Runs it to its end. Losses are in the result, not an error.
    pub fn run(&self, from: &Place) -> Result<Pinged> {
        let timeout = self.interval * self.count + Duration::from_secs(10);
        let outcome = from.run(self.words(), timeout)?;
        Pinged::parse(&outcome.stdout)
            .with_context(|| format!("{}\n{}{}", outcome.command, outcome.stdout, outcome.stderr))
    }

    /// Sends the requests one by one and wants an answer to each.
    ///
    /// One `ping` for all would take late answers for lost ones: once it has seen an answer it heeds `-W` no
    /// longer and waits two round trips for the last one, which a busy machine exceeds.
    pub fn expect_all(&self, from: &Place) -> Result<()> {
        let one = self.clone().count(1);
        for number in 1..=self.count {
            if one.run(from)?.received != 1 {
                bail!("{} pings {}: no answer to request {number}", from.label(), self.target);
            }
        }
        Ok(())
    }

    /// Starts it in the background, without an end.
    pub fn start(&self, from: &Place) -> Result<RunningPing> {
        let mut words = self.words();
        words.retain(|word| !word.starts_with("-c"));
        // Quiet: nobody reads the pipe until the end, and it must not fill up.
        words.insert(1, "-q".to_owned());
        let child = from.command(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        Ok(RunningPing { child })
    }

    fn words(&self) -> Vec<String> {
        let mut words = vec![
            "ping".to_owned(),
            "-n".to_owned(),
            format!("-c{}", self.count),
            format!("-i{}", self.interval.as_secs_f64()),
            "-W2".to_owned(),
            format!("-s{}", self.payload),
            format!("-Q{}", self.tos),
        ];
        words.extend(self.dont_fragment.map(|how| format!("-M{how}")));
        words.push(self.target.to_string());
        words
    }
}

/// A ping in the background.
#[derive(Debug)]
pub struct RunningPing {
    child: Child,
}

impl RunningPing {
    /// Ends it and gives its summary.
    pub fn stop(mut self) -> Result<Pinged> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        let mut text = String::new();
        if command::wait_bounded(&mut self.child, Duration::from_secs(5))?.is_none() {
            bail!("ping does not end");
        }
        self.child.stdout.take().context("ping has no output")?.read_to_string(&mut text)?;
        Pinged::parse(&text).with_context(|| text.clone())
    }
}

impl Drop for RunningPing {
    fn drop(&mut self) {
        // Already gone after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pinged {
    /// Reads the last lines of `ping`.
    fn parse(text: &str) -> Result<Self> {
        let counts = text.lines().find(|line| line.contains("packets transmitted")).context("no summary")?;
        let number = |what: &str| -> Result<u32> {
            let part = counts.split(", ").find(|part| part.contains(what)).context("no summary")?;
            Ok(part.split(' ').next().unwrap_or_default().parse()?)
        };
        let rtt = text.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
        let rtt = rtt.map(RoundTrip::parse).transpose()?;
        Ok(Self { sent: number("transmitted")?, received: number("received")?, rtt })
    }
}

impl RoundTrip {
    fn parse(text: &str) -> Result<Self> {
        let times = text.split('/').map(str::parse).take(3).collect::<Result<Vec<f64>, _>>()?;
        let [min, avg, max] = times[..] else { bail!("no round trip times in `{text}`") };
        Ok(Self { min, avg, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_ping_is_read() {
        let text = "64 bytes from 10.0.0.3: icmp_seq=1 ttl=64 time=0.5 ms\n\n--- 10.0.0.3 ping statistics ---\n\
                    4 packets transmitted, 3 received, +1 errors, 25% packet loss, time 3030ms\n\
                    rtt min/avg/max/mdev = 0.389/0.567/0.879/0.193 ms\n";
        let rtt = Some(RoundTrip { min: 0.389, avg: 0.567, max: 0.879 });
        assert_eq!(Pinged::parse(text).unwrap(), Pinged { sent: 4, received: 3, rtt });
    }

    #[test]
    fn a_ping_without_answers_has_no_times() {
        let text = "3 packets transmitted, 0 received, 100% packet loss, time 2041ms\n";
        assert_eq!(Pinged::parse(text).unwrap(), Pinged { sent: 3, received: 0, rtt: None });
    }
}
