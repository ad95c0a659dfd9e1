//! A packet socket on one device, for one way: what the kernel's path carries there.

use std::borrow::Cow;
use std::io;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pcap::{Active, BreakLoop, Capture, Direction, Precision};
use socket2::{SockFilter, SockRef};
use vxdp_dataplane::worker::Way;

use super::{Frame, hand_on};
use crate::capture::pcapng::{Interface, Record};
use crate::netns::Netns;

/// How often a frame tells how many were lost before it: to ask takes a system call.
const TELL: Duration = Duration::from_millis(100);

/// Where to listen, and what to make of it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) netns: Netns,
    pub(super) device: String,
    /// Which way frames pass the device that is listened on.
    pub(super) direction: Direction,
    /// Which way that is for vxdp: the other one at a container's end.
    pub(super) way: Way,
    /// The device that frames are shown under.
    pub(super) interface: Interface,
    pub(super) comment: String,
    pub(super) filter: Option<String>,
}

/// A packet socket and the thread that reads it.
pub(super) struct Tap {
    /// Wakes the thread: in immediate mode libpcap waits for a packet however long that takes.
    end: BreakLoop,
    thread: JoinHandle<u64>,
}

impl Tap {
    /// Listens at `place`.
    pub(super) fn open(place: Place, snap_length: u32, frames: SyncSender<Frame>) -> anyhow::Result<Self> {
        let mut socket = open(&place, snap_length)
            .with_context(|| format!("cannot listen on {} in {}", place.device, place.netns.label()))?;
        let end = socket.breakloop_handle();
        let body = move || read(socket, &place, &frames);
        let thread = std::thread::Builder::new().name("tap".to_owned()).spawn(body)?;
        Ok(Self { end, thread })
    }

    /// Whether it has ended by itself: its device is gone.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Tells it to end, which it does when its last frame is taken.
    pub(super) fn end(&self) {
        self.end.breakloop();
    }

    /// Ends it; returns how many frames found no room in the socket's ring, without those that its frames have told.
    pub(super) fn close(self) -> u64 {
        self.end();
        self.thread.join().unwrap_or_default()
    }
}

fn open(place: &Place, snap_length: u32) -> anyhow::Result<Capture<Active>> {
    // The socket belongs for life to the namespace in which it was opened.
    let opened = place.netns.run(|| {
        let device = Capture::from_device(place.device.as_str()).map_err(io::Error::other)?;
        let snap_length = i32::try_from(snap_length).unwrap_or(i32::MAX);
        // Promiscuous mode would change the device, and show frames that are not for this host.
        let device = device.snaplen(snap_length).promisc(false).immediate_mode(true);
        device.precision(Precision::Nano).open().map_err(io::Error::other)
    });
    let mut socket = opened?;
    socket.direction(place.direction)?;
    if let Some(filter) = &place.filter {
        socket.filter(filter, true)?;
    }
    let refined = refine(&socket, place.direction, place.filter.as_deref())?;
    SockRef::from(&socket).attach_filter(&refined)?;
    Ok(socket)
}

/// The filter with the direction in it, for the kernel: libpcap judges that when it has the frame already, and
/// frames of the other direction would take room in the ring and count as lost.
///
/// Not for libpcap itself, which runs a new filter over the first frames once more, without what only the kernel
/// knows of them, and would throw them away.
fn refine(
    socket: &Capture<Active>,
    direction: Direction,
    filter: Option<&str>,
) -> anyhow::Result<Vec<SockFilter>> {
    let way = if direction == Direction::In { "inbound" } else { "outbound" };
    let text = filter.map_or_else(|| way.to_owned(), |filter| format!("({filter}) and {way}"));
    let program = socket.compile(&text, true)?;
    program.get_instructions().iter().map(|instruction| of_text(&instruction.to_string())).collect()
}

/// An instruction as the `pcap` crate writes it, code, jumps and operand; it gives them in no other way.
fn of_text(instruction: &str) -> anyhow::Result<SockFilter> {
    let mut numbers = instruction.split(' ');
    let mut next = || numbers.next().with_context(|| format!("`{instruction}` is no instruction"));
    let (code, jt, jf, k) = (next()?.parse()?, next()?.parse()?, next()?.parse()?, next()?.parse()?);
    Ok(SockFilter::new(code, jt, jf, k))
}

/// How many frames a socket has lost, as its frames tell it.
struct Losses {
    told: u32,
    looked: Instant,
}

impl Losses {
    /// How many more than were told there are; nothing is looked at within `often` of the last time.
    fn more(&mut self, socket: &mut Capture<Active>, often: Duration) -> u64 {
        if self.looked.elapsed() < often {
            return 0;
        }
        self.looked = Instant::now();
        let dropped = socket.stats().map_or(self.told, |stats| stats.dropped);
        let more = dropped.wrapping_sub(self.told);
        self.told = dropped;
        more.into()
    }
}

fn read(mut socket: Capture<Active>, place: &Place, frames: &SyncSender<Frame>) -> u64 {
    let mut losses = Losses { told: 0, looked: Instant::now() };
    loop {
        let mut frame = match socket.next_packet() {
            Ok(packet) => Record {
                // With `Precision::Nano` the field holds nanoseconds.
                at: Duration::new(packet.header.ts.tv_sec as u64, packet.header.ts.tv_usec as u32),
                len: packet.header.len,
                bytes: Cow::Owned(packet.data.to_vec()),
                way: place.way,
                comment: Cow::Owned(place.comment.clone()),
                lost: 0,
            },
            Err(pcap::Error::TimeoutExpired) => continue,
            Err(_) => break,
        };
        frame.lost = losses.more(&mut socket, TELL);
        if !hand_on(frames, &place.interface, frame) {
            break;
        }
    }
    losses.more(&mut socket, Duration::ZERO)
}
