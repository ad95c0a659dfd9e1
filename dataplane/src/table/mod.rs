//! What workers look up: immutable snapshots, changed by making a new one.

mod publish;
mod row;
mod shard;
mod template;
mod view;

use std::net::IpAddr;
use std::sync::Arc;

pub use publish::{Loaded, Publisher, Reader};
pub use row::{
    Change, Df, NextHop, Overlay, OverlayId, Policy, Port, PortRange, TableError, Tos, Ttl, UdpChecksum,
    Underlay, Vtep, VtepId, ZeroUdp6,
};
use shard::{Found, ShardedMap};
pub(crate) use template::Template;
pub(crate) use view::View;

use crate::wire::{MacAddr, Vni};
use crate::{Nanos, PortId};

/// 4096 shards for rows: at a million rows a change copies one shard of about 250 rows, and the list of
/// shards is 64 KiB. Fewer make that copy larger, more the list.
const SHARD_BITS: u32 = 12;

/// Remote rows above which their cache lines are fetched ahead ([`Tables::is_large`]).
///
/// A lookup has about sixty instructions, so a processor's window holds four or five at a time and waits for no
/// more cache lines than that; a loop that only touches the lines holds twenty. Up to 16,384 rows (512 KiB) the
/// second-level cache has them, and the extra loop would cost more than it saves.
const LARGE: usize = 1 << 14;

/// A VTEP and the headers towards it; no headers while it is unresolved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VtepRow {
    pub(crate) vtep: Vtep,
    /// Its address, as [`address_number`] has it: compared for every frame that comes in.
    pub(crate) number: u128,
    pub(crate) template: Option<Template>,
}

/// An address as a number. The two families have numbers of their own, but one underlay has one family.
pub(crate) fn address_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl VtepRow {
    fn new(ours: &Underlay, vtep: Vtep) -> Self {
        let template = vtep.next_hop.and_then(|hop| Template::new(ours, vtep.address, &hop));
        Self { vtep, number: address_number(vtep.address), template }
    }
}

/// Everything the workers look up: one consistent state, never changed once made.
///
/// Cloning and changing one of a million rows copies a few kilobytes (see [`Change`] and
/// [`Tables::with_changes`]).
#[derive(Clone)]
pub struct Tables {
    underlay: Underlay,
    overlays: Arc<Vec<Option<Overlay>>>,
    segments: ShardedMap,
    vteps: Arc<Vec<Option<VtepRow>>>,
    ports: Arc<Vec<Option<Port>>>,
    remotes: ShardedMap,
    locals: ShardedMap,
}

/// A row for a MAC: where it is, and when traffic last came from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacRow<T> {
    /// Its segment.
    pub overlay: OverlayId,
    /// The address.
    pub mac: MacAddr,
    /// The VTEP or port behind which it is.
    pub at: T,
    /// Second of the worker's clock at which the last frame from it passed; `None`: none since the row is here.
    ///
    /// Rows that only the fast path uses age out of the kernel unless control refreshes them; the kernel ages
    /// bridge rows and, since 6.16, vxlan rows by what was received *from* an address, so that is what counts.
    pub last_frame: Option<u32>,
}

fn mac_key(overlay: OverlayId, mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.octets();
    u64::from(overlay.get()) << 48 | u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn mac_row<T>(key: u64, at: T, found: Found<'_>) -> MacRow<T> {
    let [x, y, mac @ ..] = key.to_be_bytes();
    let last_frame = Some(found.used()).filter(|second| *second != 0);
    MacRow { overlay: OverlayId::new(u16::from_be_bytes([x, y])), mac: MacAddr::new(mac), at, last_frame }
}

fn segment_key(vni: Vni, port: u16) -> u64 {
    u64::from(port) << 24 | u64::from(vni.get())
}

/// The second in which `now` lies, as [`MacRow::last_frame`] has it; never 0.
pub(crate) fn second_of(now: Nanos) -> u32 {
    ((now.0 / 1_000_000_000) as u32).max(1)
}

fn set<T: Clone>(rows: &mut Arc<Vec<Option<T>>>, index: usize, row: Option<T>) {
    let rows = Arc::make_mut(rows);
    if rows.len() <= index {
        rows.resize(index + 1, None);
    }
    if let Some(place) = rows.get_mut(index) {
        *place = row;
    }
}

/// Building and changing: on the control thread.
impl Tables {
    /// Tables without a row.
    pub fn new(underlay: Underlay) -> Self {
        Self {
            underlay,
            overlays: Arc::default(),
            segments: ShardedMap::new(0),
            vteps: Arc::default(),
            ports: Arc::default(),
            remotes: ShardedMap::new(SHARD_BITS),
            locals: ShardedMap::new(SHARD_BITS),
        }
    }

    /// A copy with these changes made in their order; all of them or, on an error, none.
    pub fn with_changes(&self, changes: &[Change]) -> Result<Self, TableError> {
        let mut tables = self.clone();
        let mut rest = changes;
        while let Some((first, tail)) = rest.split_first() {
            // Runs of rows are applied together: a million of them rebuild each shard once.
            let rows = |change: &&Change| matches!(change, Change::Remote { .. } | Change::Local { .. });
            let run = rest.iter().take_while(rows).count();
            if run == 0 {
                tables.apply(first)?;
                rest = tail;
            } else {
                let (run, tail) = rest.split_at(run);
                tables.apply_rows(run)?;
                rest = tail;
            }
        }
        Ok(tables)
    }

    fn apply_rows(&mut self, changes: &[Change]) -> Result<(), TableError> {
        for change in changes {
            if let Change::Remote { mac, .. } | Change::Local { mac, .. } = change
                && !mac.is_valid_station()
            {
                return Err(TableError::NotAStation { mac: *mac });
            }
        }
        self.remotes.apply(changes.iter().filter_map(|change| match change {
            Change::Remote { overlay, mac, vtep } => Some((mac_key(*overlay, *mac), vtep.map(VtepId::get))),
            _ => None,
        }));
        self.locals.apply(changes.iter().filter_map(|change| match change {
            Change::Local { overlay, mac, port } => {
                Some((mac_key(*overlay, *mac), port.map(|port| u32::from(port.get()))))
            }
            _ => None,
        }));
        Ok(())
    }

    fn apply(&mut self, change: &Change) -> Result<(), TableError> {
        match *change {
            Change::Underlay(underlay) => self.set_underlay(underlay),
            Change::Overlay(id, overlay) => self.set_overlay(id, overlay),
            Change::Vtep(id, _) if id.get() >= VtepId::LIMIT => Err(TableError::TooManyVteps { vtep: id }),
            Change::Vtep(id, vtep) => {
                let row = vtep.map(|vtep| self.vtep_row(vtep)).transpose()?;
                set(&mut self.vteps, id.index(), row);
                Ok(())
            }
            Change::Port(id, port) => {
                set(&mut self.ports, id.index(), port);
                Ok(())
            }
            Change::Remote { .. } | Change::Local { .. } => self.apply_rows(std::slice::from_ref(change)),
        }
    }

    fn vtep_row(&self, vtep: Vtep) -> Result<VtepRow, TableError> {
        if vtep.address.is_ipv4() != self.underlay.local.is_ipv4() {
            return Err(TableError::Family { address: vtep.address, local: self.underlay.local });
        }
        Ok(VtepRow::new(&self.underlay, vtep))
    }

    fn set_underlay(&mut self, underlay: Underlay) -> Result<(), TableError> {
        self.underlay = underlay;
        let rows = self.vteps.iter().map(|row| row.map(|row| self.vtep_row(row.vtep)).transpose());
        self.vteps = Arc::new(rows.collect::<Result<_, _>>()?);
        Ok(())
    }

    fn set_overlay(&mut self, id: OverlayId, overlay: Option<Overlay>) -> Result<(), TableError> {
        if let Some(Overlay { vni, port, .. }) = overlay
            && let Some(owner) = self.segment(vni, port).filter(|owner| *owner != id)
        {
            return Err(TableError::OverlayTaken { vni, port, owner });
        }
        if let Some(old) = self.overlay(id).copied() {
            self.segments.apply([(segment_key(old.vni, old.port), None)]);
        }
        match overlay {
            Some(new) => self.segments.apply([(segment_key(new.vni, new.port), Some(u32::from(id.get())))]),
            None => {
                // Otherwise the next overlay with this index would inherit them.
                let others = |key: u64| key >> 48 != u64::from(id.get());
                self.remotes.retain(others);
                self.locals.retain(others);
            }
        }
        set(&mut self.overlays, id.index(), overlay);
        Ok(())
    }
}

/// Looking up.
impl Tables {
    /// Our own end of every tunnel.
    pub fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// The overlay with this index.
    pub fn overlay(&self, id: OverlayId) -> Option<&Overlay> {
        self.overlays.get(id.index())?.as_ref()
    }

    /// The overlay with this VNI on this UDP port.
    #[inline]
    pub fn segment(&self, vni: Vni, port: u16) -> Option<OverlayId> {
        self.segments.get(segment_key(vni, port)).map(|found| OverlayId::new(found.value as u16))
    }

    /// The VTEP with this index.
    pub fn vtep(&self, id: VtepId) -> Option<&Vtep> {
        self.vtep_with_template(id).map(|row| &row.vtep)
    }

    pub(crate) fn vtep_with_template(&self, id: VtepId) -> Option<&VtepRow> {
        self.vteps.get(id.index())?.as_ref()
    }

    /// The port with this index.
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())?.as_ref()
    }

    /// The VTEP behind which a MAC is.
    #[inline]
    pub fn remote(&self, overlay: OverlayId, mac: MacAddr) -> Option<VtepId> {
        self.remotes.get(mac_key(overlay, mac)).map(|found| VtepId::new(found.value))
    }

    /// Whether there are so many remote rows that [`Tables::touch`] pays.
    pub fn is_large(&self) -> bool {
        self.remotes.len() > LARGE
    }

    /// Reads the place of a remote row, to have its cache line on the way before [`Tables::remote`] needs it.
    /// The number read means nothing; give it to [`std::hint::black_box`], or the compiler leaves the read out.
    #[inline]
    pub fn touch(&self, overlay: OverlayId, mac: MacAddr) -> u64 {
        self.remotes.touch(mac_key(overlay, mac))
    }

    /// The port behind which a MAC is.
    #[inline]
    pub fn local(&self, overlay: OverlayId, mac: MacAddr) -> Option<PortId> {
        self.locals.get(mac_key(overlay, mac)).map(|found| PortId::new(found.value as u16))
    }

    /// Whether any VTEP has this address: a walk over all of them, for naming a drop.
    pub(crate) fn knows_vtep(&self, address: u128) -> bool {
        self.vteps.iter().flatten().any(|row| row.number == address)
    }

    /// Whether any overlay uses this UDP port: a walk over all of them, for naming a drop.
    pub(crate) fn has_udp_port(&self, port: u16) -> bool {
        self.overlays.iter().flatten().any(|overlay| overlay.port == port)
    }

    /// Every VTEP.
    pub fn vteps(&self) -> impl Iterator<Item = (VtepId, &Vtep)> {
        let rows = self.vteps.iter().enumerate();
        rows.filter_map(|(index, row)| Some((VtepId::new(index as u32), &row.as_ref()?.vtep)))
    }

    /// Every MAC behind a VTEP, in no order.
    pub fn remotes(&self) -> impl Iterator<Item = MacRow<VtepId>> {
        self.remotes.iter().map(|(key, found)| mac_row(key, VtepId::new(found.value), found))
    }

    /// Every MAC behind a port of ours, in no order.
    pub fn locals(&self) -> impl Iterator<Item = MacRow<PortId>> {
        self.locals.iter().map(|(key, found)| mac_row(key, PortId::new(found.value as u16), found))
    }

    /// Number of MACs behind VTEPs.
    pub fn remote_count(&self) -> usize {
        self.remotes.len()
    }
}

#[cfg(test)]
mod tests;
