//! Frames from the kernel's own packet generator (`pktgen`, Documentation/networking/pktgen.rst): skbs that a
//! kernel thread hands to the driver directly, past queueing disciplines and packet sockets.
//!
//! Each network namespace has its own `/proc/net/pktgen`, and a generator thread for each processor. Files of
//! other namespaces are reached through the calling thread's (`thread-self`; `/proc/net` is the first thread's),
//! and `pgctrl` works on the namespace of whoever writes.
//!
//! A veth keeps what it is given (it lacks `IFF_TX_SKB_SHARING`), so `clone_skb` and `burst` are refused there, and
//! every frame is an skb of its own, as a container's are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use vxdp_ebpf::bench::{FIRST_SOURCE_PORT, MEASURING_PORT};
use vxdp_lab::Place;

use super::{Generator, Pace, Sent};
use crate::frame::{ADDRESS1, ADDRESS2, MAC2, destination};
use crate::rig::last_processor;

/// pktgen writes a header of its own (`struct pktgen_hdr`) behind Ethernet, IPv4 and UDP, and makes shorter frames
/// longer.
const SHORTEST: usize = 14 + 20 + 8 + 16;

/// More frames per second than a thread can send into a veth: bounds a run at full speed that nobody stops.
const FASTEST: f64 = 50e6;
/// The kernel reads ten digits of a number.
const MOST: f64 = 9_999_999_999.0;

/// The kernel's thread looks for work ten times a second; a processor that is emulated takes its time.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often its state is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(1);

/// Sends through one generator thread.
pub(super) struct Pktgen {
    place: Place,
    files: Files,
}

impl Pktgen {
    /// Gives `device` to the thread of the processor on which generators run.
    pub(super) fn open(
        place: &Place,
        device: &str,
        frame: &[u8],
        [flows, destinations]: [u32; 2],
    ) -> Result<Self> {
        let length = frame.len();
        ensure!(length >= SHORTEST, "pktgen makes frames of {SHORTEST} bytes and more, not of {length}");
        let this = Self { place: place.clone(), files: Files::of(device, last_processor()?) };
        this.place.enter(|| {
            // What an earlier run left.
            this.files.give_up()?;
            this.files.write(&this.files.thread, &format!("add_device {device}"))?;
            for line in settings(length, flows, destinations) {
                this.files.write(&this.files.device, &line)?;
            }
            Ok(())
        })?;
        Ok(this)
    }
}

impl Generator for Pktgen {
    fn run(&mut self, pace: Pace, duration: Duration) -> Result<Sent> {
        let files = &self.files;
        let report = self.place.enter(|| {
            for line in schedule(pace, duration) {
                files.write(&files.device, &line)?;
            }
            std::thread::scope(|scope| {
                // Returns when everything has been sent.
                let start = scope.spawn(|| files.write(&files.control, "start"));
                let sent = files.wait_out(duration, || start.is_finished());
                let started = start.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                started.and(sent)
            })
        })?;
        // What the device refuses was offered to the path all the same.
        Ok(Sent { frames: report.frames + report.errors, elapsed: report.elapsed })
    }
}

impl Drop for Pktgen {
    fn drop(&mut self) {
        // With the namespace everything is gone.
        let _ = self.place.enter(|| self.files.give_up());
    }
}

/// The files of one device and its thread, in the namespace of the thread that uses them.
struct Files {
    control: PathBuf,
    thread: PathBuf,
    device: PathBuf,
}

impl Files {
    fn of(device: &str, processor: usize) -> Self {
        let directory = Path::new("/proc/thread-self/net/pktgen");
        Self {
            control: directory.join("pgctrl"),
            thread: directory.join(format!("kpktgend_{processor}")),
            device: directory.join(device),
        }
    }

    /// One command for one write; the kernel takes the last byte for the end of the line.
    fn write(&self, file: &Path, line: &str) -> Result<()> {
        let name = file.file_name().unwrap_or_default().display().to_string();
        let written = fs::write(file, format!("{line}\n"));
        written.with_context(|| format!("pktgen refused `{line}` for {name}"))
    }

    /// Lets the thread send for `duration` from its first frame on, unless all is sent before.
    fn wait_out(&self, duration: Duration, is_over: impl Fn() -> bool) -> Result<Report> {
        let begun = self.wait(PATIENCE, |state| *state != State::Idle);
        if matches!(begun, Ok(State::Running)) {
            // An interrupted wait ends in a stop as well.
            let _ = self.wait(duration, |state| matches!(state, State::Done(_)));
        }
        let begin = Instant::now();
        loop {
            match self.state()? {
                State::Done(report) if is_over() => return begun.map(|_| report),
                State::Done(_) => {}
                // Again and again: a thread that has not begun yet stops first and starts then.
                State::Idle | State::Running => self.write(&self.control, "stop")?,
            }
            ensure!(begin.elapsed() < PATIENCE, "pktgen did not begin, or does not end");
            std::thread::sleep(LOOK * 20);
        }
    }

    /// Waits for a state that `is_it`; the last one seen when `limit` is over.
    fn wait(&self, limit: Duration, is_it: impl Fn(&State) -> bool) -> Result<State> {
        let begin = Instant::now();
        loop {
            let state = self.state()?;
            if is_it(&state) || begin.elapsed() >= limit {
                return Ok(state);
            }
            if vxdp_lab::interrupted() {
                bail!("interrupted");
            }
            std::thread::sleep(LOOK.min(limit.saturating_sub(begin.elapsed())));
        }
    }

    fn state(&self) -> Result<State> {
        state(&fs::read_to_string(&self.device).context("while reading pktgen's state")?)
    }

    /// Stops the thread and takes its devices from it; the kernel has done so when there is no file any more.
    fn give_up(&self) -> Result<()> {
        self.write(&self.thread, "rem_device_all")?;
        let begin = Instant::now();
        while self.device.exists() {
            ensure!(begin.elapsed() < PATIENCE, "pktgen does not let go of its device");
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// What every frame is like.
fn settings(length: usize, flows: u32, destinations: u32) -> Vec<String> {
    let address = |bytes: [u8; 4]| std::net::Ipv4Addr::from(bytes);
    let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    let mut lines = vec![
        format!("pkt_size {length}"),
        format!("src_min {}", address(ADDRESS1)),
        format!("dst {}", address(ADDRESS2)),
        format!("udp_dst_min {MEASURING_PORT}"),
        format!("udp_dst_max {MEASURING_PORT}"),
        format!("udp_src_min {FIRST_SOURCE_PORT}"),
        // The first one that is not used any more.
        format!("udp_src_max {}", u32::from(FIRST_SOURCE_PORT) + flows),
        // A clock that is read for each frame, for nobody.
        "flag NO_TIMESTAMP".to_owned(),
    ];
    if destinations > 1 {
        lines.push(format!("dst_mac {}", mac(destination(0))));
        lines.push(format!("dst_mac_count {destinations}"));
    } else {
        lines.push(format!("dst_mac {}", mac(MAC2)));
    }
    lines
}

/// How much is sent, and how fast.
fn schedule(pace: Pace, duration: Duration) -> [String; 2] {
    let (rate, speed) = match pace {
        Pace::Flat => (FASTEST, "delay 0".to_owned()),
        Pace::Rate(rate) => (rate, format!("ratep {:.0}", rate.clamp(1.0, 1e9))),
    };
    let frames = (rate * duration.as_secs_f64()).round().clamp(1.0, MOST);
    [speed, format!("count {frames:.0}")]
}

/// What a device of pktgen's does.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Was told something, but not to start.
    Idle,
    /// Sends.
    Running,
    /// Has sent.
    Done(Report),
}

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    /// Frames that the device took.
    frames: u64,
    /// Frames that it dropped, and said so.
    errors: u64,
    /// From the start to the last frame.
    elapsed: Duration,
}

/// Reads the state from the end of a device's file (`pktgen_if_show` and `show_results`, net/core/pktgen.c).
fn state(text: &str) -> Result<State> {
    let wrong = || format!("pktgen shows what this program does not know: {text}");
    let (_, result) = text.split_once("\nResult: ").with_context(wrong)?;
    let mut lines = result.lines();
    let first = lines.next().with_context(wrong)?;
    if first == "Starting" {
        return Ok(State::Running);
    }
    if first == "Idle" || first.strip_prefix("OK: ").is_some_and(is_acknowledgement) {
        return Ok(State::Idle);
    }
    let report = first.strip_prefix("OK: ").and_then(|first| {
        // 400012(c390007+d10004) usec, 80000 (64byte,0frags)
        let (times, frames) = first.split_once(" usec, ")?;
        let (microseconds, parts) = times.split_once("(c")?;
        let (_, idle) = parts.strip_suffix(')')?.split_once("+d")?;
        idle.parse::<u64>().ok()?;
        //   199994pps 102Mb/sec (102396928bps) errors: 0
        let (_, errors) = lines.next()?.split_once("bps) errors: ")?;
        Some(Report {
            frames: frames.split_once(" (")?.0.parse().ok()?,
            errors: errors.parse().ok()?,
            elapsed: Duration::from_micros(microseconds.parse().ok()?),
        })
    });
    let report = report.with_context(wrong)?;
    ensure!(
        report.frames + report.errors > 0,
        "pktgen sent nothing: is the device up, and has it a carrier?"
    );
    Ok(State::Done(report))
}

/// Whether the kernel repeats a setting, as in `count=1000`.
fn is_acknowledgement(text: &str) -> bool {
    text.split_once('=').is_some_and(|(name, _)| !name.is_empty() && !name.contains(['(', ' ']))
}

/// Keeps the module in the kernel, if somebody has to.
#[derive(Debug)]
pub(super) struct Module {
    loaded: bool,
}

impl Module {
    /// Loads it, unless it is there.
    pub(super) fn need() -> Result<Self> {
        if is_there() {
            return Ok(Self { loaded: false });
        }
        let reason = match modprobe(["pktgen"]) {
            Ok(()) if is_there() => return Ok(Self { loaded: true }),
            Ok(()) => "it is loaded, but there is no /proc/net/pktgen".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        let release = nix::sys::utsname::uname()?;
        bail!(
            "the generator `pktgen` is a module of the kernel's (CONFIG_NET_PKTGEN), and Linux {} here has none: \
             {reason}\n`--generator packet,live` needs no module, and `cargo xtask vm --bench` measures with \
             pktgen on emulated machines whose kernels have it",
            release.release().display()
        )
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.loaded {
            // Whoever uses it now keeps it.
            let _ = modprobe(["-r", "pktgen"]);
        }
    }
}

fn is_there() -> bool {
    Path::new("/proc/net/pktgen/pgctrl").exists()
}

fn modprobe<const N: usize>(words: [&str; N]) -> Result<()> {
    let run = |program: &OsStr| Command::new(program).args(words).output();
    // An ordinary user's PATH, which sudo may keep, lacks it.
    let output = match run("modprobe".as_ref()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => run("/sbin/modprobe".as_ref()),
        other => other,
    };
    let output = output.context("cannot start modprobe")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as `pktgen_if_show` (net/core/pktgen.c) writes it, shortened, with this `Result:`.
    fn shown(result: &str) -> String {
        format!(
            "Params: count 80000  min_pkt_size: 64  max_pkt_size: 64\n     frags: 0  delay: 5000  clone_skb: 0  \
             ifname: eth1\nCurrent:\n     pkts-sofar: 80000  errors: 0\n     flows: 0\nResult: {result}\n"
        )
    }

    #[test]
    fn a_run_that_has_ended_is_read_with_its_errors_and_its_time() {
        let text = shown(
            "OK: 400012(c390007+d10004) usec, 80000 (64byte,0frags)\n  199994pps 102Mb/sec (102396928bps) errors: 3",
        );
        let report = Report { frames: 80_000, errors: 3, elapsed: Duration::from_micros(400_012) };
        assert_eq!(state(&text).unwrap(), State::Done(report));
    }

    #[test]
    fn a_run_that_has_not_begun_or_ended_is_not_taken_for_one_that_has() {
        assert_eq!(state(&shown("OK: count=80000")).unwrap(), State::Idle);
        assert_eq!(state(&shown("OK: flags=0x2000")).unwrap(), State::Idle);
        assert_eq!(state(&shown("Idle")).unwrap(), State::Idle);
        assert_eq!(state(&shown("Starting")).unwrap(), State::Running);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for result in [
            "Error starting",
            "OK: 1(c1+d0) usec, x (64byte,0frags)\n  1pps 0Mb/sec (1bps) errors: 0",
            "OK: 1(c1+d0) usec, 1 (64byte,0frags)",
            "OK: 1(c1+d0) usec, 1 (64byte,0frags)\n  1pps",
            "",
        ] {
            assert!(state(&shown(result)).is_err(), "{result}");
        }
        assert!(state("").is_err());
        let nothing = "OK: 0(c0+d0) usec, 0 (64byte,0frags)\n  0pps 0Mb/sec (0bps) errors: 0";
        assert!(state(&shown(nothing)).unwrap_err().to_string().contains("sent nothing"));
    }

    #[test]
    fn a_run_is_bounded_at_any_pace() {
        let half = Duration::from_millis(500);
        assert_eq!(schedule(Pace::Rate(200_000.4), half), ["ratep 200000", "count 100000"]);
        assert_eq!(schedule(Pace::Flat, half), ["delay 0", "count 25000000"]);
        assert_eq!(schedule(Pace::Flat, Duration::from_secs(1 << 20))[1], "count 9999999999");
        assert_eq!(schedule(Pace::Rate(0.0), half), ["ratep 1", "count 1"]);
    }

    #[test]
    fn flows_are_source_ports_and_destinations_macs() {
        let lines = settings(64, 64, 1024);
        for line in ["pkt_size 64", "udp_src_min 10000", "udp_src_max 10064", "dst_mac_count 1024"] {
            assert!(lines.iter().any(|other| other == line), "{line} is not in {lines:?}");
        }
        assert!(settings(64, 1, 1).contains(&"dst_mac 02:42:0a:00:00:03".to_owned()));
    }
}
