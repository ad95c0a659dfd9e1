//! What clients of the API ask for.

use std::collections::HashSet;
use std::time::Duration;

use vxdp_dataplane::wire::{MacAddr, Vni};

use super::remembered::{Note, rows_of};
use super::say::Say;
use super::{Change, Client, Ending, SeenRow, State, status};
use crate::api::status::{Fdb, Origin, RowStatus};
use crate::api::{Answer, Kind, Request, Station};
use crate::capture::Wanted;
use crate::config::{Install, Overlay};
use crate::kernel::desired::Row;
use crate::segment::Segment;

/// Rows that one answer carries; a screen shows fewer, and a million would not fit in memory as JSON.
const ROWS_SHOWN: usize = 10_000;

/// What a client's write changed in the state, to be taken back if the kernel refuses it.
#[derive(Debug)]
pub(super) enum Undo {
    /// `fdb add` of this one, in place of that one.
    Add(Segment, Box<Station>, Option<Box<Station>>),
    /// Nothing to take back: what is deleted stays unwanted.
    Nothing(Segment, String),
}

/// Why a request is not carried out.
type Refusal = String;

pub(super) fn ask(
    state: &mut State,
    now: Duration,
    client: Client,
    request: Request,
    changes: &mut Vec<Change>,
) {
    let outcome = match request {
        Request::Status => {
            changes.push(Change::Status(client, Box::new(status::status(state, now))));
            Ok(())
        }
        Request::Mode { vni, mode, engine } => {
            changes.push(Change::Mode(client, vni, mode, engine));
            Ok(())
        }
        Request::Capture(wanted) => capture(state, client, wanted, changes),
        Request::FdbShow { vni, macs } => show(state, client, vni, macs, changes),
        Request::FdbAdd(station) => add(state, now, client, station, changes),
        Request::FdbDel { vni, port, mac } => delete(state, client, vni, port, mac, changes),
        Request::Down => {
            state.stopping = true;
            changes.extend([Change::Log(Say::Removing), Change::Stop(Ending::Removing(client))]);
            Ok(())
        }
        Request::HandOver => {
            state.stopping = true;
            changes.extend([Change::Log(Say::HandingOver), Change::Stop(Ending::HandingOver(client))]);
            Ok(())
        }
    };
    if let Err(message) = outcome {
        changes.push(Change::Reply(client, Answer::refuse(Kind::Refused, message)));
    }
}

/// Finds the overlay that a client means.
fn overlay(state: &State, vni: u32, port: Option<u16>) -> Result<&Overlay, Refusal> {
    let number = Vni::new(vni).map_err(|error| error.to_string())?;
    let matches = |overlay: &&Overlay| overlay.vni == number && port.is_none_or(|port| port == overlay.port);
    let mut found = state.config.overlays.iter().filter(matches);
    match (found.next(), found.next()) {
        (Some(overlay), None) => Ok(overlay),
        (Some(_), Some(_)) => Err(format!("VNI {vni} is used on several UDP ports; say which with --port")),
        (None, _) => {
            let mut known: Vec<_> = state.config.overlays.iter().map(|o| o.vni.to_string()).collect();
            known.dedup();
            Err(format!("no overlay has VNI {vni}; configured: {}", known.join(", ")))
        }
    }
}

fn capture(state: &State, client: Client, wanted: Wanted, changes: &mut Vec<Change>) -> Result<(), Refusal> {
    let known = |vni: u32| state.config.overlays.iter().any(|overlay| overlay.vni.get() == vni);
    if let Some(vni) = wanted.vni.filter(|vni| !known(*vni)) {
        overlay(state, vni, None)?;
    }
    changes.push(Change::Capture(client, wanted));
    Ok(())
}

fn show(
    state: &State,
    client: Client,
    vni: Option<u32>,
    macs: Vec<MacAddr>,
    changes: &mut Vec<Change>,
) -> Result<(), Refusal> {
    let wanted = |overlay: &&Overlay| vni.is_none_or(|vni| overlay.vni.get() == vni);
    let segments: Vec<_> = state.config.overlays.iter().filter(wanted).map(Segment::of).collect();
    if let (Some(vni), true) = (vni, segments.is_empty()) {
        overlay(state, vni, None)?;
    }
    changes.push(Change::Show(client, segments, macs));
    Ok(())
}

fn add(
    state: &mut State,
    now: Duration,
    client: Client,
    mut station: Station,
    changes: &mut Vec<Change>,
) -> Result<(), Refusal> {
    let overlay = overlay(state, station.vni, station.port)?;
    check(state, overlay, &station)?;
    let segment = Segment::of(overlay);
    station.port = Some(segment.port);
    let rows = rows_of(&station);
    let replaced = state.remembered.add(segment, station.clone());
    if replaced.is_some() {
        // Its rows that the new one has not are taken away by the next pass.
        state.schedule.hurry(now);
    }
    changes.push(Change::Write(client, segment, rows));
    state.writing.insert(client, Undo::Add(segment, Box::new(station), replaced.map(Box::new)));
    Ok(())
}

/// The checks that the configuration makes of a remote.
fn check(state: &State, overlay: &Overlay, station: &Station) -> Result<(), Refusal> {
    let (mac, vtep, local) = (station.mac, station.vtep, state.config.underlay.local);
    if !mac.is_valid_station() {
        return Err(format!("{mac} is not the MAC of a container: it is zero or a group address"));
    }
    if vtep.is_unspecified() || vtep.is_multicast() {
        return Err(format!("{vtep} is not the address of a host"));
    }
    if vtep == local {
        return Err(format!(
            "VTEP {vtep} is this host; a container here is configured as [[overlay.container]]"
        ));
    }
    if vtep.is_ipv4() != local.is_ipv4() {
        return Err(format!("VTEP {vtep} and the underlay's address {local} are of different families"));
    }
    if overlay.containers.iter().any(|container| container.mac == mac) {
        return Err(format!("{mac} is a container of this host"));
    }
    if overlay.remotes.iter().any(|remote| remote.mac == mac) {
        return Err(format!("{mac} comes from the configuration file; change it there and reload (SIGHUP)"));
    }
    for address in &station.addresses {
        let own = overlay.gateway.iter().chain(overlay.containers.iter().flat_map(|c| &c.addresses));
        let configured = overlay.remotes.iter().flat_map(|remote| &remote.addresses);
        if own.map(|net| net.addr()).chain(configured.copied()).any(|other| other == *address) {
            return Err(format!("{address} belongs to somebody else in the configuration file"));
        }
    }
    Ok(())
}

fn delete(
    state: &mut State,
    client: Client,
    vni: u32,
    port: Option<u16>,
    mac: MacAddr,
    changes: &mut Vec<Change>,
) -> Result<(), Refusal> {
    let overlay = overlay(state, vni, port)?;
    let segment = Segment::of(overlay);
    if overlay.remotes.iter().any(|remote| remote.mac == mac && remote.install == Install::Static) {
        return Err(format!("{mac} comes from the configuration file; remove it there and reload (SIGHUP)"));
    }
    let change = if let Some(station) = state.remembered.delete(segment, mac) {
        changes.push(Change::Note(Note::Del { vni: segment.vni.get(), port: segment.port, mac }));
        Change::Remove(client, segment, rows_of(&station))
    } else {
        match state.remembered.uninstall(segment, mac) {
            rows if rows.is_empty() => Change::Forget(client, segment, mac),
            rows => Change::Remove(client, segment, rows),
        }
    };
    changes.push(change);
    state.writing.insert(client, Undo::Nothing(segment, format!("deleted {mac}")));
    Ok(())
}

pub(super) fn shown(
    state: &State,
    client: Client,
    result: Result<Vec<SeenRow>, String>,
    changes: &mut Vec<Change>,
) {
    let reply = match result {
        Ok(seen) => {
            let fixed: HashSet<(Segment, Row)> = state.config.overlays.iter().flat_map(static_rows).collect();
            let mut rows: Vec<RowStatus> =
                seen.into_iter().map(|(row, wanted)| with_origin(state, &fixed, row, wanted)).collect();
            rows.sort();
            let more = rows.len().saturating_sub(ROWS_SHOWN);
            rows.truncate(ROWS_SHOWN);
            Answer::with(&Fdb { rows, more })
        }
        Err(error) => Answer::refuse(Kind::Failed, error),
    };
    changes.push(Change::Reply(client, reply));
}

/// The rows that the configuration wants from the start.
fn static_rows(overlay: &Overlay) -> impl Iterator<Item = (Segment, Row)> + '_ {
    let segment = Segment::of(overlay);
    let remotes = overlay.remotes.iter().filter(|remote| remote.install == Install::Static);
    let flood = overlay.flood.iter().map(|vtep| Row::Flood { vtep: *vtep });
    remotes.flat_map(Row::of_remote).chain(flood).map(move |row| (segment, row))
}

/// What the tables cannot tell: which of the rows that do not age are ours, and why.
fn with_origin(
    state: &State,
    fixed: &HashSet<(Segment, Row)>,
    mut row: RowStatus,
    wanted: Option<Row>,
) -> RowStatus {
    let segment = Vni::new(row.vni).ok().map(|vni| Segment { vni, port: row.udp_port });
    if let (Origin::Foreign, Some(segment), Some(wanted)) = (row.origin, segment, wanted) {
        if fixed.contains(&(segment, wanted)) {
            row.origin = Origin::Static;
        } else if state.remembered.is_added(segment, &wanted) {
            row.origin = Origin::Added;
        } else if state.remembered.is_installed(segment, &wanted) {
            row.origin = Origin::OnMiss;
        }
    }
    row
}

pub(super) fn written(
    state: &mut State,
    now: Duration,
    client: Client,
    result: Result<(), String>,
    changes: &mut Vec<Change>,
) {
    let Some(undo) = state.writing.remove(&client) else { return };
    match (undo, result) {
        (Undo::Add(segment, station, _), Ok(())) => {
            let what = format!("added {} behind {}", station.mac, station.vtep);
            changes.push(Change::Note(Note::Add(*station)));
            changes.push(Change::Log(Say::Fdb { segment, what }));
        }
        (Undo::Nothing(segment, what), Ok(())) => changes.push(Change::Log(Say::Fdb { segment, what })),
        (Undo::Add(segment, station, replaced), Err(error)) => {
            state.remembered.delete(segment, station.mac);
            if let Some(replaced) = replaced {
                state.remembered.add(segment, *replaced);
            }
            // Some of its rows may stand.
            state.schedule.hurry(now);
            state.troubles.add(now, &error);
            changes.push(Change::Reply(client, Answer::refuse(Kind::Failed, error)));
            return;
        }
        (Undo::Nothing(..), Err(error)) => {
            changes.push(Change::Reply(client, Answer::refuse(Kind::Failed, error)));
            return;
        }
    }
    changes.push(Change::Reply(client, Answer::done()));
}
