//! Workers over ports in memory: what they do to rings, without a kernel.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::command::Detached;
use super::sockets::Sockets;
use super::*;
use crate::port::mem::{Behaviour, GENERIC, MemKernel, MemPort, MemUmem, socket};
use crate::port::{Kick, SocketSlot};
use crate::{DropReason, Ingress, Nanos, PortId, Slot, Verdict};

mod running;
mod taps;

const PORT: PortId = PortId::new(0);

/// Sends everything across: from the underlay to the port that the first byte names, from ports out.
/// Bytes 1 to 9 are a sequence number; a zero length, an absurd one and a drop can be asked for.
#[derive(Default)]
struct Across {
    drops: Arc<Mutex<HashMap<DropReason, u64>>>,
}

impl Across {
    fn drops(&self) -> u64 {
        self.drops.lock().expect("no panic").values().sum()
    }
}

impl Forward for Across {
    fn process(&mut self, _now: Nanos, batch: &mut [Slot<'_>]) {
        for slot in batch {
            let len = slot.data.len();
            slot.verdict = match (slot.ingress, slot.data.first()) {
                (_, Some(254)) => {
                    *self.drops.lock().expect("no panic").entry(DropReason::NotSpecified).or_default() += 1;
                    Verdict::Drop(DropReason::NotSpecified)
                }
                (_, Some(253)) => Verdict::ToUnderlay { len: len + 1 },
                (_, Some(252)) => Verdict::ToUnderlay { len: 0 },
                (Ingress::Underlay, Some(&port)) => Verdict::ToPort { port: PortId::new(port.into()), len },
                _ => Verdict::ToUnderlay { len },
            };
        }
    }

    fn dropped(&mut self, reason: DropReason, frames: u64) {
        *self.drops.lock().expect("no panic").entry(reason).or_default() += frames;
    }
}

fn small() -> RingSizes {
    RingSizes { fill: 64, completion: 64, rx: 64, tx: 64 }
}

struct Bench {
    sockets: Sockets<MemPort>,
    across: Across,
    underlay: MemKernel,
}

impl Bench {
    fn new(frames: u32, behaviour: Behaviour) -> Self {
        let (port, underlay) = socket(small(), behaviour);
        let sockets = Sockets::new(MemUmem::new(frames, 128), port, small()).expect("enough frames");
        Self { sockets, across: Across::default(), underlay }
    }

    fn attach(&mut self, id: PortId, behaviour: Behaviour) -> (MemKernel, Arc<SocketStats>) {
        let (port, kernel) = socket(small(), behaviour);
        let Ok(stats) = self.sockets.attach(id, port) else { panic!("room for {id:?}") };
        (kernel, stats)
    }

    fn turn(&mut self) -> turn::Turn {
        self.sockets.turn(Nanos(1), &mut self.across)
    }

    fn audit(&self) -> FrameCensus {
        self.sockets.audit().expect("every frame is in one place")
    }

    fn detach(&mut self, id: PortId) -> Reclaimed {
        let slot = self.sockets.stop_sending(id).expect("attached");
        let port = self.sockets.detach(slot).expect("seated");
        let closed = Detached { slot, port }.close();
        self.sockets.reclaim(closed)
    }
}

fn packet(first: u8, number: u64) -> Vec<u8> {
    [&[first][..], &number.to_be_bytes(), &[0; 8]].concat()
}

#[test]
fn fill_rings_are_primed_when_a_socket_is_seated() {
    let mut bench = Bench::new(1024, GENERIC);
    let (kernel, _) = bench.attach(PORT, GENERIC);
    assert_eq!((bench.underlay.held(), kernel.held()), (64, 64));
    assert_eq!(bench.audit(), FrameCensus { free: 896, rx: 128, ..FrameCensus::default() });
}

#[test]
fn frames_cross_in_order_and_come_home() {
    let mut bench = Bench::new(1024, GENERIC);
    let (kernel, stats) = bench.attach(PORT, GENERIC);
    for number in 0..60 {
        assert!(bench.underlay.deliver(&packet(0, number)));
        assert!(kernel.deliver(&packet(9, number)));
    }
    assert_eq!(bench.turn().received, 120);
    assert_eq!(kernel.take_sent(), (0..60).map(|n| packet(0, n)).collect::<Vec<_>>());
    assert_eq!(bench.underlay.take_sent(), (0..60).map(|n| packet(9, n)).collect::<Vec<_>>());
    bench.turn();
    assert_eq!(bench.audit(), FrameCensus { free: 896, rx: 128, ..FrameCensus::default() });
    assert_eq!((stats.rx_frames.get(), stats.tx_frames.get(), stats.tx_completed.get()), (60, 60, 60));
}

#[test]
fn the_kernel_is_kicked_until_it_has_taken_every_descriptor() {
    let mut bench = Bench::new(1024, GENERIC);
    let (kernel, stats) = bench.attach(PORT, Behaviour { budget: 7, completes_at_once: true });
    for number in 0..60 {
        assert!(bench.underlay.deliver(&packet(0, number)));
    }
    assert_eq!(bench.turn().waiting, 0);
    assert_eq!(kernel.take_sent().len(), 60);
    assert_eq!((kernel.kicks(), stats.kicks_in_vain.get()), (9, 0));
}

#[test]
fn a_device_that_takes_nothing_is_kicked_once_per_turn_and_later_again() {
    let mut bench = Bench::new(1024, GENERIC);
    let (kernel, stats) = bench.attach(PORT, GENERIC);
    kernel.set_down(Some(Kick::Down));
    assert!(bench.underlay.deliver(&packet(0, 1)));
    assert_eq!(bench.turn().waiting, 1);
    assert_eq!(bench.turn().waiting, 1);
    assert_eq!((kernel.kicks(), stats.kicks_in_vain.get()), (2, 2));
    kernel.set_down(None);
    assert_eq!(bench.turn().waiting, 0);
    assert_eq!(kernel.take_sent(), [packet(0, 1)]);
}

#[test]
fn reception_stops_when_nothing_can_leave_and_goes_on_when_it_can() {
    let mut bench = Bench::new(1024, GENERIC);
    let (kernel, stats) = bench.attach(PORT, GENERIC);
    bench.underlay.set_down(Some(Kick::Again));
    let (mut delivered, mut held_back) = (0_u64, false);
    for _ in 0..10 {
        while kernel.deliver(&packet(9, delivered)) {
            delivered += 1;
        }
        held_back = bench.turn().held_back;
    }
    assert!(held_back, "they wait, and must not wake the worker in vain");
    assert_eq!(bench.underlay.tx_waiting(), 64, "as many as the ring holds");
    assert_eq!(delivered, 128, "the rest was refused by the kernel, before anything was done for it");
    assert!(stats.rx_held_back.get() > 0);
    assert_eq!(bench.across.drops(), 0);
    bench.underlay.set_down(None);
    for _ in 0..10 {
        bench.turn();
    }
    assert_eq!(bench.underlay.take_sent(), (0..128).map(|n| packet(9, n)).collect::<Vec<_>>());
    bench.audit();
}

#[test]
fn a_port_that_does_not_drain_does_not_hold_up_another() {
    let mut bench = Bench::new(1024, GENERIC);
    let (stuck, stuck_stats) = bench.attach(PORT, GENERIC);
    let (healthy, _) = bench.attach(PortId::new(1), GENERIC);
    stuck.set_down(Some(Kick::Again));
    for number in 0..500 {
        assert!(bench.underlay.deliver(&packet(0, number)));
        assert!(bench.underlay.deliver(&packet(1, number)));
        bench.turn();
    }
    assert_eq!(healthy.take_sent().len(), 500);
    assert_eq!(stuck.tx_waiting(), 64);
    assert_eq!(bench.across.drops.lock().expect("no panic")[&DropReason::FullRing], 436);
    assert_eq!(stuck_stats.tx_full.get(), 436);
    bench.audit();
}

#[test]
fn late_completions_hold_back_reception_instead_of_losing_frames() {
    let mut bench = Bench::new(1024, Behaviour { budget: 32, completes_at_once: false });
    let (kernel, _) = bench.attach(PORT, GENERIC);
    let mut delivered = 0;
    let mut sent = Vec::new();
    for round in 0..1000 {
        if kernel.deliver(&packet(9, delivered)) {
            delivered += 1;
        }
        if round % 100 == 99 {
            bench.underlay.complete(80);
        }
        bench.turn();
        sent.extend(bench.underlay.take_sent());
        assert!(bench.audit().tx <= 64);
    }
    assert!(sent.len() > 500, "{} were sent", sent.len());
    assert_eq!(sent, (0..sent.len() as u64).map(|n| packet(9, n)).collect::<Vec<_>>());
}

#[test]
fn unsound_verdicts_and_absent_ports_are_counted_drops() {
    let mut bench = Bench::new(1024, GENERIC);
    for first in [252, 253, 254, 77] {
        assert!(bench.underlay.deliver(&packet(first, 0)));
    }
    bench.turn();
    let drops = bench.across.drops.lock().expect("no panic").clone();
    assert_eq!(drops, HashMap::from([(DropReason::NotSpecified, 3), (DropReason::DevReady, 1)]));
    bench.turn();
    assert_eq!(bench.audit().free, 1024 - 64);
}

#[test]
fn a_port_removed_in_mid_flight_gives_every_frame_back() {
    let mut bench = Bench::new(512, GENERIC);
    for round in 0..50 {
        let (kernel, _) = bench.attach(PORT, Behaviour { budget: 5, completes_at_once: false });
        for number in 0..64 {
            bench.underlay.deliver(&packet(0, number));
            kernel.deliver(&packet(9, number));
        }
        kernel.set_down((round % 2 == 0).then_some(Kick::Down));
        bench.turn();
        bench.turn();
        for number in 0..64 {
            kernel.deliver(&packet(9, number));
        }
        let held = kernel.held();
        assert!(held > 100, "frames are everywhere: {held}");
        let reclaimed = bench.detach(PORT);
        assert_eq!(reclaimed, Reclaimed { recovered: held, written_off: 0 });
        bench.turn();
        bench.underlay.take_sent();
        bench.turn();
        assert_eq!(bench.audit(), FrameCensus { free: 448, rx: 64, ..FrameCensus::default() });
    }
}

#[test]
fn a_port_is_refused_twice_and_when_frames_do_not_suffice() {
    let mut bench = Bench::new(512, GENERIC);
    bench.attach(PORT, GENERIC);
    let refusal = |bench: &mut Bench, id| bench.sockets.attach(id, socket(small(), GENERIC).0).err();
    assert_eq!(refusal(&mut bench, PORT).map(|r| r.error), Some(AttachError::Exists { port: PORT }));
    let full = AttachError::Full { frames: 512, ports: 2 };
    assert_eq!(refusal(&mut bench, PortId::new(1)).map(|r| r.error), Some(full));
    assert_eq!(SocketSlot::new(SocketSlot::LIMIT), None);
}

/// A small generator of numbers, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn no_frame_is_lost_or_doubled_in_a_million_random_events() {
    let mut dice = Dice(42);
    let mut bench = Bench::new(2048, GENERIC);
    let mut ports: Vec<Option<MemKernel>> = vec![None; 4];
    let (mut delivered, mut sent, mut lost_with_ports) = (0_u64, 0_u64, 0_u64);
    for event in 0..1_000_000_u64 {
        let which = dice.roll(4) as usize;
        let device = if dice.roll(2) == 0 { Some(&bench.underlay) } else { ports[which].as_ref() };
        match (dice.roll(1000), device) {
            (0..=699, Some(kernel)) => {
                let first = match dice.roll(50) {
                    0 => 252 + dice.roll(3) as u8,
                    _ => dice.roll(5) as u8,
                };
                delivered += u64::from(kernel.deliver(&packet(first, event)));
            }
            (700..=799, Some(kernel)) => drop(kernel.complete(dice.roll(70) as usize)),
            (800..=819, Some(kernel)) => kernel
                .behave(Behaviour { budget: dice.roll(40) as usize, completes_at_once: dice.roll(2) == 0 }),
            (820..=829, Some(kernel)) => {
                let answers = [None, None, Some(Kick::Down), Some(Kick::Again), Some(Kick::Refused)];
                kernel.set_down(answers[dice.roll(5) as usize]);
            }
            (830..=831, _) => match ports[which].take() {
                None => ports[which] = Some(bench.attach(PortId::new(which as u16), GENERIC).0),
                Some(kernel) => {
                    let waiting = (kernel.tx_waiting() + kernel.rx_waiting()) as u64;
                    sent += kernel.take_sent().len() as u64;
                    lost_with_ports += waiting;
                    bench.detach(PortId::new(which as u16));
                }
            },
            (832..=999, _) => drop(bench.turn()),
            _ => {}
        }
        if event % 1000 == 0 {
            let census = bench.audit();
            let held: usize = ports.iter().flatten().map(MemKernel::held).sum();
            assert_eq!(census.rx + census.tx, held + bench.underlay.held(), "event {event}");
            assert_eq!((census.violations, census.written_off), (0, 0));
        }
    }
    for kernel in ports.iter().flatten().chain([&bench.underlay]) {
        kernel.set_down(None);
        kernel.behave(GENERIC);
    }
    for _ in 0..100 {
        bench.turn();
        for kernel in ports.iter().flatten().chain([&bench.underlay]) {
            kernel.complete(64);
        }
    }
    sent += ports.iter().flatten().chain([&bench.underlay]).map(|k| k.take_sent().len() as u64).sum::<u64>();
    assert!(sent > 100_000 && lost_with_ports > 0, "{sent} sent, {lost_with_ports} lost with their port");
    assert_eq!(delivered, sent + bench.across.drops() + lost_with_ports);
    assert_eq!(bench.audit().tx, 0);
}
