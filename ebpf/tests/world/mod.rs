//! A small world for the programs: maps filled with two overlays, and packets read from files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use aya::maps::{Array, DevMap, HashMap, PerCpuArray, XskMap};
use aya::programs::{Program, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, TestRun, TestRunOptions};
use vxdp_ebpf::{
    Address, Family, FdbKey, INHERIT, OBJECT, Overlay, OverlayKey, Place, Port, Row, Settings, Verdict, Vtep,
    df, map, program, tunnel_port_bit,
};

/// One file of `packets/`.
pub(crate) struct Packet {
    /// `underlay/not_ours_arp`.
    pub(crate) name: String,
    /// What the program must decide.
    pub(crate) verdict: Verdict,
    /// How the world differs from the usual one.
    pub(crate) state: String,
    /// The frame.
    pub(crate) frame: Vec<u8>,
    /// What it becomes, where a program carries frames itself.
    pub(crate) becomes: Option<Vec<u8>>,
}

/// The directories of `packets/`, and the program of each.
pub(crate) const PROGRAMS: [(&str, &str); 6] = [
    ("underlay", program::UNDERLAY),
    ("port", program::PORT),
    ("tc_underlay", program::TC_UNDERLAY),
    ("tc_port", program::TC_PORT),
    ("xdp_underlay", program::XDP_UNDERLAY),
    ("xdp_port", program::XDP_PORT),
];

/// Every packet of every program.
pub(crate) fn all() -> impl Iterator<Item = Packet> {
    PROGRAMS.into_iter().flat_map(|(directory, _)| packets(directory))
}

/// The packets of one program, by name.
pub(crate) fn packets(program: &str) -> Vec<Packet> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packets").join(program);
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| parse(program, file)).collect()
}

fn parse(program: &str, file: &Path) -> Packet {
    let name = format!("{program}/{}", file.file_stem().unwrap().to_str().unwrap());
    let text = fs::read_to_string(file).unwrap();
    let field = |key| text.lines().find_map(|line| line.strip_prefix("# ")?.strip_prefix(key));
    let verdict = field("verdict: ").unwrap_or_else(|| panic!("{name}: no verdict"));
    let verdict =
        *Verdict::ALL.iter().find(|v| v.name() == verdict).unwrap_or_else(|| panic!("{name}: {verdict}?"));
    let (before, after) = match text.split_once("\n# becomes\n") {
        Some((before, after)) => (before, Some(after)),
        None => (text.as_str(), None),
    };
    let state = field("state: ").unwrap_or("usual").to_owned();
    Packet { name, verdict, state, frame: bytes(before), becomes: after.map(bytes) }
}

fn bytes(text: &str) -> Vec<u8> {
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" ");
    digits.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// Number of the port that the instance of `vxdp_port` serves.
const THIS_PORT: u32 = 0;
const OTHER_PORT: u32 = 1;
const FIRST: u16 = 0;
const SECOND: u16 = 1;
/// More VTEPs and ports than the tables have.
const BEYOND: u32 = 1000;
const MAX_AGE_NS: u64 = 60_000_000_000;

/// A loaded program with its maps.
pub(crate) struct World {
    ebpf: Ebpf,
    program: &'static str,
    /// Bytes by which a frame that is redirected to a worker grows at its head.
    pub(crate) room: usize,
    /// Size of the segments of a burst; zero for a packet that is none.
    segment: u32,
    _socket: OwnedFd,
}

impl World {
    /// Loads the program for `directory` of `packets/` into the world of `state`.
    pub(crate) fn new(directory: &str, state: &str) -> Self {
        let (_, program) = PROGRAMS.into_iter().find(|(name, _)| *name == directory).unwrap();
        let port_number = if state == "port_beyond_table" { BEYOND } else { THIS_PORT };
        let mut loader = EbpfLoader::new();
        for name in [map::OVERLAYS, map::FDB, map::VTEPS, map::PORTS, map::PORT_FLOWS, map::PORT_DEVICES] {
            loader.map_max_entries(name, 16);
        }
        let mut ebpf =
            loader.override_global(program::PORT_NUMBER, &port_number, true).load(OBJECT).expect("loading");
        match ebpf.program_mut(program).unwrap() {
            Program::Xdp(xdp) => xdp.load(),
            Program::SchedClassifier(tc) => tc.load(),
            other => panic!("{other:?}"),
        }
        .expect("the verifier");
        let family = if state == "ipv6" { Family::V6 } else { Family::V4 };
        let room = if directory == "port" { family.room() as usize } else { 0 };
        let segment = match state {
            "burst" => 1398,
            "long_burst" => 1440,
            "strange_burst" => 1000,
            _ => 0,
        };
        let mut world = Self { ebpf, program, room, segment, _socket: socket() };
        world.set_host(family, state);
        world.set_tables(family, state);
        world.set_worker(state);
        if state != "no_device" {
            world.set_devices();
        }
        world
    }

    fn set_host(&mut self, family: Family, state: &str) {
        let settings = Settings {
            heartbeat_max_age_ns: MAX_AGE_NS,
            local_address: address(family, 21),
            local_mac: [2, 0, 0, 0, 0x10, 0x21],
            ethertype: family.ethertype(),
            room: if state == "no_headroom" { 300 } else { family.room() },
            max_frame: if state == "small_buffers" { 147 } else { 2048 },
            enabled: u32::from(state != "switch_off"),
            epoch: 1,
            underlay: 1,
            zero: 0,
        };
        self.array(map::SETTINGS, 0, settings.to_bytes());
        for port in [4789, 8472] {
            let (word, bit) = tunnel_port_bit(port);
            self.array(map::TUNNEL_PORTS, word, bit);
        }
    }

    fn set_tables(&mut self, family: Family, state: &str) {
        for (overlay, vni, udp_port) in [(FIRST, 42, 4789), (SECOND, 43, 8472)] {
            let value = Overlay { overlay, enabled: u16::from(state != "overlay_off") };
            self.hash(map::OVERLAYS, OverlayKey::new(vni, udp_port).to_bytes(), value.to_bytes());
        }
        for (vtep, host, resolved) in [(0, 22, 1), (1, 23, 0)] {
            let next_hop = [2, 0, 0, 0, 0x10, host];
            let value = Vtep { address: address(family, host), resolved, next_hop, hop_limit: 64 };
            self.array(map::VTEPS, vtep, value.to_bytes());
        }
        for port in [THIS_PORT, OTHER_PORT] {
            let value = port_row(state);
            self.array(map::PORTS, port, value.to_bytes());
        }
        let vtep = if state == "row_beyond_table" { BEYOND } else { 0 };
        let rows = [
            (FIRST, 2, Place::Local(THIS_PORT)),
            (FIRST, 3, Place::Remote(vtep)),
            (FIRST, 4, Place::Local(OTHER_PORT)),
            (FIRST, 5, Place::Remote(1)),
            (SECOND, 6, Place::Local(OTHER_PORT)),
        ];
        for (overlay, last, place) in rows {
            let key = FdbKey { overlay, mac: [2, 0x42, 0x0a, 0, 0, last] };
            self.hash(map::FDB, key.to_bytes(), Row::from(place).to_bytes());
        }
    }

    fn set_worker(&mut self, state: &str) {
        let beat = match state {
            "no_heartbeat" => 0,
            "stale_heartbeat" => {
                monotonic_ns().checked_sub(MAX_AGE_NS + 1_000_000_000).expect("up for a minute")
            }
            _ => monotonic_ns(),
        };
        self.array(map::HEARTBEATS, 0, beat);
        if state != "no_socket" {
            let socket = self._socket.as_raw_fd();
            let mut slots = XskMap::try_from(self.ebpf.map_mut(map::XSKS).unwrap()).unwrap();
            slots.set(0, socket, 0).expect("a socket in the XSKMAP");
        }
    }

    /// Devices for what is redirected: nothing is sent there.
    fn set_devices(&mut self) {
        const LOOPBACK: u32 = 1;
        for name in [map::UNDERLAY_DEVICE, map::PORT_DEVICES] {
            let mut devices = DevMap::try_from(self.ebpf.map_mut(name).unwrap()).unwrap();
            for index in 0..devices.len() {
                devices.set(index, LOOPBACK, None, 0).expect("a device in the DEVMAP");
            }
        }
    }

    fn array<V: aya::Pod>(&mut self, name: &str, index: u32, value: V) {
        let mut array: Array<_, V> = self.ebpf.map_mut(name).unwrap().try_into().unwrap();
        array.set(index, value, 0).unwrap();
    }

    fn hash<const K: usize, const V: usize>(&mut self, name: &str, key: [u8; K], value: [u8; V]) {
        let mut hash: HashMap<_, [u8; K], [u8; V]> = self.ebpf.map_mut(name).unwrap().try_into().unwrap();
        hash.insert(key, value, 0).unwrap();
    }

    /// Runs the program `repeat` times over the frame: the action, the frame afterwards, and the
    /// nanoseconds one run took.
    pub(crate) fn run(&self, frame: &[u8], repeat: u32) -> Result<(u32, Vec<u8>, u128), ProgramError> {
        /// Offset of `gso_size` in a `__sk_buff`, and the size of that.
        const GSO_SIZE: (usize, usize) = (176, 192);
        let mut out = vec![0; frame.len() + 512];
        let mut context = vec![0; GSO_SIZE.1];
        context[GSO_SIZE.0..][..4].copy_from_slice(&self.segment.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: (self.segment != 0).then_some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = match self.ebpf.program(self.program).unwrap() {
            Program::Xdp(xdp) => Xdp::test_run(xdp, options),
            Program::SchedClassifier(tc) => SchedClassifier::test_run(tc, options),
            other => panic!("{other:?}"),
        }?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out, result.duration.as_nanos()))
    }

    /// The counters that are not zero.
    pub(crate) fn counted(&self) -> BTreeMap<&'static str, u64> {
        let counters: PerCpuArray<_, u64> = self.ebpf.map(map::COUNTERS).unwrap().try_into().unwrap();
        let total = |verdict: Verdict| counters.get(&(verdict as u32), 0).unwrap().iter().sum::<u64>();
        Verdict::ALL.iter().map(|&v| (v.name(), total(v))).filter(|&(_, frames)| frames != 0).collect()
    }
}

/// A port of the world: its row as `state` has it.
fn port_row(state: &str) -> Port {
    let policy = |inherit| if state == "inherit" { inherit } else { 0 };
    Port {
        overlay: if state == "other_segments_port" { SECOND } else { FIRST },
        enabled: u16::from(state != "port_off"),
        max_frame: if state == "narrow_port" { 97 } else { 1464 },
        vni: 42,
        index: 7,
        uplink_inside: 8,
        uplink_outside: 9,
        source_ports: 16384,
        first_source_port: 49152,
        udp_port: 4789,
        ttl: policy(INHERIT),
        tos: policy(INHERIT),
        df: policy(df::INHERIT),
        udp_checksum: u16::from(state == "udp_checksum"),
        mac: [2, 0x42, 0x0a, 0, 0, 2],
        zero: 0,
    }
}

fn address(family: Family, host: u8) -> Address {
    Address::from(match family {
        Family::V4 => IpAddr::from([192, 168, 10, host]),
        // The last group reads as the number of the host: `fd00::21`.
        Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host / 10 * 16 + host % 10)]),
    })
}

/// An AF_XDP socket that the kernel lets into an XSKMAP: a receive ring is all it asks for, no device.
fn socket() -> OwnedFd {
    // SAFETY: no pointers; a descriptor that is not negative is ours alone.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "socket: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    let descriptors = 64_u32;
    // SAFETY: the pointer and the length are those of a value that outlives the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_RX_RING,
            (&raw const descriptors).cast(),
            size_of_val(&descriptors) as libc::socklen_t,
        )
    };
    assert_eq!(answer, 0, "XDP_RX_RING: {}", io::Error::last_os_error());
    socket
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value that outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) }, 0);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
