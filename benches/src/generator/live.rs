//! Frames from nowhere: the kernel runs an XDP program over a template and redirects the result into a device.
//!
//! One `BPF_PROG_TEST_RUN` sends everything of a run and the program itself keeps the pace, dropping what is
//! not due: each such call waits for an RCU grace period before its first frame and again after its last one,
//! because the program enters the kernel's XDP dispatcher and leaves it (`bpf_dispatcher_change_prog`, by its
//! stack on Linux 6.18), 20 ms and more each time. Bursts of one call each would come to nothing, and a run's time
//! begins with the program's first run, not with the call.
//! The price is a processor that never idles meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::maps::xdp::DevMap;
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, TestRun};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use vxdp_ebpf::bench::{self, PERIOD, map, program};
use vxdp_lab::Place;

use super::{Generator, Pace, Sent, pace};

/// Frames that the kernel makes before it flushes them to the device: NAPI's budget, and the kernel's own
/// default. More would overflow the peer's ring of 256 before its NAPI runs.
const BATCH: u32 = 64;

/// Less than a run of the program takes that sends nothing. A call that ends early is followed by another,
/// after its grace period; one that ends late has dropped frames for a while.
const DROP: Duration = Duration::from_nanos(60);

/// Sends live frames (Linux 5.18). The peer of the device must poll (`gro on`, or an XDP program there).
pub(super) struct Live {
    object: Ebpf,
    state: Array<MapData, u64>,
    frame: Vec<u8>,
}

impl Live {
    /// Loads the program and aims it at `device`.
    pub(super) fn open(place: &Place, device: &str, frame: &[u8], flows: u32) -> Result<Self> {
        let mut object = Ebpf::load(bench::OBJECT).context("while loading the generator")?;
        let xdp: &mut Xdp = object.program_mut(program::GENERATE).context("no program")?.try_into()?;
        xdp.load().context("while loading the generator")?;
        let mut devices = DevMap::try_from(object.take_map(map::DEVICE).context("no DEVMAP")?)?;
        // The map keeps the device, which it looks up in the namespace of the thread that writes it.
        place.enter(|| Ok(devices.set(0, if_nametoindex(device)?, None, 0)?))?;
        let mut state = Array::try_from(object.take_map(map::GENERATOR).context("no map")?)?;
        state.set(bench::Generator::FlowMask as u32, u64::from(flows - 1), 0)?;
        Ok(Self { object, state, frame: frame.to_owned() })
    }

    fn set(&mut self, entry: bench::Generator, value: u64) -> Result<()> {
        Ok(self.state.set(entry as u32, value, 0)?)
    }

    fn sent(&self) -> Result<u64> {
        Ok(self.state.get(&(bench::Generator::Sent as u32), 0)?)
    }

    fn prepare(&mut self, pace: Pace, duration: Duration) -> Result<()> {
        let rate = match pace {
            Pace::Flat => 0.0,
            Pace::Rate(rate) => rate,
        };
        let frames_in = |time: Duration| (rate * time.as_secs_f64()).max(1.0) as u64;
        self.set(bench::Generator::Start, 0)?;
        self.set(bench::Generator::End, duration.as_nanos() as u64)?;
        self.set(bench::Generator::Rate, (rate * PERIOD as f64 / 1e9) as u64)?;
        self.set(bench::Generator::Burst, frames_in(pace::INTERVAL))?;
        self.set(bench::Generator::Debt, frames_in(pace::DEBT))?;
        self.set(bench::Generator::Done, 0)?;
        self.set(bench::Generator::Credit, 0)
    }

    fn test_run(&self, repeat: u32) -> Result<()> {
        let xdp: &Xdp = self.object.program(program::GENERATE).context("no program")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        match xdp.test_run(options) {
            Ok(_) => Ok(()),
            Err(ProgramError::SyscallError(error)) => {
                match error.io_error.raw_os_error().map(Errno::from_raw) {
                    // A signal that is others' to see.
                    Some(Errno::EINTR) => Ok(()),
                    Some(Errno::EINVAL) => bail!("this kernel has no XDP live frames: use another generator"),
                    _ => Err(error).context("while sending live frames"),
                }
            }
            Err(error) => Err(error).context("while sending live frames"),
        }
    }
}

impl Generator for Live {
    fn run(&mut self, pace: Pace, duration: Duration) -> Result<Sent> {
        let before = self.sent()?;
        self.prepare(pace, duration)?;
        let mut left = duration;
        while !left.is_zero() && !vxdp_lab::interrupted() {
            let repeat = left.as_nanos() / DROP.as_nanos() + u128::from(BATCH);
            self.test_run(u32::try_from(repeat).unwrap_or(u32::MAX))?;
            let end = Duration::from_nanos(self.state.get(&(bench::Generator::End as u32), 0)?);
            left = end.saturating_sub(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into());
        }
        Ok(Sent { frames: self.sent()? - before, elapsed: duration })
    }
}
