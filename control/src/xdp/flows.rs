//! What the in-kernel engine's programs count and note: frames by port and VTEP, and rows in use.

use aya::maps::{MapData, PerCpuArray, RingBuf};
use vxdp_dataplane::wire::MacAddr;
use vxdp_dataplane::{OverlayId, PortId, VtepId};
use vxdp_ebpf::{COUNTED_VTEPS, FdbKey, Flows, map};

use super::tables::{TableError, typed};

type Bytes = [u8; Flows::SIZE];

/// What the programs carried: they count, anybody reads.
pub struct FlowCounters {
    ports: PerCpuArray<MapData, Bytes>,
    vteps: PerCpuArray<MapData, Bytes>,
}

impl FlowCounters {
    /// Opens the counters through descriptors of their own, from `find`, which knows a map by its name.
    pub(super) fn open<'a>(find: impl Fn(&'static str) -> &'a MapData) -> Result<Self, TableError> {
        let wrong = |table| move |source| TableError::Map { table, source };
        let find = |name| typed(find(name)).map_err(wrong(name));
        Ok(Self {
            ports: find(map::PORT_FLOWS)?.try_into().map_err(wrong(map::PORT_FLOWS))?,
            vteps: find(map::VTEP_FLOWS)?.try_into().map_err(wrong(map::VTEP_FLOWS))?,
        })
    }

    /// What went through a port so far; its number may have been another port's before.
    pub fn port(&self, port: PortId) -> Result<Flows, TableError> {
        sum(&self.ports, map::PORT_FLOWS, port.get().into())
    }

    /// What went to and came from a VTEP so far; nothing beyond those that are counted.
    pub fn vtep(&self, vtep: VtepId) -> Result<Flows, TableError> {
        if vtep.get() >= COUNTED_VTEPS {
            return Ok(Flows::default());
        }
        sum(&self.vteps, map::VTEP_FLOWS, vtep.get())
    }
}

/// The rows in use, as the programs note them.
pub struct Usage {
    hits: RingBuf<MapData>,
}

impl Usage {
    /// Opens the notes through a descriptor of its own, from `find`, which knows a map by its name.
    pub(super) fn open<'a>(find: impl Fn(&'static str) -> &'a MapData) -> Result<Self, TableError> {
        let wrong = |source| TableError::Map { table: map::HITS, source };
        let hits = typed(find(map::HITS)).map_err(wrong)?;
        Ok(Self { hits: hits.try_into().map_err(wrong)? })
    }

    /// The rows that frames came from since the last call, or since the epoch changed: each once.
    pub fn hits(&mut self) -> Vec<(OverlayId, MacAddr)> {
        let mut rows = Vec::new();
        while let Some(entry) = self.hits.next() {
            if let Some(key) = entry.first_chunk() {
                let key = FdbKey::from_bytes(*key);
                rows.push((OverlayId::new(key.overlay), MacAddr::new(key.mac)));
            }
        }
        rows
    }
}

fn sum(map: &PerCpuArray<MapData, Bytes>, table: &'static str, index: u32) -> Result<Flows, TableError> {
    let per_cpu = map.get(&index, 0).map_err(|source| TableError::Map { table, source })?;
    Ok(per_cpu.iter().map(|bytes| Flows::from_bytes(*bytes)).fold(Flows::default(), |sum, flows| Flows {
        encap_frames: sum.encap_frames + flows.encap_frames,
        encap_bytes: sum.encap_bytes + flows.encap_bytes,
        decap_frames: sum.decap_frames + flows.decap_frames,
        decap_bytes: sum.decap_bytes + flows.decap_bytes,
    }))
}
