//! The devices that the XDP programs of the in-kernel engine send to.

use std::io;

use aya::maps::{DevMap, MapData, MapError};
use vxdp_dataplane::PortId;
use vxdp_ebpf::map;

use super::device::Device;
use super::tables::{TableError, typed};

/// Two DEVMAPs. The kernel takes a device out by itself when it goes.
pub struct Devices {
    underlay: DevMap<MapData>,
    ports: DevMap<MapData>,
}

impl Devices {
    /// Opens the maps through descriptors of its own, from `find`, which knows a map by its name.
    pub(super) fn open<'a>(find: impl Fn(&'static str) -> &'a MapData) -> Result<Self, TableError> {
        let wrong = |table| move |source| TableError::Map { table, source };
        let find = |name| typed(find(name)).and_then(DevMap::try_from).map_err(wrong(name));
        Ok(Self { underlay: find(map::UNDERLAY_DEVICE)?, ports: find(map::PORT_DEVICES)? })
    }

    /// Sends what containers send to `device`.
    pub fn set_underlay(&mut self, device: &Device) -> Result<(), TableError> {
        set(&mut self.underlay, map::UNDERLAY_DEVICE, 0, device)
    }

    /// Sends what is for `port` to `device`.
    pub fn set_port(&mut self, port: PortId, device: &Device) -> Result<(), TableError> {
        set(&mut self.ports, map::PORT_DEVICES, port.get().into(), device)
    }
}

fn set(
    map: &mut DevMap<MapData>,
    table: &'static str,
    index: u32,
    device: &Device,
) -> Result<(), TableError> {
    // The kernel looks the device up in the namespace of the calling thread, and keeps the device itself.
    let answer = device.netns.run(|| map.set(index, device.index, None, 0).map_err(io::Error::other));
    answer.map_err(|error| TableError::Map { table, source: MapError::IoError(error) })
}
