//! A worker over real AF_XDP sockets on veths in namespaces of their own.

mod veths;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use aya::programs::XdpMode;
use veths::{Netns, Program, Row, veth, wait_until};
use vxdp_dataplane::worker::{
    Forward, FrameCensus, OpenError, PollMode, RingSizes, SocketStats, UmemSpec, Worker, WorkerError,
    WorkerExit, WorkerSpec, ZeroCopy,
};
use vxdp_dataplane::{DropReason, Ingress, Nanos, PortId, Slot, Verdict};

const PORT: PortId = PortId::new(3);
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends everything across, and panics when it is told to.
#[derive(Default, Clone)]
struct Across {
    drops: Arc<AtomicU64>,
    panic: Arc<AtomicU64>,
}

impl Forward for Across {
    fn process(&mut self, _now: Nanos, batch: &mut [Slot<'_>]) {
        assert_eq!(self.panic.load(Ordering::Relaxed), 0, "a bug");
        for slot in batch {
            let len = slot.data.len();
            slot.verdict = match slot.ingress {
                Ingress::Underlay => Verdict::ToPort { port: PORT, len },
                Ingress::Port(_) => Verdict::ToUnderlay { len },
            };
        }
    }

    fn dropped(&mut self, _reason: DropReason, frames: u64) {
        self.drops.fetch_add(frames, Ordering::Relaxed);
    }
}

/// ```text
///   wire ns        host ns          overlay ns       container ns
///   wire0 ─────── nic0 [worker] ─── veth0 ────────── eth0
///   generator            to_socket  to_socket        generator
///   sink                                             sink
/// ```
struct Lab {
    wire: Netns,
    host: Netns,
    overlay: Netns,
    container: Netns,
    wire_sink: Program,
    container_sink: Program,
    nic: Program,
    veth: Program,
    across: Across,
    heartbeat: Arc<AtomicU64>,
    exit: mpsc::Receiver<WorkerExit>,
    worker: Worker,
}

const UMEM: UmemSpec =
    UmemSpec { frames: 8192, frame_size: 2048, rings: RingSizes::DEFAULT, zero_copy: ZeroCopy::Off };

fn spec(across: &Across, poll: PollMode) -> (WorkerSpec<Across>, Arc<AtomicU64>, mpsc::Receiver<WorkerExit>) {
    let heartbeat = Arc::new(AtomicU64::new(0));
    let beats = Arc::clone(&heartbeat);
    let (tell, exit) = mpsc::channel();
    let spec = WorkerSpec {
        name: format!("xsk-{}", std::thread::current().name().unwrap_or("test")),
        cpu: None,
        poll,
        forward: across.clone(),
        heartbeat: Box::new(move |now| beats.store(now.0, Ordering::Relaxed)),
        on_exit: Box::new(move |exit| drop(tell.send(exit.clone()))),
    };
    (spec, heartbeat, exit)
}

impl Lab {
    fn new(poll: PollMode) -> Self {
        Self::with(poll, XdpMode::Driver)
    }

    fn with(poll: PollMode, mode: XdpMode) -> Self {
        let (wire, host, overlay, container) = (Netns::new(), Netns::new(), Netns::new(), Netns::new());
        veth(&host, "nic0", &wire, "wire0");
        veth(&overlay, "veth0", &container, "eth0");
        let wire_sink = Program::attach("sink", &wire, "wire0");
        let container_sink = Program::attach("sink", &container, "eth0");
        let mut nic = Program::attach_as(mode, "to_socket", &host, "nic0");
        let veth = Program::attach_as(mode, "to_socket", &overlay, "veth0");
        let across = Across::default();
        let (spec, heartbeat, exit) = spec(&across, poll);
        let queue = host.queue("nic0", 0);
        let worker = Worker::start(spec, &UMEM, &queue, |socket| nic.install(0, socket)).expect("it starts");
        Self {
            wire,
            host,
            overlay,
            container,
            wire_sink,
            container_sink,
            nic,
            veth,
            across,
            heartbeat,
            exit,
            worker,
        }
    }

    fn attach(&mut self) -> Arc<SocketStats> {
        let veth = &mut self.veth;
        let queue = self.overlay.queue("veth0", 0);
        self.worker.attach(PORT, &queue, |socket| veth.install(0, socket)).expect("the port can be attached")
    }

    /// Where all frames are when no packet is on its way, with this many lent for reception.
    fn at_rest(&self, rx: usize) -> FrameCensus {
        FrameCensus { free: UMEM.frames as usize - rx, rx, ..FrameCensus::default() }
    }

    fn wait_for_rest(&self) {
        wait_until("nothing is in transmission", || self.worker.audit().expect("consistent").tx == 0);
    }
}

/// One direction: what entered is what came out, plus what was counted as lost on the way.
fn account(into: &Program, rx: &SocketStats, tx: &SocketStats, device_drops: u64, out: &Program) {
    let redirected = into.count(Row::Redirected);
    let in_kernel = rx.kernel_rx_dropped.get() + rx.kernel_rx_ring_full.get();
    assert_eq!(redirected, rx.rx_frames.get() + in_kernel, "what the program redirected");
    assert_eq!(rx.rx_frames.get(), tx.tx_frames.get() + tx.tx_full.get(), "what was received");
    assert_eq!(tx.tx_completed.get(), tx.tx_frames.get(), "what was sent is complete");
    assert_eq!(tx.tx_frames.get(), out.count(Row::Sunk) + device_drops, "what was sent arrived");
    assert_eq!((out.count(Row::Doubled), out.count(Row::Strange)), (0, 0));
    assert_eq!(tx.kernel_tx_invalid_descs.get() + rx.kernel_tx_invalid_descs.get(), 0);
}

/// Half a million frames: a fifth as fast as the kernel can, which is more than a worker takes; the rest in
/// portions that the rings can hold.
fn send_half_a_million(generator: &Program, netns: &Netns, len: usize, receiver: &SocketStats) {
    generator.generate(netns, 100_000, len, 64);
    for _ in 0..200 {
        let before = receiver.rx_frames.get();
        generator.generate(netns, 2000, len, 64);
        let deadline = Instant::now() + Duration::from_millis(20);
        while receiver.rx_frames.get() < before + 2000 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_million_frames_between_two_namespaces_are_all_accounted_for() {
    let mut lab = Lab::new(PollMode::Adaptive);
    let port = lab.attach();
    let underlay = Arc::clone(lab.worker.underlay_stats());
    let downwards = Program::generator(&lab.wire, "wire0");
    let upwards = Program::generator(&lab.container, "eth0");
    std::thread::scope(|scope| {
        scope.spawn(|| send_half_a_million(&downwards, &lab.wire, 64, &underlay));
        scope.spawn(|| send_half_a_million(&upwards, &lab.container, 200, &port));
    });
    let mut seen = (0, 0);
    wait_until("all frames came through", || {
        let before = seen;
        seen = (underlay.rx_frames.get(), port.rx_frames.get());
        std::thread::sleep(Duration::from_millis(20));
        seen == before
    });
    lab.wait_for_rest();
    let at_rest = lab.at_rest(2 * 2032);
    let drops = (lab.overlay.tx_dropped("veth0"), lab.host.tx_dropped("nic0"));
    assert_eq!(lab.worker.stop(PATIENCE), WorkerExit::Stopped { census: Some(at_rest) });
    account(&lab.nic, &underlay, &port, drops.0, &lab.container_sink);
    account(&lab.veth, &port, &underlay, drops.1, &lab.wire_sink);
    let received = (underlay.rx_frames.get(), port.rx_frames.get());
    assert!(received.0 > 350_000 && received.1 > 350_000, "most frames get through: {received:?}");
    assert_eq!(lab.across.drops.load(Ordering::Relaxed), port.tx_full.get() + underlay.tx_full.get());
}

#[test]
#[ignore = "needs root"]
fn a_port_comes_and_goes_on_a_running_worker_and_its_queue_can_be_bound_again_at_once() {
    let mut lab = Lab::new(PollMode::Adaptive);
    let downwards = Program::generator(&lab.wire, "wire0");
    for round in 1..=10 {
        let port = lab.attach();
        let before = lab.container_sink.count(Row::Sunk);
        downwards.generate(&lab.wire, 500, 300, 64);
        wait_until("the frames arrive", || lab.container_sink.count(Row::Sunk) == before + 500);
        // In odd rounds while frames are on their way.
        if round % 2 == 1 {
            downwards.generate(&lab.wire, 1000, 300, 64);
        }
        let reclaimed = lab.worker.detach(PORT, PATIENCE).expect("attached");
        assert_eq!((reclaimed.recovered, reclaimed.written_off), (2032, 0));
        assert_eq!(port.tx_frames.get(), port.tx_completed.get());
        downwards.generate(&lab.wire, 10, 300, 10);
    }
    wait_until("all frames are judged", || lab.worker.underlay_stats().rx_frames.get() == 10_100);
    assert_eq!(lab.worker.audit().expect("consistent"), lab.at_rest(2032));
    assert_eq!(lab.container_sink.count(Row::Sunk) + lab.across.drops.load(Ordering::Relaxed), 10_100);
    assert!(matches!(lab.worker.detach(PORT, PATIENCE), Err(WorkerError::NoPort { port: PORT })));
}

#[test]
#[ignore = "needs root"]
fn a_port_taken_out_of_the_map_first_leaves_without_losing_a_frame() {
    let mut lab = Lab::new(PollMode::Adaptive);
    let upwards = Program::generator(&lab.container, "eth0");
    for _ in 0..5 {
        let port = lab.attach();
        let before = lab.wire_sink.count(Row::Sunk);
        upwards.generate(&lab.container, 1500, 100, 64);
        lab.veth.uninstall();
        lab.worker.detach(PORT, PATIENCE).expect("attached");
        assert_eq!(port.kernel_rx_dropped.get() + port.kernel_rx_ring_full.get(), 0);
        wait_until("all are sent", || lab.wire_sink.count(Row::Sunk) == before + port.rx_frames.get());
    }
    let redirected = lab.veth.count(Row::Redirected);
    assert_eq!(
        (redirected + lab.veth.count(Row::Passed), lab.wire_sink.count(Row::Sunk)),
        (7500, redirected)
    );
}

#[test]
#[ignore = "needs root"]
fn a_port_whose_device_is_deleted_gives_its_frames_back_and_the_worker_lives() {
    let mut lab = Lab::new(PollMode::Adaptive);
    let port = lab.attach();
    lab.overlay.ip(&["link", "del", "veth0"]);
    let downwards = Program::generator(&lab.wire, "wire0");
    downwards.generate(&lab.wire, 100, 64, 64);
    wait_until("the worker knows", || port.gone.get() == 1);
    let reclaimed = lab.worker.detach(PORT, Duration::ZERO).expect("attached");
    assert_eq!((reclaimed.recovered, reclaimed.written_off), (2032 + 100, 0));
    veth(&lab.overlay, "veth0", &lab.container, "eth0");
    lab.veth = Program::attach("to_socket", &lab.overlay, "veth0");
    lab.container_sink = Program::attach("sink", &lab.container, "eth0");
    lab.attach();
    downwards.generate(&lab.wire, 100, 64, 64);
    wait_until("the new port carries", || lab.container_sink.count(Row::Sunk) == 100);
    lab.wait_for_rest();
    assert_eq!(lab.worker.audit().expect("consistent"), lab.at_rest(2 * 2032));
}

#[test]
#[ignore = "needs root"]
fn frames_for_a_device_that_is_down_wait_and_are_sent_when_it_is_up() {
    let mut lab = Lab::new(PollMode::Interrupt);
    let port = lab.attach();
    lab.overlay.ip(&["link", "set", "veth0", "down"]);
    Program::generator(&lab.wire, "wire0").generate(&lab.wire, 100, 64, 64);
    wait_until("the worker kicks in vain", || port.kicks_in_vain.get() > 3);
    assert_eq!(lab.container_sink.count(Row::Sunk), 0);
    lab.overlay.ip(&["link", "set", "veth0", "up"]);
    wait_until("all have arrived", || lab.container_sink.count(Row::Sunk) == 100);
    lab.wait_for_rest();
    assert_eq!(lab.across.drops.load(Ordering::Relaxed), 0);
}

#[test]
#[ignore = "needs root"]
fn a_panicking_worker_leaves_no_socket_behind_and_another_can_take_its_place() {
    let mut lab = Lab::new(PollMode::Adaptive);
    lab.attach();
    let downwards = Program::generator(&lab.wire, "wire0");
    lab.across.panic.store(1, Ordering::Relaxed);
    downwards.generate(&lab.wire, 1, 64, 1);
    let exit = lab.exit.recv_timeout(Duration::from_secs(30)).expect("the end is told");
    assert!(matches!(exit, WorkerExit::Panicked { .. }));
    assert_eq!(lab.heartbeat.load(Ordering::Relaxed), 0);
    let passed = lab.nic.count(Row::Passed);
    downwards.generate(&lab.wire, 100, 64, 64);
    wait_until("frames go to the kernel", || lab.nic.count(Row::Passed) == passed + 100);
    let queue = lab.overlay.queue("veth0", 0);
    let refused = lab.worker.attach(PORT, &queue, |_| Ok(()));
    assert!(matches!(refused, Err(WorkerError::Open(OpenError::Ended))), "{refused:?}");

    lab.across.panic.store(0, Ordering::Relaxed);
    let (spec, _, _exit) = spec(&lab.across, PollMode::Adaptive);
    let nic = &mut lab.nic;
    lab.worker = Worker::start(spec, &UMEM, &lab.host.queue("nic0", 0), |socket| nic.install(0, socket))
        .expect("again");
    lab.attach();
    downwards.generate(&lab.wire, 100, 64, 64);
    wait_until("the new worker carries", || lab.container_sink.count(Row::Sunk) == 100);
}

#[test]
#[ignore = "needs root"]
fn an_idle_adaptive_worker_takes_less_than_a_hundredth_of_a_processor() {
    let mut lab = Lab::new(PollMode::Adaptive);
    lab.attach();
    let mine = || -> Option<u64> {
        let name = std::thread::current().name().map(|name| format!("xsk-{name}"))?;
        for task in std::fs::read_dir("/proc/self/task").ok()? {
            let path = task.ok()?.path();
            let of_worker = std::fs::read_to_string(path.join("comm")).ok()?;
            if name.starts_with(of_worker.trim_end()) && of_worker.len() > 10 {
                let times = std::fs::read_to_string(path.join("schedstat")).ok()?;
                return times.split_whitespace().next()?.parse().ok();
            }
        }
        None
    };
    wait_until("it sleeps", || lab.worker.stats().sleeps.get() > 0);
    let before = mine().expect("the worker's thread is listed");
    std::thread::sleep(Duration::from_secs(2));
    let used = mine().expect("the worker's thread is listed") - before;
    assert!(used < 20_000_000, "{used} ns of two seconds");
    let beaten = lab.heartbeat.load(Ordering::Relaxed);
    wait_until("its heart beats", || lab.heartbeat.load(Ordering::Relaxed) > beaten);
}

#[test]
#[ignore = "needs root"]
fn zero_copy_is_refused_on_a_veth_when_it_is_required_and_reported_otherwise() {
    let (host, far) = (Netns::new(), Netns::new());
    veth(&host, "nic0", &far, "wire0");
    let start = |zero_copy| {
        let (spec, _, _) = spec(&Across::default(), PollMode::Interrupt);
        Worker::start(spec, &UmemSpec { zero_copy, ..UMEM }, &host.queue("nic0", 0), |_| Ok(()))
    };
    let refused = start(ZeroCopy::Require).err();
    assert!(matches!(refused, Some(WorkerError::Open(OpenError::ZeroCopyRefused { .. }))), "{refused:?}");
    let worker = start(ZeroCopy::IfOffered).expect("copy mode is there");
    assert!(!worker.zero_copy());
}

#[test]
#[ignore = "needs root"]
fn a_queue_that_the_device_does_not_have_is_named() {
    let (host, far) = (Netns::new(), Netns::new());
    veth(&host, "nic0", &far, "wire0");
    let (spec, _, _) = spec(&Across::default(), PollMode::Interrupt);
    let refused = Worker::start(spec, &UMEM, &host.queue("nic0", 77), |_| Ok(())).err();
    assert!(matches!(refused, Some(WorkerError::Open(OpenError::Queue { queue: 77, .. }))), "{refused:?}");
}

#[test]
#[ignore = "needs root"]
fn sockets_work_under_a_program_in_generic_mode() {
    let mut lab = Lab::with(PollMode::Adaptive, XdpMode::Skb);
    lab.attach();
    // Without a program in native mode, a veth has NAPI, which the generator on its peer needs, only with GRO.
    lab.host.exec(&["ethtool", "-K", "nic0", "gro", "on"]);
    lab.overlay.exec(&["ethtool", "-K", "veth0", "gro", "on"]);
    Program::generator(&lab.wire, "wire0").generate(&lab.wire, 1000, 64, 64);
    Program::generator(&lab.container, "eth0").generate(&lab.container, 1000, 64, 64);
    wait_until("all arrive in the container", || lab.container_sink.count(Row::Sunk) == 1000);
    wait_until("all arrive on the wire", || lab.wire_sink.count(Row::Sunk) == 1000);
    lab.wait_for_rest();
    assert_eq!(lab.worker.audit().expect("consistent"), lab.at_rest(2 * 2032));
}

#[test]
#[ignore = "needs root"]
fn two_workers_serve_a_queue_each_and_keep_its_frames_to_themselves() {
    let mut lab = Lab::new(PollMode::Adaptive);
    let first = lab.attach();
    let (mut spec, _, _exit) = spec(&lab.across, PollMode::Adaptive);
    spec.cpu = Some(0);
    let (nic, veth) = (&mut lab.nic, &mut lab.veth);
    let queue = lab.host.queue("nic0", 1);
    let second = Worker::start(spec, &UMEM, &queue, |socket| nic.install(1, socket)).expect("another queue");
    let queue = lab.overlay.queue("veth0", 1);
    let stats = second.attach(PORT, &queue, |socket| veth.install(1, socket)).expect("another queue");
    let downwards = Program::generator(&lab.wire, "wire0");
    for _ in 0..5 {
        downwards.generate_on(0, &lab.wire, 1000, 64, 64);
        downwards.generate_on(1, &lab.wire, 400, 64, 64);
    }
    wait_until("all arrive", || lab.container_sink.count(Row::Sunk) == 7000);
    assert_eq!((first.tx_frames.get(), stats.tx_frames.get()), (5000, 2000));
    lab.wait_for_rest();
    assert_eq!(lab.worker.audit().expect("consistent"), lab.at_rest(2 * 2032));
    assert!(matches!(second.stop(PATIENCE), WorkerExit::Stopped { census: Some(census) } if census.tx == 0));
}
