//! The daemon's side of a capture: taps in the workers, and one thread that writes what they see to the client.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use nix::sys::socket::{MsgFlags, recv};
use nix::time::{ClockId, clock_gettime};
use pcap::BpfProgram;
use vxdp_dataplane::worker::{Filter, Interfaces, Seen, Tap, Way};
use vxdp_dataplane::{Family, PortId};

use super::pcapng::{Blocks, Interface, Record};
use super::{BadFilter, Direction, Wanted, compile};

/// Copies that may wait for a client.
///
/// At a million frames per second this is 8 ms of them. Fewer lose frames whenever the client is not on a
/// processor; each may hold a whole frame, so more cost memory (8192 of 1500 bytes are 12 MB).
const WAITING: usize = 8192;

/// How often a session without frames looks whether its client is still there.
const LOOK: Duration = Duration::from_millis(200);

/// Bytes after which blocks are written without waiting for an idle moment.
const CHUNK: usize = 64 << 10;

/// A port of the userspace engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TappedPort {
    /// Its number.
    pub id: PortId,
    /// Its device.
    pub device: String,
    /// Its overlay.
    pub vni: u32,
}

/// One client's capture, as long as the client is there; engines come and go meanwhile.
#[derive(Debug)]
pub struct Capture {
    wanted: Wanted,
    seen: Sender<Seen>,
    lost: Arc<AtomicU64>,
    /// All that were seen so far, by number.
    interfaces: Mutex<Vec<Interface>>,
}

/// What a worker's queue belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Devices<'a> {
    /// The underlay's device.
    pub underlay: &'a str,
    /// Its address family.
    pub family: Family,
    /// The ports.
    pub ports: &'a [TappedPort],
}

impl Capture {
    /// A capture of what is wanted, and where its frames arrive.
    ///
    /// # Errors
    /// When its filter cannot be used.
    pub fn new(wanted: Wanted) -> Result<(Arc<Self>, Receiver<Seen>), BadFilter> {
        wanted.check()?;
        let (seen, frames) = channel::bounded(WAITING);
        let (lost, interfaces) = Default::default();
        Ok((Arc::new(Self { wanted, seen, lost, interfaces }), frames))
    }

    /// The tap for one worker; `None` where nothing is of interest.
    pub fn tap(&self, queue: u32, devices: Devices<'_>) -> Option<Tap> {
        let Devices { underlay, family, ports } = devices;
        let mut interfaces = Interfaces::default();
        if self.wanted.includes(underlay, None) {
            interfaces.underlay = Some(self.number(underlay, "underlay".to_owned()));
        }
        for TappedPort { id, device, vni } in ports {
            if self.wanted.includes(device, Some(*vni)) {
                interfaces.ports.resize(interfaces.ports.len().max(id.index() + 1), None);
                interfaces.ports[id.index()] = Some(self.number(device, format!("port in overlay {vni}")));
            }
        }
        if interfaces == Interfaces::default() {
            return None;
        }
        let ways = match self.wanted.direction {
            Direction::Both => vec![Way::Enters, Way::Leaves],
            Direction::Enters => vec![Way::Enters],
            Direction::Leaves => vec![Way::Leaves],
        };
        Some(Tap {
            queue,
            family,
            interfaces,
            ways,
            at_ports: self.wanted.at_ports().map(|text| filter(&text)),
            at_underlay: self.wanted.at_underlay().map(|text| filter(&text)),
            snap: self.wanted.snap_length as usize,
            seen: self.seen.clone(),
            lost: Arc::clone(&self.lost),
        })
    }

    fn number(&self, device: &str, description: String) -> u32 {
        let interface = Interface { device: device.to_owned(), description };
        let mut interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        let known = interfaces.iter().position(|known| *known == interface);
        let number = known.unwrap_or_else(|| {
            interfaces.push(interface);
            interfaces.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Writes frames to the client until it hangs up. A client that does not read keeps only this waiting.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn serve(&self, mut client: UnixStream, frames: &Receiver<Seen>) -> io::Result<()> {
        let mut blocks = Blocks::new().map_err(io::Error::other)?;
        let (mut described, mut lost) = (0, 0);
        loop {
            let seen = match frames.try_recv() {
                Ok(seen) => Some(seen),
                // What is there is shown before waiting for more.
                Err(_) => {
                    flush(&mut client, &mut blocks)?;
                    match frames.recv_timeout(LOOK) {
                        Ok(seen) => Some(seen),
                        Err(RecvTimeoutError::Timeout) if is_there(&client) => None,
                        Err(_) => return Ok(()),
                    }
                }
            };
            let Some(seen) = seen else { continue };
            self.describe(&mut blocks, &mut described)?;
            let lost_now = self.lost.load(Ordering::Relaxed);
            let record = record_of(&seen, lost_now - lost);
            lost = lost_now;
            blocks.frame(seen.interface, &record).map_err(io::Error::other)?;
            if blocks.bytes().len() >= CHUNK {
                flush(&mut client, &mut blocks)?;
            }
        }
    }

    /// Tells the client of interfaces that it does not know yet.
    fn describe(&self, blocks: &mut Blocks, described: &mut usize) -> io::Result<()> {
        let interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        for interface in &interfaces[*described..] {
            blocks.interface(interface, self.wanted.snap_length).map_err(io::Error::other)?;
        }
        *described = interfaces.len();
        Ok(())
    }
}

/// A frame that a filter cannot judge would be missing without a word, so then all are shown. Filters were
/// compiled once before, so it does not happen.
fn filter(text: &str) -> Filter {
    let program: Option<BpfProgram> = compile(text).ok();
    Box::new(move |frame| program.as_ref().is_none_or(|program| program.filter(frame)))
}

fn record_of(seen: &Seen, lost: u64) -> Record<'_> {
    // Both clocks now, since either may have been set meanwhile.
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    let age = monotonic.saturating_sub(Duration::from_nanos(seen.at.0));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut comment = format!("path userspace, queue {}", seen.queue);
    if let Some(reason) = seen.dropped {
        comment += &format!(", dropped: {}", reason.name());
    }
    Record {
        at: now.saturating_sub(age),
        len: u32::try_from(seen.len).unwrap_or(u32::MAX),
        bytes: Cow::Borrowed(&seen.bytes),
        way: seen.way,
        comment: Cow::Owned(comment),
        lost,
    }
}

fn flush(client: &mut UnixStream, blocks: &mut Blocks) -> io::Result<()> {
    client.write_all(blocks.bytes())?;
    blocks.written();
    Ok(())
}

/// A client that has hung up has an end to read.
fn is_there(client: &UnixStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(client.as_raw_fd(), &mut [0], flags) != Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn wanted(devices: &[&str]) -> Wanted {
        let devices = devices.iter().map(|name| (*name).to_owned()).collect();
        Wanted { devices, vni: None, direction: Direction::Leaves, filter: None, snap_length: 64 }
    }

    fn ports() -> Vec<TappedPort> {
        let port = |id, device: &str, vni| TappedPort { id: PortId::new(id), device: device.to_owned(), vni };
        vec![port(0, "veth2", 42), port(5, "veth7", 43)]
    }

    #[test]
    fn a_tap_covers_the_wanted_devices_under_lasting_numbers() {
        let (capture, _frames) = Capture::new(wanted(&["veth7", "eth0"])).expect("no filter");
        let ports = ports();
        let devices = Devices { underlay: "eth0", family: Family::V4, ports: &ports };
        let tap = capture.tap(1, devices).expect("two devices");
        assert_eq!(tap.interfaces.underlay, Some(0));
        assert_eq!(tap.interfaces.ports, [None, None, None, None, None, Some(1)]);
        let again = capture.tap(1, Devices { ports: &ports[1..], ..devices }).expect("two devices");
        assert_eq!(again.interfaces, tap.interfaces);
        let (other, _frames) = Capture::new(wanted(&["eth9"])).expect("no filter");
        assert!(other.tap(0, devices).is_none());
    }

    #[test]
    fn a_client_that_hangs_up_ends_its_session_and_one_that_does_not_read_loses_frames() {
        let (capture, frames) = Capture::new(wanted(&[])).expect("no filter");
        let ports = ports();
        let tap = capture.tap(0, Devices { underlay: "eth0", family: Family::V4, ports: &ports });
        let tap = tap.expect("every device");
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let serving = Arc::clone(&capture);
        let session = std::thread::spawn(move || serving.serve(ours, &frames));
        let seen = |number: u32| Seen {
            at: vxdp_dataplane::Nanos(1),
            interface: number % 3,
            way: Way::Leaves,
            queue: 0,
            dropped: None,
            len: 64,
            bytes: vec![0; 64].into(),
        };
        // More than a socket and the queue hold, so that some find no room; nobody waits.
        let refused = (0..3 * WAITING as u32).filter(|number| tap.seen.try_send(seen(*number)).is_err());
        assert!(refused.count() > 0);
        let mut some = [0; 1000];
        theirs.read_exact(&mut some).expect("blocks");
        assert_eq!(&some[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
        drop(theirs);
        // An error or not: it depends on whether it was writing.
        let _ = session.join().expect("no panic");
    }
}
