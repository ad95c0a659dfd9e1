//! The tables as one batch sees them: each kind of lookup remembers its last answer.
//!
//! Batches are mostly runs of frames of the same segment, from the same container, to the same peer. Comparing a
//! key with the last one costs next to nothing beside hashing it.

use super::shard::{FREE, Found, ShardedMap};
use super::{Overlay, OverlayId, Port, Tables, VtepId, VtepRow, mac_key, segment_key};
use crate::wire::{MacAddr, Vni};
use crate::{Family, PortId};

/// One batch's view of the tables.
pub(crate) struct View<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) family: Family,
    /// Second of the batch, as [`super::MacRow::last_frame`] has it.
    second: u32,
    overlays: &'a [Option<Overlay>],
    vteps: &'a [Option<VtepRow>],
    ports: &'a [Option<Port>],
    segment: Last<'a>,
    remote: Last<'a>,
    local: Last<'a>,
}

/// The last lookup in a map.
struct Last<'a> {
    key: u64,
    found: Option<Found<'a>>,
}

impl<'a> Last<'a> {
    /// No map has this key.
    const NONE: Self = Self { key: FREE, found: None };

    #[inline(always)]
    fn get(&mut self, map: &'a ShardedMap, key: u64) -> Option<Found<'a>> {
        if key != self.key {
            *self = Self { key, found: map.get(key) };
        }
        self.found
    }
}

impl<'a> View<'a> {
    /// The view of a batch that came at `second`.
    pub(crate) fn new(tables: &'a Tables, second: u32) -> Self {
        Self {
            tables,
            family: tables.underlay.family(),
            second,
            overlays: &tables.overlays,
            vteps: &tables.vteps,
            ports: &tables.ports,
            segment: Last::NONE,
            remote: Last::NONE,
            local: Last::NONE,
        }
    }

    /// [`Tables::overlay`].
    #[inline(always)]
    pub(crate) fn overlay(&self, id: OverlayId) -> Option<&'a Overlay> {
        self.overlays.get(id.index())?.as_ref()
    }

    /// The VTEP with this index, and the headers towards it.
    #[inline(always)]
    pub(crate) fn vtep(&self, id: VtepId) -> Option<&'a VtepRow> {
        self.vteps.get(id.index())?.as_ref()
    }

    /// [`Tables::port`].
    #[inline(always)]
    pub(crate) fn port(&self, id: PortId) -> Option<&'a Port> {
        self.ports.get(id.index())?.as_ref()
    }

    /// [`Tables::segment`].
    #[inline(always)]
    pub(crate) fn segment(&mut self, vni: Vni, port: u16) -> Option<OverlayId> {
        let found = self.segment.get(&self.tables.segments, segment_key(vni, port))?;
        Some(OverlayId::new(found.value as u16))
    }

    /// [`Tables::remote`].
    #[inline(always)]
    pub(crate) fn remote(&mut self, overlay: OverlayId, mac: MacAddr) -> Option<VtepId> {
        let found = self.remote.get(&self.tables.remotes, mac_key(overlay, mac))?;
        Some(VtepId::new(found.value))
    }

    /// [`Tables::local`].
    #[inline(always)]
    pub(crate) fn local(&mut self, overlay: OverlayId, mac: MacAddr) -> Option<PortId> {
        let found = self.local.get(&self.tables.locals, mac_key(overlay, mac))?;
        Some(PortId::new(found.value as u16))
    }

    /// The VTEP behind which the sender of a frame is; `sent` decides whether the frame came from there, and
    /// then the row counts as used.
    #[inline(always)]
    pub(crate) fn remote_sender(
        &mut self,
        overlay: OverlayId,
        mac: MacAddr,
        sent: impl FnOnce(&VtepRow) -> bool,
    ) -> Option<VtepId> {
        let found = self.remote.get(&self.tables.remotes, mac_key(overlay, mac))?;
        let vtep = VtepId::new(found.value);
        if sent(self.vtep(vtep)?) {
            found.mark(self.second);
        }
        Some(vtep)
    }

    /// Notes that a frame came from a MAC, if it is behind this port.
    #[inline(always)]
    pub(crate) fn local_sender(&mut self, overlay: OverlayId, mac: MacAddr, port: PortId) {
        if let Some(found) = self.local.get(&self.tables.locals, mac_key(overlay, mac))
            && found.value == u32::from(port.get())
        {
            found.mark(self.second);
        }
    }
}
