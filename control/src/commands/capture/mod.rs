//! `vxdp capture`: writes the frames of the fast path and of the kernel's path into one pcapng file.

mod file;
mod pipe;
mod source;
mod tap;

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::file::Output;
use self::source::Sources;
use crate::capture::Wanted;
use crate::capture::pcapng::{Interface, Record};
use crate::cli::CaptureArgs;

/// Frames that may wait for the file. Behind it wait the packet sockets' rings and the daemon's queue, which
/// count what they lose.
const WAITING: usize = 1024;

/// How often the sources are compared with what the daemon has: containers and engines come and go.
const LOOK: Duration = Duration::from_secs(1);

/// How often a quiet capture writes out what it has and looks whether it shall end.
const PAUSE: Duration = Duration::from_millis(100);

/// A frame from one of the sources.
type Frame = (Interface, Record<'static>);

/// What a capture came to.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Frames by interface and path.
    frames: HashMap<String, u64>,
    /// Frames that were lost because the file, or its reader, was slower than the traffic.
    lost: u64,
    /// Those of `frames` that could not be written: at the end the reader of standard output had stalled.
    unwritten: u64,
}

impl Summary {
    fn add(&mut self, (interface, frame): &Frame) {
        self.lost += frame.lost;
        let path = frame.comment.split([',', '(']).next().unwrap_or_default().trim();
        *self.frames.entry(format!("{}, {path}", interface.device)).or_default() += 1;
    }
}

/// What ends a capture, besides a count.
#[derive(Debug, Clone, Default)]
struct Ending {
    /// Set at the first SIGINT or SIGTERM.
    told: Arc<AtomicBool>,
    at: Option<Instant>,
}

impl Ending {
    /// Whether it shall end now.
    fn is_there(&self) -> bool {
        self.told.load(Ordering::Relaxed) || self.at.is_some_and(|at| Instant::now() >= at)
    }
}

/// Captures until told to stop, or until there are as many frames as asked for.
///
/// # Errors
/// When no daemon answers, the filter or a device is wrong, or the file cannot be written.
pub fn capture(args: &CaptureArgs) -> anyhow::Result<()> {
    let to_stdout = args.write.as_os_str() == "-";
    if to_stdout && io::stdout().is_terminal() {
        bail!(
            "a terminal cannot show pcapng; write a file with `--write FILE`, or pipe it: \
             vxdp capture | wireshark -k -i -"
        );
    }
    let wanted = Wanted {
        devices: args.device.clone(),
        vni: args.vni.map(|vni| vni.get()),
        direction: args.direction,
        filter: (!args.filter.is_empty()).then(|| args.filter.join(" ")),
        snap_length: args.snap_length,
    };
    wanted.check()?;
    let told = stop_by_signal()?;
    let (frames, arriving) = mpsc::sync_channel(WAITING);
    let mut sources = Sources::new(args.daemon.socket()?, wanted, frames);
    sources.follow().context("cannot capture")?;
    let ending =
        Ending { told, at: args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)) };
    let size = args.file_size.map(|mib| mib << 20);
    let mut output = Output::create(&args.write, size, args.files, ending.clone())?;
    eprintln!("capturing on {}; Ctrl-C ends it", sources.names().join(", "));
    let written = record(args, &mut sources, &arriving, &mut output, &ending);
    // Whoever still waits to hand over a frame shall end.
    drop(arriving);
    let mut summary = written?;
    summary.lost += sources.stop();
    tell(args, &summary)
}

/// Writes frames as they arrive.
fn record(
    args: &CaptureArgs,
    sources: &mut Sources,
    arriving: &Receiver<Frame>,
    output: &mut Output,
    ending: &Ending,
) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let (mut looked, mut left) = (Instant::now(), args.count.unwrap_or(u64::MAX));
    while left > 0 && !ending.is_there() {
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            // A daemon that restarts is away for a moment.
            let _ = sources.follow();
        }
        match arriving.recv_timeout(PAUSE) {
            Ok(frame) => {
                summary.add(&frame);
                output.frame(&frame.0, args.snap_length, &frame.1)?;
                left -= 1;
            }
            Err(RecvTimeoutError::Timeout) => output.flush()?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if output.is_closed() {
            break;
        }
    }
    output.flush()?;
    summary.unwritten = output.unwritten();
    if summary.unwritten > 0 {
        for waiting in arriving.try_iter().take(WAITING) {
            summary.add(&waiting);
            summary.unwritten += 1;
        }
    }
    Ok(summary)
}

fn tell(args: &CaptureArgs, summary: &Summary) -> anyhow::Result<()> {
    // Standard output may be the capture itself.
    let mut stderr = io::stderr().lock();
    if args.output.json {
        writeln!(stderr, "{}", serde_json::to_string(summary)?)?;
        return Ok(());
    }
    let mut lines: Vec<_> = summary.frames.iter().collect();
    lines.sort();
    for (place, frames) in lines {
        writeln!(stderr, "{frames} frames on {place}")?;
    }
    writeln!(stderr, "{} frames captured, {} lost", summary.frames.values().sum::<u64>(), summary.lost)?;
    if summary.unwritten > 0 {
        let unwritten = summary.unwritten;
        writeln!(stderr, "{unwritten} of them could not be written: whoever reads standard output does not")?;
    }
    Ok(())
}

/// Becomes true at the first SIGINT or SIGTERM.
fn stop_by_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let told = Arc::new(AtomicBool::new(false));
    let telling = Arc::clone(&told);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let body = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        telling.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(body)?;
    Ok(told)
}

/// Hands a frame on; false when the capture is over.
fn hand_on(to: &SyncSender<Frame>, interface: &Interface, frame: Record<'static>) -> bool {
    to.send((interface.clone(), frame)).is_ok()
}
