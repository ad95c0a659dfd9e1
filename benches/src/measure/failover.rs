//! `failover`: what switching, stopping, hanging and dying cost, under a steady stream of numbered datagrams.
//!
//! Each event happens on host 1 only, to a path that carries at first. `nothing` is measured like the others:
//! it shows which gaps are the machine's own.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use vxdp_lab::{Mode, Probe};

use crate::figure::{Sample, Unit};
use crate::frame::ADDRESS2;
use crate::session::Session;
use crate::subject::{Kind, Subject};

/// Time between two datagrams, each of which is answered.
const PACE: Duration = Duration::from_millis(1);
/// Datagrams that are answered before the event, and after it.
const AROUND: usize = 300;
/// Answers for which a process is stopped where the in-kernel engine carries: it goes on by itself for five
/// seconds, and what comes then is what counts.
const BEYOND_LEASE: usize = 6000;
/// Frames that show that the fast path carries.
const FLIES: u64 = 50;

/// About how long one event takes, with all around it.
pub(super) const LENGTH: Duration = Duration::from_millis(2500);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing at all.
    Nothing,
    /// `vxdp mode kernel`.
    ToKernel,
    /// `vxdp mode xdp`, with the subject's engine.
    ToFast,
    /// SIGTERM to the daemon.
    Terminate,
    /// A daemon starts on an overlay that stands.
    Start,
    /// `vxdp run --takeover`.
    TakeOver,
    /// SIGSTOP.
    Stop,
    /// SIGCONT to a daemon that was stopped.
    Continue,
    /// SIGKILL.
    Kill,
    /// The underlay's link goes down and comes up.
    LinkDown,
}

impl Event {
    pub(super) const ALL: [Self; 10] = [
        Self::Nothing,
        Self::ToKernel,
        Self::ToFast,
        Self::Terminate,
        Self::Start,
        Self::TakeOver,
        Self::Stop,
        Self::Continue,
        Self::Kill,
        Self::LinkDown,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::ToKernel => "vxdp mode kernel",
            Self::ToFast => "vxdp mode xdp",
            Self::Terminate => "SIGTERM",
            Self::Start => "start",
            Self::TakeOver => "run --takeover",
            Self::Stop => "SIGSTOP",
            Self::Continue => "SIGCONT",
            Self::Kill => "SIGKILL",
            Self::LinkDown => "underlay down for 200 ms",
        }
    }

    /// Whether it can happen to a subject of this kind.
    pub(super) fn happens_to(self, kind: Kind) -> bool {
        match self {
            Self::ToKernel | Self::ToFast => kind.mode().is_some_and(Mode::is_fast),
            _ => kind.mode().is_some(),
        }
    }

    /// Whether the kernel carries when it begins, in any mode.
    fn begins_in_kernel(self) -> bool {
        matches!(self, Self::ToFast | Self::Start | Self::Continue)
    }

    /// Brings the subject to where it begins.
    fn prepare(self, subject: &mut Subject) -> Result<()> {
        match self {
            Self::ToFast => subject.switch(Mode::Kernel),
            Self::Start => subject.stop_daemon(),
            Self::Continue => subject.signal_daemon(Signal::SIGSTOP),
            _ => Ok(()),
        }
    }

    /// Lets it happen, until `probe` has been answered for long enough afterwards.
    fn happen(self, subject: &mut Subject, mode: Mode, probe: &Probe) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::ToKernel => subject.switch(Mode::Kernel)?,
            Self::ToFast => subject.switch(mode)?,
            Self::Terminate => subject.stop_daemon()?,
            Self::Start => subject.start_daemon()?,
            Self::TakeOver => subject.take_over_daemon()?,
            Self::Stop => subject.signal_daemon(Signal::SIGSTOP)?,
            Self::Continue => subject.signal_daemon(Signal::SIGCONT)?,
            Self::Kill => subject.kill_daemon()?,
            Self::LinkDown => {
                subject.h1().script("ip link set eth0 down; sleep 0.2; ip link set eth0 up")?;
            }
        }
        if mode.is_fast() && matches!(self, Self::ToFast | Self::Start | Self::TakeOver) {
            subject.h1().wait_for_userspace(FLIES)?;
        }
        let beyond = self == Self::Stop && mode == Mode::InKernel;
        probe.wait_for(if beyond { BEYOND_LEASE } else { AROUND })
    }

    /// Brings the subject back to what it was.
    fn repair(self, subject: &mut Subject, mode: Mode) -> Result<()> {
        match self {
            Self::ToKernel => subject.switch(mode),
            Self::Terminate | Self::Kill => subject.start_daemon(),
            Self::Stop => subject.signal_daemon(Signal::SIGCONT),
            _ => Ok(()),
        }
    }
}

pub(super) fn run(session: &mut Session, index: usize, event: Event) -> Result<Vec<Sample>> {
    let subject = &mut session.subjects[index];
    let mode = subject.kind.mode().context("only modes of vxdp fail over")?;
    event.prepare(subject)?;
    let [c1, c2] = subject.containers.clone();
    let probe = Probe::start(&c1, &c2, ADDRESS2, PACE)?;
    if mode.is_fast() && !event.begins_in_kernel() {
        subject.h1().wait_for_userspace(FLIES)?;
    }
    probe.wait_for(AROUND)?;
    let happened = event.happen(subject, mode, &probe);
    let probed = probe.stop()?;
    happened?;
    event.repair(subject, mode)?;
    subject.wait_until_it_carries()?;
    let note = (probed.doubled > 0).then(|| format!("{} answers came twice", probed.doubled));
    Ok(vec![
        Sample { note, ..Sample::new("datagrams lost", Unit::Frames, probed.lost as f64) },
        Sample::new("longest gap", Unit::Nanoseconds, probed.gap.as_nanos() as f64),
        Sample::context("datagrams sent", Unit::Frames, probed.sent as f64),
    ])
}
