//! `scale`: what tables of many rows, and many overlays, cost a frame.
//!
//! Each case gets hosts of its own. Frames go to every row in turn: one that is always asked for the same row
//! finds it in the processor's cache, whatever the table's size. The rows name containers on host 2, behind the
//! one that is there; host 1 has them behind the tunnel.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use vxdp_lab::{Host, wait_until};

use super::throughput;
use crate::figure::{Sample, Unit};
use crate::frame;
use crate::rig::{Rig, Traffic};
use crate::session::{Session, Settings};
use crate::subject::Subject;

/// Until so many rows must be in the kernel, and until a fast path must have them. The kernel's dump of a table
/// takes time that grows with the square of its size.
fn patience(rows: u32) -> Duration {
    Duration::from_secs(120) * (1 + rows / (1 << 17))
}

/// How much of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many containers behind the tunnel, in one overlay; a power of two.
    Rows(u32),
    /// So many overlays, of which one has traffic.
    Vnis(u32),
}

impl Size {
    pub(super) fn conditions(self) -> [(&'static str, u32); 2] {
        match self {
            Self::Rows(rows) => [("rows", rows), ("vnis", 1)],
            Self::Vnis(vnis) => [("rows", 1), ("vnis", vnis)],
        }
    }
}

pub(super) fn sizes(settings: &Settings) -> Vec<Size> {
    let rows = settings.rows.iter().copied().map(Size::Rows);
    // One overlay with one row is there already.
    rows.chain(settings.vnis.iter().copied().filter(|vnis| *vnis > 1).map(Size::Vnis)).collect()
}

/// About how long one case takes, most of it for building hosts.
pub(super) fn length(settings: &Settings) -> Duration {
    settings.trial * 12 + Duration::from_secs(5)
}

pub(super) fn run(session: &mut Session, index: usize, size: Size) -> Result<Vec<Sample>> {
    let (kind, settings) = (session.subjects[index].kind, &session.settings);
    let (destinations, vnis) = match size {
        Size::Rows(rows) => (rows, 1),
        Size::Vnis(vnis) => (1, vnis),
    };
    let subject = kind.build(session.dataplane(), vnis).context("while building hosts for it")?;
    let start = Instant::now();
    fill(&subject, destinations)?;
    let filled = start.elapsed();
    let traffic = Traffic { frame: 64, flows: 1, destinations, generator: settings.generators[0] };
    let before = subject.carried()?;
    let (rate, overload) = {
        let mut rig = Rig::open(&subject, traffic)?;
        settings.search_with(&mut rig)?
    };
    let stray = match before {
        Some(before) => subject.stray(&before)?,
        None => None,
    };
    let note = stray.or_else(|| throughput::remark(&overload, settings));
    let mut samples = vec![
        Sample { note: note.clone(), ..Sample::new("no-drop rate", Unit::FramesPerSecond, rate) },
        Sample {
            note,
            ..Sample::new("delivered under overload", Unit::FramesPerSecond, overload.received_rate())
        },
    ];
    if destinations > 1 {
        let filled = filled.as_nanos() as f64;
        samples.push(Sample::context("until every row was in use", Unit::Nanoseconds, filled));
    }
    Ok(samples)
}

/// Gives both hosts a row for each destination and waits until the path knows them; one is there already.
fn fill(subject: &Subject, destinations: u32) -> Result<()> {
    if destinations == 1 {
        return Ok(());
    }
    let (h1, h2) = (subject.h1(), subject.h2());
    let (mut behind_tunnel, mut behind_port) = (String::new(), String::new());
    for number in 0..destinations {
        let mac = frame::destination(number).map(|byte| format!("{byte:02x}")).join(":");
        // Writing into a string cannot fail.
        let _ = writeln!(behind_tunnel, "fdb add {mac} dev vxlan1 master static");
        let _ = writeln!(behind_tunnel, "fdb add {mac} dev vxlan1 self dst {}", h2.ipv4());
        let _ = writeln!(behind_port, "fdb add {mac} dev veth2 master static");
    }
    let wanted = u64::from(destinations);
    let before = [known(h1, "remotes")?, known(h2, "locals")?];
    for (host, rows) in [(h1, behind_tunnel), (h2, behind_port)] {
        let file = host.dir().join(format!("{}-rows", host.name()));
        std::fs::write(&file, rows)?;
        let file = file.to_str().context("the lab's directory is not UTF-8")?;
        host.netns("overlay").run(["bridge", "-batch", file], patience(destinations))?.success()?;
    }
    if !subject.kind.mode().is_some_and(vxdp_lab::Mode::is_fast) {
        return Ok(());
    }
    // Asking takes processor time from those that are waited for.
    let pause = Duration::from_micros(wanted);
    for ((host, what), before) in [(h1, "remotes"), (h2, "locals")].into_iter().zip(before) {
        wait_until(&format!("{} has {wanted} more {what}", host.name()), patience(destinations), || {
            let all = known(host, what)? >= before + wanted;
            thread::sleep(if all { Duration::ZERO } else { pause });
            Ok(all)
        })?;
    }
    Ok(())
}

/// The fast path's rows of `host`; 0 where there is none.
fn known(host: &Host, what: &str) -> Result<u64> {
    Ok(host.status()?["modes"]["engine"][what].as_u64().unwrap_or(0))
}
