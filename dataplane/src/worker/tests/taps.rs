//! Watchers: they see every frame of interest, and a slow one costs nobody anything.

use crossbeam::channel::{self, Receiver};

use super::*;
use crate::Family;

fn tap(room: usize, interfaces: Interfaces) -> (Tap, Receiver<Seen>) {
    let (seen, frames) = channel::bounded(room);
    let tap = Tap {
        queue: 3,
        family: Family::V4,
        interfaces,
        ways: vec![Way::Enters, Way::Leaves],
        at_ports: None,
        at_underlay: None,
        snap: 12,
        seen,
        lost: Arc::default(),
    };
    (tap, frames)
}

fn everywhere() -> Interfaces {
    Interfaces { underlay: Some(0), ports: vec![Some(1)] }
}

/// A port's frame, with the room that the XDP program makes for the outer headers.
fn from_port(first: u8) -> Vec<u8> {
    let mut frame = vec![0; Family::V4.encap_room()];
    frame.extend(packet(7, 7));
    frame[0] = first;
    frame
}

#[test]
fn a_watcher_sees_frames_enter_and_leave_in_their_form_there() {
    let mut bench = Bench::new(1024, GENERIC);
    let (kernel, _) = bench.attach(PORT, GENERIC);
    let (tap, frames) = tap(10, everywhere());
    bench.sockets.taps = tap::Taps::new(vec![tap]);
    assert!(kernel.deliver(&from_port(9)));
    bench.turn();
    let seen: Vec<Seen> = frames.try_iter().collect();
    let places: Vec<_> = seen.iter().map(|seen| (seen.interface, seen.way, seen.len)).collect();
    assert_eq!(places, [(1, Way::Enters, 17), (0, Way::Leaves, 67)]);
    assert_eq!(&*seen[0].bytes, &packet(7, 7)[..12]);
    assert_eq!((seen[1].bytes[0], seen[1].queue, seen[1].dropped), (9, 3, None));
}

#[test]
fn a_watcher_learns_why_a_frame_goes_no_further() {
    let mut bench = Bench::new(1024, GENERIC);
    let (kernel, _) = bench.attach(PORT, GENERIC);
    let (tap, frames) = tap(1000, everywhere());
    bench.sockets.taps = tap::Taps::new(vec![tap]);
    assert!(bench.underlay.deliver(&packet(254, 1)));
    bench.turn();
    assert_eq!(
        frames.try_iter().map(|seen| seen.dropped).collect::<Vec<_>>(),
        [Some(DropReason::NotSpecified)]
    );
    // Nobody takes what is sent: the ring fills.
    kernel.set_down(Some(Kick::Down));
    for number in 0..160 {
        bench.underlay.deliver(&packet(0, number));
        bench.turn();
    }
    let seen: Vec<Seen> = frames.try_iter().collect();
    let left = seen.iter().filter(|seen| seen.way == Way::Leaves && seen.dropped.is_none()).count();
    let lost = seen.iter().filter(|seen| seen.dropped == Some(DropReason::FullRing)).count();
    assert_eq!((left, lost as u64), (64, bench.across.drops() - 1));
}

#[test]
fn a_watcher_gets_what_its_filters_and_devices_say() {
    let mut bench = Bench::new(1024, GENERIC);
    let (kernel, _) = bench.attach(PORT, GENERIC);
    let (mut one, ports) = tap(10, Interfaces { underlay: None, ports: vec![Some(1)] });
    one.at_ports = Some(Box::new(|frame| frame[0] == 0));
    let (mut other, underlay) = tap(10, everywhere());
    other.at_underlay = Some(Box::new(|frame| frame[0] == 9));
    other.ways = vec![Way::Leaves];
    bench.sockets.taps = tap::Taps::new(vec![one, other]);
    assert!(kernel.deliver(&from_port(9)));
    assert!(kernel.deliver(&from_port(8)));
    assert!(bench.underlay.deliver(&packet(0, 5)));
    bench.turn();
    let places = |frames: &Receiver<Seen>| -> Vec<(u32, u8)> {
        frames.try_iter().map(|seen| (seen.interface, seen.bytes[0])).collect()
    };
    assert_eq!(places(&ports), [(1, 0)]);
    let mut both = places(&underlay);
    both.sort_unstable();
    assert_eq!(both, [(0, 9), (1, 0)]);
}

#[test]
fn a_watcher_who_is_slow_loses_copies_and_no_traffic() {
    let mut bench = Bench::new(1024, GENERIC);
    let (kernel, _) = bench.attach(PORT, GENERIC);
    let (tap, frames) = tap(5, everywhere());
    let lost = Arc::clone(&tap.lost);
    bench.sockets.taps = tap::Taps::new(vec![tap]);
    for number in 0..60 {
        assert!(bench.underlay.deliver(&packet(0, number)));
    }
    bench.turn();
    assert_eq!(kernel.take_sent().len(), 60);
    assert_eq!((frames.len(), lost.load(Ordering::Relaxed)), (5, 115));
}
