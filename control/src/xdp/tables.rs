//! The tables that all program instances share, with types.
//!
//! Writing what is there and removing what is gone are successes. Each write is one system call and takes
//! effect for the next frame. Order matters where a row names a number: give the number its VTEP or port
//! before the first row names it, and take it away after the last.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use nix::errno::Errno;
use vxdp_dataplane::table::{Df, NextHop, Policy, Tos, Ttl, UdpChecksum};
use vxdp_dataplane::wire::{MacAddr, Vni};
use vxdp_dataplane::{OverlayId, PortId, VtepId};
use vxdp_ebpf::{
    Address, Family, FdbKey, INHERIT, MAX_QUEUES, Overlay, OverlayKey, Port, Row, Settings,
    TUNNEL_PORT_WORDS, Vtep, df, map, tunnel_port_bit,
};

use crate::engine::compile::MapWrite;
use crate::mirror::state::Place;

/// Age from which a worker counts as stuck and frames go to the kernel.
///
/// What a stopped process costs at most is the frames of this time. Lower, and a machine under load, whose
/// scheduler keeps a healthy worker waiting, would flip between the two paths and reorder flows; much
/// higher, and TCP connections run into retransmission timeouts (200 ms at least). Workers should show
/// themselves four times as often.
pub const HEARTBEAT_MAX_AGE: Duration = Duration::from_millis(100);

/// How many entries the tables have room for. They are the kernel's memory and are taken at load time,
/// except the FDB's rows (about 64 bytes each), which are taken as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// MACs of all overlays together; 16 bytes each, even when unused.
    pub rows: u32,
    /// VTEPs; 32 bytes each.
    pub vteps: u32,
    /// Container ports; 48 bytes each, and 32 for each CPU.
    pub ports: u32,
    /// Overlays; 16 bytes each.
    pub overlays: u32,
}

impl Default for Capacity {
    /// A million MACs, as the largest overlay we promise, and twice that as the hash grows slow when full.
    fn default() -> Self {
        Self { rows: 1 << 21, vteps: VtepId::LIMIT, ports: 1 << 12, overlays: 1 << 12 }
    }
}

/// A write into a table failed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No room, or the kernel no memory. The frames of what did not fit go through the kernel.
    #[error("there is no room in the XDP table {table}")]
    Full {
        /// Name of the map.
        table: &'static str,
    },
    /// Anything else the kernel answered.
    #[error("cannot access the XDP table {table}")]
    Map {
        /// Name of the map.
        table: &'static str,
        /// The answer.
        source: MapError,
    },
}

/// What the programs know of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Our VTEP address.
    pub local: IpAddr,
    /// MAC of the underlay device.
    pub mac: MacAddr,
    /// Longest frame, in bytes, that the workers can take from the underlay: the size of a UMEM frame without
    /// its headroom. The kernel drops what is redirected and does not fit, so longer frames pass.
    pub max_frame: u32,
    /// Age from which a heartbeat counts as stale; usually [`HEARTBEAT_MAX_AGE`].
    pub heartbeat_max_age: Duration,
    /// Index of the underlay device.
    pub device: u32,
}

/// What the programs know of a container port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortEntry {
    /// Its overlay.
    pub overlay: OverlayId,
    /// Longest inner frame, Ethernet header included, that the port itself can take, that fits the underlay
    /// once encapsulated, and with the room for the outer headers fits a UMEM frame.
    pub max_frame: u32,
    /// Whether the fast path carries its frames.
    pub enabled: bool,
    /// How its frames are encapsulated, where a program does it.
    pub outer: Option<Outer>,
}

/// What a program must know to encapsulate a port's frames, and to hand others to the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// UDP destination port.
    pub udp_port: u16,
    /// How the outer headers look.
    pub policy: Policy,
    /// Index of the port's device on the bridge.
    pub index: u32,
    /// Indices of the uplink's ends, in the overlay's namespace and in the host's.
    pub uplink: [u32; 2],
    /// MAC of the container's end.
    pub mac: MacAddr,
}

impl Outer {
    fn write(self, port: &mut Port) {
        let policy = self.policy;
        let (first, last) = policy.source_ports.ends();
        port.vni = self.vni.get();
        port.udp_port = self.udp_port;
        port.index = self.index;
        [port.uplink_inside, port.uplink_outside] = self.uplink;
        port.first_source_port = first;
        port.source_ports = u32::from(last - first) + 1;
        port.mac = self.mac.octets();
        port.udp_checksum = (policy.udp_checksum == UdpChecksum::Computed).into();
        port.ttl = match policy.ttl {
            Ttl::Auto => 0,
            Ttl::Inherit => INHERIT,
            Ttl::Fixed(hops) => hops.get().into(),
        };
        port.tos = match policy.tos {
            Tos::Inherit => INHERIT,
            Tos::Fixed(tos) => tos.into(),
        };
        port.df = match policy.df {
            Df::Unset => df::UNSET,
            Df::Set => df::SET,
            Df::Inherit => df::INHERIT,
        };
    }
}

type Bytes<const N: usize> = [u8; N];

/// The shared tables.
pub struct Tables {
    /// As written last; the switch is part of the same entry.
    current: Settings,
    /// Rows of the FDB: remote ones and local ones.
    rows: [usize; 2],
    settings: Array<MapData, Bytes<{ Settings::SIZE }>>,
    tunnel_ports: Array<MapData, u64>,
    overlays: HashMap<MapData, Bytes<{ OverlayKey::SIZE }>, Bytes<{ Overlay::SIZE }>>,
    fdb: HashMap<MapData, Bytes<{ FdbKey::SIZE }>, Bytes<{ Row::SIZE }>>,
    vteps: Array<MapData, Bytes<{ Vtep::SIZE }>>,
    ports: Array<MapData, Bytes<{ Port::SIZE }>>,
}

impl Tables {
    /// Opens the tables through descriptors of its own, from `find`, which knows a map by its name.
    pub(super) fn open<'a>(find: impl Fn(&'static str) -> &'a MapData) -> Result<Self, TableError> {
        let find = |name| typed(find(name)).map_err(|source| TableError::Map { table: name, source });
        let wrong = |table| move |source| TableError::Map { table, source };
        Ok(Self {
            current: Settings::default(),
            rows: [0; 2],
            settings: find(map::SETTINGS)?.try_into().map_err(wrong(map::SETTINGS))?,
            tunnel_ports: find(map::TUNNEL_PORTS)?.try_into().map_err(wrong(map::TUNNEL_PORTS))?,
            overlays: find(map::OVERLAYS)?.try_into().map_err(wrong(map::OVERLAYS))?,
            fdb: find(map::FDB)?.try_into().map_err(wrong(map::FDB))?,
            vteps: find(map::VTEPS)?.try_into().map_err(wrong(map::VTEPS))?,
            ports: find(map::PORTS)?.try_into().map_err(wrong(map::PORTS))?,
        })
    }

    /// Tells the programs who we are. The switch stays as it is; it is off at first.
    pub fn set_host(&mut self, host: Host) -> Result<(), TableError> {
        let family = if host.local.is_ipv4() { Family::V4 } else { Family::V6 };
        self.write_settings(Settings {
            heartbeat_max_age_ns: u64::try_from(host.heartbeat_max_age.as_nanos()).unwrap_or(u64::MAX),
            local_address: Address::from(host.local),
            local_mac: host.mac.octets(),
            ethertype: family.ethertype(),
            room: family.room(),
            max_frame: host.max_frame,
            enabled: self.current.enabled,
            epoch: self.current.epoch.max(1),
            underlay: host.device,
            zero: 0,
        })
    }

    /// Has the programs note anew which rows are in use.
    pub fn next_epoch(&mut self) -> Result<(), TableError> {
        let epoch = self.current.epoch.wrapping_add(1).max(1);
        self.write_settings(Settings { epoch, ..self.current })
    }

    /// Turns the switch of the whole daemon: off, every frame of every device passes.
    pub fn set_switch(&mut self, enabled: bool) -> Result<(), TableError> {
        self.write_settings(Settings { enabled: enabled.into(), ..self.current })
    }

    fn write_settings(&mut self, settings: Settings) -> Result<(), TableError> {
        self.settings.set(0, settings.to_bytes(), 0).map_err(answer(map::SETTINGS))?;
        self.current = settings;
        Ok(())
    }

    /// Sets the UDP ports on which tunnel datagrams arrive: exactly these.
    pub fn set_tunnel_ports(&mut self, ports: impl IntoIterator<Item = u16>) -> Result<(), TableError> {
        let mut words = [0; TUNNEL_PORT_WORDS as usize];
        for port in ports {
            let (word, bit) = tunnel_port_bit(port);
            words[word as usize] |= bit;
        }
        for (word, bits) in (0..).zip(words) {
            self.tunnel_ports.set(word, bits, 0).map_err(answer(map::TUNNEL_PORTS))?;
        }
        Ok(())
    }

    /// Makes a segment known on the underlay. Its UDP port must be among the tunnel ports, too.
    ///
    /// `enabled` is the segment's own switch for frames from the underlay; those from its containers have
    /// one for each port.
    pub fn set_overlay(
        &mut self,
        vni: Vni,
        udp_port: u16,
        overlay: OverlayId,
        enabled: bool,
    ) -> Result<(), TableError> {
        let value = Overlay { overlay: overlay.get(), enabled: enabled.into() };
        self.overlays
            .insert(OverlayKey::new(vni.get(), udp_port).to_bytes(), value.to_bytes(), 0)
            .map_err(answer(map::OVERLAYS))
    }

    /// Forgets a segment.
    pub fn remove_overlay(&mut self, vni: Vni, udp_port: u16) -> Result<(), TableError> {
        let key = OverlayKey::new(vni.get(), udp_port).to_bytes();
        gone_is_fine(self.overlays.remove(&key)).map_err(answer(map::OVERLAYS))
    }

    /// Does a write that the engine compiled.
    ///
    /// # Errors
    ///
    /// [`TableError::Full`] when there is no room: the frames concerned go through the kernel.
    pub fn write(&mut self, write: MapWrite) -> Result<(), TableError> {
        match write {
            MapWrite::Mac { overlay, mac, place: Some(place) } => self.set_mac(overlay, mac, place),
            MapWrite::Mac { overlay, mac, place: None } => self.remove_mac(overlay, mac),
            MapWrite::Vtep { id, address, next_hop } => self.set_vtep(id, address, next_hop),
        }
    }

    /// Gives a MAC its place.
    ///
    /// # Errors
    ///
    /// [`TableError::Full`] when there is no room for another MAC.
    pub fn set_mac(&mut self, overlay: OverlayId, mac: MacAddr, place: Place) -> Result<(), TableError> {
        let key = FdbKey { overlay: overlay.get(), mac: mac.octets() }.to_bytes();
        let place = match place {
            Place::Remote(vtep) => vxdp_ebpf::Place::Remote(vtep.get()),
            Place::Local(port) => vxdp_ebpf::Place::Local(port.get().into()),
        };
        let before = self.place(&key);
        self.fdb.insert(key, Row::from(place).to_bytes(), 0).map_err(answer(map::FDB))?;
        self.count(before, Some(place));
        Ok(())
    }

    /// Leaves a MAC to the kernel.
    pub fn remove_mac(&mut self, overlay: OverlayId, mac: MacAddr) -> Result<(), TableError> {
        let key = FdbKey { overlay: overlay.get(), mac: mac.octets() }.to_bytes();
        let before = self.place(&key);
        gone_is_fine(self.fdb.remove(&key)).map_err(answer(map::FDB))?;
        self.count(before, None);
        Ok(())
    }

    /// How many MACs are behind VTEPs and how many behind ports.
    pub fn rows(&self) -> (usize, usize) {
        (self.rows[0], self.rows[1])
    }

    fn place(&self, key: &Bytes<{ FdbKey::SIZE }>) -> Option<vxdp_ebpf::Place> {
        self.fdb.get(key, 0).ok().map(|row| Row::from_bytes(row).place())
    }

    fn count(&mut self, before: Option<vxdp_ebpf::Place>, after: Option<vxdp_ebpf::Place>) {
        let side = |place| usize::from(matches!(place, vxdp_ebpf::Place::Local(_)));
        if let Some(place) = before {
            self.rows[side(place)] -= 1;
        }
        if let Some(place) = after {
            self.rows[side(place)] += 1;
        }
    }

    /// Gives a VTEP's number its address, and the next hop towards it; without one no frames are sent to it,
    /// but they are accepted from it.
    pub fn set_vtep(
        &mut self,
        id: VtepId,
        address: IpAddr,
        next_hop: Option<NextHop>,
    ) -> Result<(), TableError> {
        let value = Vtep {
            address: Address::from(address),
            resolved: next_hop.is_some().into(),
            next_hop: next_hop.map_or([0; 6], |hop| hop.mac.octets()),
            hop_limit: next_hop.map_or(0, |hop| hop.hop_limit.into()),
        };
        self.vteps.set(id.get(), value.to_bytes(), 0).map_err(bounded(map::VTEPS))
    }

    /// Describes a container port.
    pub fn set_port(&mut self, port: PortId, entry: PortEntry) -> Result<(), TableError> {
        let mut value = Port {
            overlay: entry.overlay.get(),
            enabled: entry.enabled.into(),
            max_frame: entry.max_frame,
            ..Port::default()
        };
        if let Some(outer) = entry.outer {
            outer.write(&mut value);
        }
        self.ports.set(port.get().into(), value.to_bytes(), 0).map_err(bounded(map::PORTS))
    }

    /// Takes a container port out of the fast path.
    pub fn remove_port(&mut self, port: PortId) -> Result<(), TableError> {
        self.ports.set(port.get().into(), Port::default().to_bytes(), 0).map_err(bounded(map::PORTS))
    }
}

/// The signs of life of the workers; may be kept by whoever watches them.
pub struct Heartbeats {
    beats: Array<MapData, u64>,
}

impl Heartbeats {
    pub(super) fn open(map: &MapData) -> Result<Self, TableError> {
        let wrong = |source| TableError::Map { table: map::HEARTBEATS, source };
        Ok(Self { beats: typed(map).map_err(wrong)?.try_into().map_err(wrong)? })
    }

    /// Notes that the worker of `queue` was alive at `now_ns` of `CLOCK_MONOTONIC`; 0: there is no worker.
    ///
    /// Queues from [`MAX_QUEUES`] on have no heartbeat: their frames always pass.
    pub fn beat(&mut self, queue: u32, now_ns: u64) -> Result<(), TableError> {
        if queue >= MAX_QUEUES {
            return Ok(());
        }
        self.beats.set(queue, now_ns, 0).map_err(answer(map::HEARTBEATS))
    }
}

/// The map through a descriptor of its own.
pub(super) fn typed(map: &MapData) -> Result<Map, MapError> {
    let descriptor = map.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
    Map::from_map_data(MapData::from_fd(descriptor)?)
}

fn gone_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// No room is `E2BIG`; no memory at hand is `ENOMEM`: the kernel refills its store of rows in the background, without
/// waiting for pages itself (`bpf_mem_alloc`, kernel/bpf/memalloc.c), and rows may come faster.
fn answer(table: &'static str) -> impl Fn(MapError) -> TableError {
    move |source| match &source {
        MapError::SyscallError(error)
            if matches!(
                error.io_error.raw_os_error().map(Errno::from_raw),
                Some(Errno::E2BIG | Errno::ENOMEM)
            ) =>
        {
            TableError::Full { table }
        }
        _ => TableError::Map { table, source },
    }
}

/// For the tables by number, where a number beyond the end means that there is no room.
fn bounded(table: &'static str) -> impl Fn(MapError) -> TableError {
    move |source| match source {
        MapError::OutOfBounds { .. } => TableError::Full { table },
        source => TableError::Map { table, source },
    }
}
