//! What the table shows: one view of the daemon's figures, sorted.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::rates::{Carrier, Flows, Rates, Reason, Sample};
use crate::api::status::Status;
use crate::engine::{Carried, DeviceReport};

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Vteps,
    Ports,
    Overlays,
    Reasons,
}

impl View {
    pub(super) const ALL: [Self; 4] = [Self::Vteps, Self::Ports, Self::Overlays, Self::Reasons];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Vteps => "VTEPs",
            Self::Ports => "ports",
            Self::Overlays => "overlays",
            Self::Reasons => "reasons",
        }
    }

    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Vteps => VTEPS,
            Self::Ports => PORTS,
            Self::Overlays => OVERLAYS,
            Self::Reasons => REASONS,
        }
    }

    /// The busiest first.
    pub(super) fn first_order(self) -> Order {
        let column = self.columns().iter().position(|column| column.figure).unwrap_or_default();
        Order { column, reversed: false }
    }

    /// Why the table is empty.
    const fn without_rows(self) -> &'static str {
        match self {
            Self::Vteps => "no VTEP is configured or known",
            Self::Ports => "no containers",
            Self::Overlays => "nothing is known of what paths have carried",
            Self::Reasons => "no frame was dropped, lost, or passed to the kernel by the fast path",
        }
    }
}

/// A column of a view.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Its width; without one it takes what is left.
    pub(super) width: Option<u16>,
    /// Whether it holds figures: to the right, and the largest first.
    pub(super) figure: bool,
}

const fn text(title: &'static str, width: u16) -> Column {
    Column { title, width: Some(width), figure: false }
}

const fn wide(title: &'static str) -> Column {
    Column { title, width: None, figure: false }
}

const fn figure(title: &'static str, width: u16) -> Column {
    Column { title, width: Some(width), figure: true }
}

const ENCAP: Column = figure("ENCAP/S", 8);
const DECAP: Column = figure("DECAP/S", 8);
const BITS: Column = figure("BIT/S", 6);
const TOTAL: Column = figure("TOTAL", 6);

const VTEPS: &[Column] = &[wide("VTEP"), text("NEXT HOP", 10), ENCAP, BITS, DECAP, BITS, TOTAL];
const PORTS: &[Column] =
    &[wide("DEVICE"), text("VNI", 8), text("PATH", 8), ENCAP, BITS, DECAP, BITS, figure("PASSED/S", 9)];
const OVERLAYS: &[Column] = &[text("VNI", 8), text("PORT", 6), wide("PATH"), ENCAP, BITS, DECAP, BITS, TOTAL];
const REASONS: &[Column] =
    &[text("FATE", 8), text("WHERE", 15), text("VNI", 8), wide("REASON"), figure("PER S", 7), TOTAL];

/// By which column, and whether the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) column: usize,
    pub(super) reversed: bool,
}

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Text(String),
    Address(IpAddr),
    Number(Option<u64>),
    /// Per second, where it is known.
    Rate(Option<f64>),
}

impl Cell {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Address(one), Self::Address(other)) => one.cmp(other),
            (Self::Number(one), Self::Number(other)) => one.cmp(other),
            (Self::Rate(one), Self::Rate(other)) => one.unwrap_or(-1.0).total_cmp(&other.unwrap_or(-1.0)),
            _ => Ordering::Equal,
        }
    }
}

/// The rows of a view.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    pub(super) rows: Vec<Vec<Cell>>,
    /// What stands in the place of rows when there are none.
    pub(super) note: &'static str,
}

impl Sheet {
    /// The rows of `view`, in this order; rows that are equal in it stay in the order of their names.
    pub(super) fn of(view: View, status: &Status, sample: &Sample, rates: &Rates, order: Order) -> Self {
        let mut rows = match view {
            View::Vteps => vteps(status, rates),
            View::Ports => ports(status, rates),
            View::Overlays => overlays(status, rates),
            View::Reasons => reasons(sample, rates),
        };
        rows.sort_by(|one, other| one.iter().map(Key).cmp(other.iter().map(Key)));
        let largest_first = view.columns().get(order.column).is_some_and(|column| column.figure);
        rows.sort_by(|one, other| {
            let found = one.get(order.column).zip(other.get(order.column));
            let ordering = found.map_or(Ordering::Equal, |(one, other)| one.compare(other));
            if largest_first != order.reversed { ordering.reverse() } else { ordering }
        });
        Self { rows, note: view.without_rows() }
    }
}

/// A cell as a key of the order by names.
struct Key<'a>(&'a Cell);

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.compare(other.0)
    }
}

fn flow_cells(flows: Option<&Flows>) -> [Cell; 4] {
    let cell = |figure: fn(&Flows) -> f64| Cell::Rate(flows.map(figure));
    [
        cell(|flows| flows.encap.frames),
        cell(|flows| flows.encap.bits),
        cell(|flows| flows.decap.frames),
        cell(|flows| flows.decap.bits),
    ]
}

fn total(carried: &Carried) -> Cell {
    Cell::Number(Some(carried.encap.frames.saturating_add(carried.decap.frames)))
}

/// Those that an engine reports, and those on the kernel's path, which does not count by VTEP.
fn vteps(status: &Status, rates: &Rates) -> Vec<Vec<Cell>> {
    let of_kernel = status.vteps.iter().map(|vtep| {
        let mut row = vec![Cell::Address(vtep.address), Cell::Text(vtep.state().to_owned())];
        row.extend(flow_cells(None));
        row.push(Cell::Number(None));
        row
    });
    let peers = status.modes.engine.iter().flat_map(|engine| &engine.peers);
    let row = |vtep: &crate::engine::VtepReport| {
        let hop = if vtep.next_hop.is_some() { "resolved" } else { "unresolved" };
        let mut row = vec![Cell::Address(vtep.address), Cell::Text(hop.to_owned())];
        row.extend(flow_cells(rates.carried.get(&Carrier::Vtep(vtep.address))));
        row.push(total(&vtep.carried));
        row
    };
    peers.map(row).chain(of_kernel).collect()
}

/// A device, with the VNI of its overlay.
type Device<'a> = (&'a str, Option<u32>);

/// The path of its frames, and what the fast path says of it.
type Path<'a> = (&'a str, Option<&'a DeviceReport>);

/// Containers of every mode, and whatever else the fast path has a program on.
fn ports(status: &Status, rates: &Rates) -> Vec<Vec<Cell>> {
    let mut ports: BTreeMap<Device<'_>, Path<'_>> = BTreeMap::new();
    for overlay in &status.overlays {
        for container in &overlay.containers {
            let path = if container.attached { "kernel" } else { "away" };
            ports.insert((&container.host_interface, Some(overlay.vni)), (path, None));
        }
    }
    for device in status.modes.engine.iter().flat_map(|engine| &engine.devices) {
        let port = ports.entry((&device.device, device.vni)).or_insert(("kernel", None));
        if let Some(regime) = &device.regime {
            *port = (regime, Some(device));
        }
    }
    let row = |((device, vni), (path, report)): (&Device<'_>, &Path<'_>)| {
        let flows = vni.and_then(|vni| rates.carried.get(&Carrier::Port((*device).to_owned(), vni)));
        let mut row = vec![Cell::Text((*device).to_owned()), Cell::Number(vni.map(u64::from))];
        row.push(Cell::Text((*path).to_owned()));
        row.extend(flow_cells(flows));
        row.push(Cell::Rate(report.map(|_| rates.passed(device, *vni))));
        row
    };
    ports.iter().map(row).collect()
}

fn overlays(status: &Status, rates: &Rates) -> Vec<Vec<Cell>> {
    let paths =
        status.overlays.iter().flat_map(|overlay| overlay.paths.iter().map(move |path| (overlay, path)));
    let row = |(overlay, path): (&crate::api::status::OverlayStatus, &crate::api::status::PathStatus)| {
        let mut row = vec![Cell::Number(Some(overlay.vni.into())), Cell::Number(Some(overlay.port.into()))];
        row.push(Cell::Text(path.path.clone()));
        let carrier = Carrier::Path(overlay.vni, overlay.port, path.path.clone());
        row.extend(flow_cells(rates.carried.get(&carrier)));
        row.push(total(&path.carried));
        row
    };
    paths.map(row).collect()
}

fn reasons(sample: &Sample, rates: &Rates) -> Vec<Vec<Cell>> {
    let row = |(reason, frames): (&Reason, &u64)| {
        let place = reason.device.clone().unwrap_or_else(|| "workers".to_owned());
        vec![
            Cell::Text(reason.fate.as_str().to_owned()),
            Cell::Text(place),
            Cell::Number(reason.vni.map(u64::from)),
            Cell::Text(reason.name.clone()),
            Cell::Rate(rates.reasons.get(reason).copied()),
            Cell::Number(Some(*frames)),
        ]
    };
    sample.reasons.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::api::example::{carried, kernel_vtep, status, vtep};

    fn sheet(view: View, order: Order) -> Sheet {
        let (mut before, mut now) = (status(100), status(200));
        for status in [&mut before, &mut now] {
            let peers = &mut status.modes.engine.as_mut().expect("one").peers;
            peers.push(vtep([192, 168, 10, 9], carried(100)));
            peers.push(vtep([192, 168, 10, 100], carried(7)));
        }
        let start = Instant::now();
        let sample = Sample::of(&now, start + Duration::from_secs(1));
        let rates = sample.since(&Sample::of(&before, start)).expect("comparable");
        Sheet::of(view, &now, &sample, &rates, order)
    }

    fn first_column(sheet: &Sheet) -> Vec<String> {
        sheet.rows.iter().map(|row| format!("{:?}", row[0])).collect()
    }

    fn addresses(last: [u8; 3]) -> Vec<String> {
        last.map(|last| format!("{:?}", Cell::Address([192, 168, 10, last].into()))).to_vec()
    }

    #[test]
    fn the_busiest_come_first_and_equals_by_name() {
        let order = View::Vteps.first_order();
        assert_eq!(first_column(&sheet(View::Vteps, order)), addresses([22, 9, 100]));
        let reversed = Order { reversed: true, ..order };
        assert_eq!(first_column(&sheet(View::Vteps, reversed)), addresses([9, 100, 22]));
    }

    #[test]
    fn addresses_are_sorted_as_numbers_and_totals_by_size() {
        let order = |column| Order { column, reversed: false };
        assert_eq!(first_column(&sheet(View::Vteps, order(0))), addresses([9, 22, 100]));
        assert_eq!(first_column(&sheet(View::Vteps, order(6))), addresses([22, 9, 100]));
    }

    #[test]
    fn each_view_has_a_cell_for_each_column_and_can_be_sorted_by_any() {
        for view in View::ALL {
            for column in 0..view.columns().len() + 1 {
                let sheet = sheet(view, Order { column, reversed: false });
                assert!(!sheet.rows.is_empty(), "{view:?}");
                assert!(sheet.rows.iter().all(|row| row.len() == view.columns().len()), "{view:?}");
            }
        }
    }

    #[test]
    fn containers_and_vteps_are_listed_in_kernel_mode_too_and_without_rates() {
        let mut now = status(200);
        now.modes.engine = None;
        now.vteps = vec![kernel_vtep([192, 168, 10, 22], Some("stale")), kernel_vtep([192, 0, 2, 1], None)];
        let sample = Sample::of(&now, Instant::now());
        let order = View::Ports.first_order();
        let sheet = Sheet::of(View::Ports, &now, &sample, &Rates::default(), order);
        assert_eq!(
            sheet.rows[0][..4],
            [
                Cell::Text("veth2".into()),
                Cell::Number(Some(42)),
                Cell::Text("kernel".into()),
                Cell::Rate(None),
            ]
        );
        let vteps = Sheet::of(View::Vteps, &now, &sample, &Rates::default(), order);
        let shown = |row: &Vec<Cell>| row[..3].to_vec();
        let cells = |last: [u8; 4], state: &str| {
            vec![Cell::Address(last.into()), Cell::Text(state.into()), Cell::Rate(None)]
        };
        let shown: Vec<_> = vteps.rows.iter().map(shown).collect();
        assert_eq!(shown, [cells([192, 0, 2, 1], "not asked"), cells([192, 168, 10, 22], "stale")]);
    }
}
