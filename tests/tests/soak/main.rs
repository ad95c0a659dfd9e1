//! The soak: mixed traffic while everything around it changes, again and again. No frame may be lost where
//! none has to be, memory stays flat, the books balance, and nothing is logged that nobody caused.
//!
//! `cargo xtask test` runs two rounds. `VXDP_SOAK_MINUTES=10 cargo xtask test soak` runs as long as it says
//! and prints a line for each round.

mod books;
mod disturbance;
mod traffic;

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vxdp_lab::{Daemon, Family, Lab, Mode, Place, Segment, deploy, scenario};

use disturbance::{DISTURBANCES, Disturbance};
use traffic::Traffic;

/// The first quarter of the rounds warms up, the last one is compared with it.
const FEWEST_ROUNDS: u32 = 2;

/// How much more resident memory the last round may end with than the largest of the first quarter, in bytes.
///
/// What a round leaves behind for good would be there many times over in the long run; the allocator's
/// own leftovers come to less than this.
const GROWTH: u64 = 6 << 20;

/// Threads for blocking work that the runtime keeps for some seconds after their last use: a dozen are seen,
/// while one left behind by each mode switch would soon be more.
const IDLE_THREADS: usize = 16;

/// The lab, and the daemons that come and go in it.
pub(crate) struct Soak<'a> {
    lab: &'a Lab,
    /// The engine that both hosts have.
    mode: Mode,
    /// Stays for the whole soak: its memory is watched.
    first: Daemon,
    /// Is stopped, killed and started again. `None` in between.
    second: Option<Daemon>,
}

impl<'a> Soak<'a> {
    fn start(lab: &'a Lab, mode: Mode) -> Result<Self> {
        let segment = Segment::scenario().member(1, "c3", "02:42:0a:00:00:04", "10.0.0.4/24");
        let daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &[mode; 2])?;
        let [first, second] = daemons.try_into().ok().context("two daemons")?;
        let soak = Self { lab, mode, first, second: Some(second) };
        let [h1, h2] = [lab.h1(), lab.h2()];
        for place in [h1.netns("overlay"), h2.netns("overlay"), soak.c1(), soak.c2(), h1.netns("c3")] {
            keep_silent(&place)?;
        }
        soak.whole()?;
        Ok(soak)
    }

    fn c1(&self) -> Place {
        self.lab.h1().netns("c1")
    }

    fn c2(&self) -> Place {
        self.lab.h2().netns("c2")
    }

    /// Waits until everything is as it was in the beginning.
    fn whole(&self) -> Result<()> {
        disturbance::reaches(&self.c1(), [10, 0, 0, 3])?;
        disturbance::reaches(&self.c2(), [10, 0, 0, 2])?;
        for host in self.lab.hosts() {
            host.wait_for_fast_path()?;
        }
        Ok(())
    }

    /// One disturbance of each kind under load, then the books.
    fn round(&mut self, number: u32) -> Result<Round> {
        let traffic = Traffic::start(&self.c1(), &self.c2())?;
        let mut losses = Vec::new();
        for disturbance in DISTURBANCES {
            let lost = self.disturb(disturbance, &traffic).context(disturbance.what)?;
            if lost > 0 {
                losses.push(format!("{} lost {lost}", disturbance.what));
            }
        }
        let carried = traffic.stop()?;
        let booked = books::balance(self)?;
        let memory = self.first.memory()?;
        Ok(Round { number, carried, booked, losses, memory, handles: self.handles()? })
    }

    fn disturb(&mut self, disturbance: &Disturbance, traffic: &Traffic) -> Result<u64> {
        let before = traffic.lost()?;
        (disturbance.act)(self)?;
        self.whole()?;
        let lost = traffic.lost()?.saturating_sub(before);
        ensure!(lost <= disturbance.may_lose, "{lost} datagrams lost");
        Ok(lost)
    }

    /// Open descriptors and threads of the daemon that stays.
    fn handles(&self) -> Result<(usize, usize)> {
        let count = |what| -> Result<usize> {
            Ok(fs::read_dir(format!("/proc/{}/{what}", self.first.pid()))?.count())
        };
        Ok((count("fd")?, count("task")?))
    }

    /// Starts the second daemon again.
    fn start_second(&mut self) -> Result<()> {
        let host = self.lab.h2();
        self.second = Some(host.start_vxdp(&host.config_path(), self.mode)?);
        Ok(())
    }

    /// What the daemons logged that nobody caused.
    fn complaints(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for host in self.lab.hosts() {
            let log = fs::read_to_string(host.daemon_log())?;
            let loud = |line: &&str| ["ERROR", "WARN", "panicked"].iter().any(|word| line.contains(word));
            let caused = |line: &&str| disturbance::CAUSED.iter().any(|words| line.contains(words));
            let lines = log.lines().filter(loud).filter(|line| !caused(line));
            found.extend(lines.map(|line| format!("{}: {line}", host.name())));
        }
        Ok(found)
    }
}

/// Frames that nobody sent would have to be explained in the books: router solicitations, group reports.
pub(crate) fn keep_silent(place: &Place) -> Result<()> {
    place
        .script("for on in all default; do echo 1 > /proc/sys/net/ipv6/conf/$on/disable_ipv6; done")
        .map(drop)
}

/// What a round came to.
struct Round {
    number: u32,
    carried: traffic::Carried,
    booked: u64,
    losses: Vec<String>,
    memory: u64,
    handles: (usize, usize),
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, carried, booked, losses, memory, handles: (descriptors, threads) } = self;
        let mebibytes = *memory as f64 / f64::from(1 << 20);
        write!(f, "round {number}: {carried}; {booked} frames booked; ")?;
        write!(f, "{mebibytes:.1} MiB, {descriptors} descriptors, {threads} threads; ")?;
        match losses.as_slice() {
            [] => write!(f, "nothing lost"),
            losses => write!(f, "{}", losses.join(", ")),
        }
    }
}

/// How long the soak is to last, and whether somebody watches.
fn duration() -> Result<Option<Duration>> {
    let Ok(minutes) = std::env::var("VXDP_SOAK_MINUTES") else { return Ok(None) };
    let minutes = minutes.parse::<f64>().with_context(|| format!("VXDP_SOAK_MINUTES={minutes}"))?;
    let duration = Duration::try_from_secs_f64(minutes * 60.0);
    Ok(Some(duration.with_context(|| format!("VXDP_SOAK_MINUTES={minutes}"))?))
}

#[test]
#[ignore = "needs root"]
fn mixed_traffic_outlives_every_disturbance_with_flat_memory_and_balanced_books() {
    outlives_every_disturbance(Mode::Xdp);
}

#[test]
#[ignore = "needs root"]
fn mixed_traffic_in_the_kernel_outlives_every_disturbance_with_flat_memory_and_balanced_books() {
    outlives_every_disturbance(Mode::InKernel);
}

fn outlives_every_disturbance(mode: Mode) {
    scenario("soak", |lab| {
        let asked = duration()?;
        let begun = Instant::now();
        let mut soak = Soak::start(lab, mode)?;
        let mut rounds = Vec::new();
        while rounds.len() < FEWEST_ROUNDS as usize || begun.elapsed() < asked.unwrap_or_default() {
            let round = soak.round(rounds.len() as u32 + 1)?;
            eprintln!("{round}");
            if asked.is_some() {
                // Past the test harness, which would show it at the end only.
                writeln!(
                    std::io::stderr(),
                    "{:>4} s  {}, {round}",
                    begun.elapsed().as_secs(),
                    mode.as_str()
                )?;
            }
            rounds.push(round);
        }
        // The runtime's threads, each with its part of the heap, come with the first rounds.
        let warm_up = rounds.iter().take(rounds.len().div_ceil(4)).max_by_key(|round| round.memory);
        let (Some(early), Some(late)) = (warm_up, rounds.last()) else { return Ok(()) };
        ensure!(late.memory <= early.memory + GROWTH, "memory grows: {early}\n{late}");
        let [early_handles, late_handles] = [early.handles, late.handles];
        ensure!(late_handles.0 <= early_handles.0, "descriptors are left behind: {early}\n{late}");
        ensure!(late_handles.1 <= early_handles.1 + IDLE_THREADS, "threads are left behind: {early}\n{late}");
        let complaints = soak.complaints()?;
        ensure!(complaints.is_empty(), "logged without a cause: {complaints:#?}");
        Ok(())
    });
}
