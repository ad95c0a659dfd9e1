//! The way of a batch of frames: judged and looked up first, then written.

mod decap;
pub mod ecn;
mod encap;
pub mod entropy;
mod tunnel;
pub mod unfinished;

pub use tunnel::Tunnel;

use decap::Admitted;

use crate::stats::Flow;
use crate::table::{OverlayId, Tables, View, VtepId, second_of};
use crate::wire::{EthHeader, UdpHeader, VxlanHeader};
use crate::{BATCH, DropReason, Ingress, Local, Nanos, PortId, Slot, Verdict};

/// What is to be done with a frame.
#[derive(Clone, Copy)]
enum Plan {
    Encap(Departure),
    Decap(Admitted),
    Drop(DropReason),
}

/// A container's frame that has a VTEP to go to.
#[derive(Clone, Copy)]
struct Departure {
    overlay: OverlayId,
    vtep: VtepId,
    port: PortId,
}

/// Gives every frame of a batch its verdict, and its bytes the form in which they leave.
///
/// `now` is the time of the batch. Nothing is allocated, and no content of a frame makes it panic.
/// Drops are counted here.
pub fn process(now: Nanos, batch: &mut [Slot<'_>], tables: &Tables, local: &mut Local) {
    let mut view = View::new(tables, second_of(now));
    for batch in batch.chunks_mut(BATCH) {
        if tables.is_large() {
            std::hint::black_box(batch.iter().fold(0, |read, slot| read ^ fetch_ahead(slot, &mut view)));
        }
        let mut plans = [Plan::Drop(DropReason::NotSpecified); BATCH];
        // All lookups before the first write: they do not depend on each other, so the processor waits for
        // several of the cache lines at once.
        for (slot, plan) in batch.iter().zip(&mut plans) {
            *plan = plan_for(slot, &mut view);
        }
        let mut tally = Tally::new(local);
        for (slot, plan) in batch.iter_mut().zip(&plans) {
            slot.verdict = match plan {
                Plan::Decap(admitted) => arrive(slot.data, admitted, &view, &mut tally),
                Plan::Encap(departure) => leave(slot.data, departure, &view, &mut tally),
                Plan::Drop(reason) => Err(*reason),
            }
            .unwrap_or_else(|reason| tally.dropped(reason));
        }
        tally.flush();
    }
}

/// Touches the remote row that a frame will need, judging by bytes that nobody has checked yet: a frame that
/// lies touches a row in vain. The result means nothing.
#[inline]
fn fetch_ahead(slot: &Slot<'_>, view: &mut View<'_>) -> u64 {
    let room = view.family.encap_room();
    let mut touch = || match slot.ingress {
        Ingress::Port(port) => {
            let (eth, _) = EthHeader::parse(slot.data.get(room..)?)?;
            Some(view.tables.touch(view.port(port)?.overlay, eth.destination()))
        }
        Ingress::Underlay => {
            let headers = slot.data.get(room - UdpHeader::LEN - VxlanHeader::LEN..)?;
            let (udp, payload) = UdpHeader::parse(headers)?;
            let (vxlan, frame) = VxlanHeader::parse(payload)?;
            let (eth, _) = EthHeader::parse(frame)?;
            Some(view.tables.touch(view.segment(vxlan.vni(), udp.destination_port())?, eth.source()))
        }
    };
    touch().unwrap_or(0)
}

/// One step from the judgement to the plan: taking it apart and together again costs more than the judgement.
#[inline(always)]
fn plan_for(slot: &Slot<'_>, view: &mut View<'_>) -> Plan {
    match slot.ingress {
        Ingress::Underlay => match decap::admit(slot.data, view) {
            Ok(admitted) => Plan::Decap(admitted),
            Err(reason) => Plan::Drop(reason),
        },
        Ingress::Port(port) => match depart(slot.data, port, view) {
            Ok(departure) => Plan::Encap(departure),
            Err(reason) => Plan::Drop(reason),
        },
    }
}

#[inline(always)]
fn depart(data: &[u8], port: PortId, view: &mut View<'_>) -> Result<Departure, DropReason> {
    let overlay = view.port(port).ok_or(DropReason::UnknownPort)?.overlay;
    let frame = data.get(view.family.encap_room()..);
    let (eth, _) = frame.and_then(EthHeader::parse).ok_or(DropReason::NoHeadroom)?;
    let vtep = view.remote(overlay, eth.destination()).ok_or(DropReason::VxlanNoRemote)?;
    view.local_sender(overlay, eth.source(), port);
    Ok(Departure { overlay, vtep, port })
}

#[inline]
fn leave(
    data: &mut [u8],
    departure: &Departure,
    view: &View<'_>,
    tally: &mut Tally<'_>,
) -> Result<Verdict, DropReason> {
    let overlay = view.overlay(departure.overlay).ok_or(DropReason::VxlanVniNotFound)?;
    let row = view.vtep(departure.vtep).ok_or(DropReason::UnknownVtep)?;
    let template = row.template.as_ref().ok_or(DropReason::NeighFailed)?;
    encap::encap(data, view.family, overlay, template, tally.next_ident())?;
    let bytes = data.len() - view.family.encap_room();
    tally.count(Way::Encap, departure.vtep, departure.port, bytes);
    Ok(Verdict::ToUnderlay { len: data.len() })
}

#[inline]
fn arrive(
    data: &mut [u8],
    admitted: &Admitted,
    view: &View<'_>,
    tally: &mut Tally<'_>,
) -> Result<Verdict, DropReason> {
    let len = decap::strip(data, admitted, view)?;
    tally.count(Way::Decap, admitted.vtep, admitted.port, len);
    Ok(Verdict::ToPort { port: admitted.port, len })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Encap,
    Decap,
}

/// Sums up neighbouring frames of one VTEP and port before they are added to the counters: batches are mostly
/// runs of the same.
struct Tally<'a> {
    local: &'a mut Local,
    run: Option<(Way, VtepId, PortId)>,
    flow: Flow,
}

impl<'a> Tally<'a> {
    fn new(local: &'a mut Local) -> Self {
        Self { local, run: None, flow: Flow::default() }
    }

    #[inline]
    fn count(&mut self, way: Way, vtep: VtepId, port: PortId, bytes: usize) {
        if self.run != Some((way, vtep, port)) {
            self.flush();
            self.run = Some((way, vtep, port));
        }
        self.flow.count(bytes);
    }

    fn flush(&mut self) {
        let flow = std::mem::take(&mut self.flow);
        match self.run.take() {
            Some((Way::Encap, vtep, port)) => self.local.count_encap(vtep, port, flow),
            Some((Way::Decap, vtep, port)) => self.local.count_decap(vtep, port, flow),
            None => {}
        }
    }

    #[cold]
    fn dropped(&mut self, reason: DropReason) -> Verdict {
        self.local.count_drops(reason, 1);
        Verdict::Drop(reason)
    }

    /// The next IPv4 identification: unlike zero, it lets a packet without DF be fragmented on the way
    /// (RFC 6864, section 4.2), as the kernel's tunnels do (`iptunnel_xmit`).
    fn next_ident(&mut self) -> u16 {
        self.local.ident = self.local.ident.wrapping_add(1);
        self.local.ident
    }
}

#[cfg(test)]
mod tests;
