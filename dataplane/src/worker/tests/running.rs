//! Workers as threads: what the handle does to them, and what becomes of them.

use super::*;

/// A worker with one port, and everything a test wants to see of it.
struct Running {
    worker: Worker<MemPort>,
    underlay: MemKernel,
    port: MemKernel,
    heartbeat: Arc<AtomicU64>,
    exit: mpsc::Receiver<WorkerExit>,
}

fn running(forward: impl Forward + 'static, poll: PollMode) -> Running {
    let (socket_of_underlay, underlay) = socket(small(), GENERIC);
    let sockets = Sockets::new(MemUmem::new(1024, 128), socket_of_underlay, small()).expect("enough frames");
    let heartbeat = Arc::new(AtomicU64::new(0));
    let beats = Arc::clone(&heartbeat);
    let (tell, exit) = mpsc::channel();
    let spec = WorkerSpec {
        name: "worker".to_owned(),
        cpu: None,
        poll,
        forward,
        heartbeat: Box::new(move |now| beats.store(now.0, Ordering::Relaxed)),
        on_exit: Box::new(move |exit| drop(tell.send(exit.clone()))),
    };
    let worker = Worker::spawn(spec, sockets, None).expect("a thread");
    let (socket_of_port, port) = socket(small(), GENERIC);
    worker.attach_socket(PORT, socket_of_port).expect("room");
    Running { worker, underlay, port, heartbeat, exit }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 20 s until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_worker_carries_frames_in_every_poll_mode() {
    for poll in [PollMode::Adaptive, PollMode::Busy, PollMode::Interrupt] {
        let run = running(Across::default(), poll);
        assert!(run.underlay.deliver(&packet(0, 5)));
        let mut sent = Vec::new();
        wait_until("the frame is sent", || {
            sent.extend(run.port.take_sent());
            sent == [packet(0, 5)]
        });
        assert_eq!(run.worker.audit().expect("consistent").violations, 0);
        assert!(matches!(run.worker.stop(Duration::from_secs(1)), WorkerExit::Stopped { census: Some(_) }));
    }
}

#[test]
fn a_heartbeat_goes_on_while_the_worker_sleeps_and_ends_with_it() {
    let run = running(Across::default(), PollMode::Adaptive);
    wait_until("it sleeps", || run.worker.stats().sleeps.get() > 3);
    let before = run.heartbeat.load(Ordering::Relaxed);
    wait_until("the heart beats", || run.heartbeat.load(Ordering::Relaxed) > before);
    let heartbeat = Arc::clone(&run.heartbeat);
    run.worker.stop(Duration::ZERO);
    assert_eq!(heartbeat.load(Ordering::Relaxed), 0);
}

#[test]
fn a_panic_is_reported_closes_the_sockets_and_stops_the_heart() {
    struct Bomb;
    impl Forward for Bomb {
        fn process(&mut self, _now: Nanos, _batch: &mut [Slot<'_>]) {
            panic!("a bug");
        }
        fn dropped(&mut self, _reason: DropReason, _frames: u64) {}
    }
    let run = running(Bomb, PollMode::Adaptive);
    assert!(run.underlay.deliver(&packet(0, 0)));
    let exit = run.exit.recv_timeout(Duration::from_secs(20)).expect("told");
    assert_eq!(exit, WorkerExit::Panicked { message: "a bug".to_owned() });
    assert_eq!(run.heartbeat.load(Ordering::Relaxed), 0);
    assert!(!run.underlay.is_open() && !run.port.is_open());
    assert!(matches!(run.worker.detach(PORT, Duration::ZERO), Err(WorkerError::Ended)));
    assert!(matches!(run.worker.audit(), Err(WorkerError::Ended)));
}

#[test]
fn a_port_leaves_a_running_worker_after_its_frames() {
    let run = running(Across::default(), PollMode::Adaptive);
    run.port.set_down(Some(Kick::Again));
    for number in 0..40 {
        assert!(run.underlay.deliver(&packet(0, number)));
    }
    wait_until("all wait", || run.port.tx_waiting() == 40);
    std::thread::scope(|scope| {
        let leaving = scope.spawn(|| run.worker.detach(PORT, Duration::from_secs(20)));
        run.port.set_down(None);
        let reclaimed = leaving.join().expect("no panic").expect("it was attached");
        assert_eq!(reclaimed, Reclaimed { recovered: 64, written_off: 0 });
    });
    assert_eq!(run.port.take_sent().len(), 40);
    assert!(!run.port.is_open());
    assert!(matches!(run.worker.detach(PORT, Duration::ZERO), Err(WorkerError::NoPort { port: PORT })));
}

#[test]
fn a_stopping_worker_carries_what_it_has_received() {
    let run = running(Across::default(), PollMode::Interrupt);
    run.underlay.set_down(Some(Kick::Again));
    for number in 0..60 {
        assert!(run.port.deliver(&packet(9, number)));
    }
    let underlay = run.underlay.clone();
    let stopping = std::thread::spawn(|| run.worker.stop(Duration::from_secs(20)));
    underlay.set_down(None);
    let WorkerExit::Stopped { census: Some(census) } = stopping.join().expect("no panic") else {
        panic!("stopped");
    };
    assert_eq!((census.tx, census.worker), (0, 0));
    assert_eq!(underlay.take_sent().len(), 60);
}

#[test]
fn a_worker_whose_handle_is_dropped_ends() {
    let run = running(Across::default(), PollMode::Adaptive);
    drop(run.worker);
    assert!(matches!(run.exit.recv_timeout(Duration::from_secs(20)), Ok(WorkerExit::Stopped { .. })));
    assert!(!run.port.is_open());
}
