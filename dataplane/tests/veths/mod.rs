//! Veth pairs in namespaces of their own, and XDP programs that make, redirect and count frames on them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{Array, XskMap};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;
use vxdp_dataplane::worker::DeviceQueue;

/// Rows of the programs' `counts`, as in `traffic.bpf.c`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row {
    /// Frames the program redirected to a socket.
    Redirected = 1,
    /// Frames it found no socket for.
    Passed = 2,
    /// Frames that arrived, each number counted once.
    Sunk = 3,
    /// Frames whose number had arrived before.
    Doubled = 4,
    /// Frames with a number that was never sent.
    Strange = 5,
}

/// A network namespace, removed with everything in it when dropped.
pub(crate) struct Netns {
    name: String,
    file: std::fs::File,
}

impl Netns {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("afxdp-{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        let file = std::fs::File::open(Path::new("/run/netns").join(&name)).expect("the namespace is there");
        let netns = Self { name, file };
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// Runs `ip` inside.
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Runs a command inside.
    pub(crate) fn exec(&self, command: &[&str]) {
        ip(&[&["netns", "exec", &self.name], command].concat());
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A queue of a device inside.
    pub(crate) fn queue<'a>(&'a self, device: &'a str, queue: u32) -> DeviceQueue<'a> {
        DeviceQueue { netns: self.file.as_fd(), device, queue }
    }

    /// Frames that the device could not send.
    pub(crate) fn tx_dropped(&self, device: &str) -> u64 {
        let shown = self.ip(&["-s", "link", "show", "dev", device]);
        let line = shown.lines().skip_while(|line| !line.trim_start().starts_with("TX:")).nth(1);
        let dropped = line.and_then(|line| line.split_whitespace().nth(3));
        dropped.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no TX drops in: {shown}"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair between two namespaces with two queues at each end, both ends up.
pub(crate) fn veth(near: &Netns, near_name: &str, far: &Netns, far_name: &str) {
    let queues = ["numrxqueues", "2", "numtxqueues", "2"];
    let peer = ["peer", "name", far_name, "netns", &far.name];
    near.ip(&[&["link", "add", near_name][..], &queues, &["type", "veth"], &peer, &queues].concat());
    near.ip(&["link", "set", near_name, "up"]);
    far.ip(&["link", "set", far_name, "up"]);
}

/// The programs, compiled once per test binary; clang is there, since building the sockets needs it.
fn object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/veths/traffic.bpf.c");
        let name = format!("traffic-{}.o", std::process::id());
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let flags = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", "-c"];
        let status = Command::new("clang").args(flags).arg(&source).arg("-o").arg(&target).status();
        assert!(status.expect("clang is installed").success(), "clang {}", source.display());
        let object = std::fs::read(&target).expect("clang wrote the object");
        let _ = std::fs::remove_file(&target);
        object
    })
}

/// One of the programs, loaded with maps of its own; detached when dropped.
pub(crate) struct Program {
    ebpf: Ebpf,
    name: &'static str,
}

impl Program {
    fn load(name: &'static str, egress: u32) -> Self {
        let mut loader = EbpfLoader::new();
        let mut ebpf = loader.override_global("egress", &egress, true).load(object()).expect("it loads");
        let program: &mut Xdp = ebpf.program_mut(name).expect(name).try_into().expect("an XDP program");
        program.load().expect("the verifier agrees");
        Self { ebpf, name }
    }

    /// Loads the program and attaches it to a device in native mode.
    pub(crate) fn attach(name: &'static str, netns: &Netns, device: &str) -> Self {
        Self::attach_as(XdpMode::Driver, name, netns, device)
    }

    /// Loads the program and attaches it to a device.
    pub(crate) fn attach_as(mode: XdpMode, name: &'static str, netns: &Netns, device: &str) -> Self {
        let mut program = Self::load(name, 0);
        netns.run(|| {
            let xdp: &mut Xdp = program.ebpf.program_mut(name).expect(name).try_into().expect("XDP");
            xdp.attach(device, mode).expect("a veth has every mode");
        });
        program
    }

    /// A generator that sends out of `device`, whose peer must have an XDP program.
    pub(crate) fn generator(netns: &Netns, device: &'static str) -> Self {
        let index = netns.run(|| nix::net::if_::if_nametoindex(device)).expect("the device is there");
        Self::load("generate", index)
    }

    /// Sends `frames` numbered frames of `len` bytes, `batch` at a time, into queue 0.
    pub(crate) fn generate(&self, netns: &Netns, frames: u32, len: usize, batch: u32) {
        self.generate_on(0, netns, frames, len, batch);
    }

    /// The same on one processor, whose number modulo the number of queues a veth takes as the queue.
    pub(crate) fn generate_on(&self, cpu: usize, netns: &Netns, frames: u32, len: usize, batch: u32) {
        let mut frame = vec![0; len];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        let program: &Xdp = self.ebpf.program(self.name).expect("loaded").try_into().expect("XDP");
        let attrs = TestRunAttrs::new().xdp_live_frames(batch);
        let options =
            TestRunOptions { data_in: Some(&frame), repeat: frames, attrs, ..TestRunOptions::default() };
        let run = || {
            let mut set = CpuSet::new();
            set.set(cpu).expect("a small number");
            sched_setaffinity(Pid::from_raw(0), &set).expect("the processor is there");
            program.test_run(options)
        };
        netns.run(run).expect("the kernel can run live frames");
    }

    /// Redirects a queue to this socket.
    pub(crate) fn install(&mut self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let map = self.ebpf.map_mut("sockets").expect("the map is there");
        let mut map = XskMap::try_from(map).map_err(io::Error::other)?;
        map.set(queue, socket.as_raw_fd(), 0).map_err(io::Error::other)
    }

    /// Redirects queue 0 to no socket.
    pub(crate) fn uninstall(&mut self) {
        let map = self.ebpf.map_mut("sockets").expect("the map is there");
        // Absent if the kernel removed a closed socket already.
        let _ = XskMap::try_from(map).expect("an XSKMAP").unset(0);
    }

    /// A counter of the program.
    pub(crate) fn count(&self, row: Row) -> u64 {
        let map = self.ebpf.map("counts").expect("the map is there");
        Array::<_, u64>::try_from(map).expect("an array").get(&(row as u32), 0).expect("the row is there")
    }
}

/// Waits until the condition holds, or panics after 30 seconds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 30 s until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
