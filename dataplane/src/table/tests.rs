//! Tests of the tables: changes, refusals, a million rows, publishing.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn underlay() -> Underlay {
    Underlay { local: IpAddr::from([192, 168, 10, 21]), mac: MacAddr::new([2, 0, 0, 0, 0, 1]) }
}

fn vni(number: u32) -> Vni {
    Vni::new(number).expect("small enough")
}

fn overlay(number: u32) -> Overlay {
    Overlay { vni: vni(number), port: 4789, policy: Policy::default() }
}

fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr::new([0x02, 0x42, a, b, c, d])
}

fn remote(number: u32, vtep: u32) -> Change {
    Change::Remote { overlay: OverlayId::new(0), mac: mac(number), vtep: Some(VtepId::new(vtep)) }
}

fn vtep(last: u8) -> Vtep {
    let next_hop = Some(NextHop { mac: MacAddr::new([2, 0, 0, 0, 0, last]), mtu: 1500, hop_limit: 64 });
    Vtep { address: IpAddr::from([192, 168, 10, last]), next_hop }
}

#[test]
fn a_million_rows_load_and_one_change_leaves_the_others() {
    let rows: Vec<_> = (0..1_000_000).map(|number| remote(number, number % 1000)).collect();
    let tables = Tables::new(underlay()).with_changes(&rows).expect("valid");
    assert_eq!(tables.remote_count(), 1_000_000);
    let changed = tables.with_changes(&[remote(77, 5)]).expect("valid");
    for number in (0..1_000_000).step_by(997).chain([77]) {
        let found = |tables: &Tables| tables.remote(OverlayId::new(0), mac(number)).map(VtepId::get);
        assert_eq!(found(&tables), Some(number % 1000));
        assert_eq!(found(&changed), Some(if number == 77 { 5 } else { number % 1000 }));
    }
    assert_eq!(changed.remote(OverlayId::new(0), mac(1_000_000)), None);
    assert_eq!(changed.remote(OverlayId::new(1), mac(77)), None);
}

#[test]
fn rows_of_an_overlay_that_goes_go_with_it() {
    let (first, second) = (OverlayId::new(0), OverlayId::new(1));
    let tables = Tables::new(underlay())
        .with_changes(&[
            Change::Overlay(first, Some(overlay(1))),
            Change::Overlay(second, Some(overlay(2))),
            remote(1, 0),
            Change::Remote { overlay: second, mac: mac(1), vtep: Some(VtepId::new(0)) },
            Change::Local { overlay: first, mac: mac(2), port: Some(PortId::new(0)) },
            Change::Overlay(first, None),
        ])
        .expect("valid");
    assert_eq!(tables.remotes().map(|row| row.overlay).collect::<Vec<_>>(), [second]);
    assert_eq!(tables.locals().count(), 0);
    assert_eq!(tables.segment(vni(1), 4789), None);
    assert_eq!(tables.segment(vni(2), 4789), Some(second));
}

#[test]
fn an_overlay_that_changes_its_vni_leaves_the_old_one() {
    let id = OverlayId::new(0);
    let tables = Tables::new(underlay())
        .with_changes(&[Change::Overlay(id, Some(overlay(1))), Change::Overlay(id, Some(overlay(2)))])
        .expect("valid");
    assert_eq!((tables.segment(vni(1), 4789), tables.segment(vni(2), 4789)), (None, Some(id)));
}

#[test]
fn two_overlays_with_one_vni_and_port_are_refused() {
    let tables = Tables::new(underlay())
        .with_changes(&[Change::Overlay(OverlayId::new(0), Some(overlay(1)))])
        .expect("valid");
    let other_port = Overlay { port: 4790, ..overlay(1) };
    assert!(tables.with_changes(&[Change::Overlay(OverlayId::new(1), Some(other_port))]).is_ok());
    let twin = tables.with_changes(&[Change::Overlay(OverlayId::new(1), Some(overlay(1)))]);
    let owner = OverlayId::new(0);
    assert_eq!(twin.err(), Some(TableError::OverlayTaken { vni: vni(1), port: 4789, owner }));
}

#[test]
fn a_vtep_of_the_other_family_and_one_beyond_the_limit_are_refused() {
    let tables = Tables::new(underlay());
    let address = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
    let other = tables.with_changes(&[Change::Vtep(VtepId::new(0), Some(Vtep { address, next_hop: None }))]);
    assert_eq!(other.err(), Some(TableError::Family { address, local: underlay().local }));
    let far = VtepId::new(VtepId::LIMIT);
    let beyond = tables.with_changes(&[Change::Vtep(far, Some(vtep(2)))]);
    assert_eq!(beyond.err(), Some(TableError::TooManyVteps { vtep: far }));
}

#[test]
fn rows_for_group_addresses_and_zero_are_refused() {
    for mac in [MacAddr::BROADCAST, MacAddr::ZERO, MacAddr::new([1, 0, 0x5e, 0, 0, 1])] {
        let overlay = OverlayId::new(0);
        let remote = Change::Remote { overlay, mac, vtep: Some(VtepId::new(0)) };
        let local = Change::Local { overlay, mac, port: Some(PortId::new(0)) };
        for change in [remote, local] {
            let refused = Tables::new(underlay()).with_changes(&[change]);
            assert_eq!(refused.err(), Some(TableError::NotAStation { mac }));
        }
    }
}

#[test]
fn a_new_address_of_ours_reaches_every_template() {
    let moved = Underlay { mac: MacAddr::new([2, 0, 0, 0, 0, 0x99]), ..underlay() };
    let tables = Tables::new(underlay())
        .with_changes(&[Change::Vtep(VtepId::new(3), Some(vtep(3))), Change::Underlay(moved)])
        .expect("valid");
    let row = tables.vtep_with_template(VtepId::new(3)).expect("was added");
    let head: &[u8; 14] = row.template.as_ref().and_then(Template::head).expect("resolved");
    assert_eq!(head[6..12], moved.mac.octets());
}

#[test]
fn old_tables_are_freed_by_the_publisher_once_no_worker_uses_them() {
    let mut publisher = Publisher::new(Tables::new(underlay()));
    let reader = publisher.reader();
    let old: Weak<Tables> = Arc::downgrade(&publisher.tables());
    let loaded = reader.load();
    publisher.change(&[remote(1, 0)]).expect("valid");
    assert_eq!(publisher.free_retired(), 1, "the worker has them");
    assert_eq!(loaded.remote_count(), 0);
    drop(loaded);
    assert!(old.upgrade().is_some(), "the worker did not free them");
    assert_eq!(publisher.free_retired(), 0);
    assert!(old.upgrade().is_none());
    assert_eq!(reader.load().remote_count(), 1);
}

#[test]
fn a_refused_change_publishes_nothing() {
    let mut publisher = Publisher::new(Tables::new(underlay()));
    let bad = Change::Remote { overlay: OverlayId::new(0), mac: MacAddr::ZERO, vtep: None };
    assert!(publisher.change(&[remote(1, 0), bad]).is_err());
    assert_eq!(publisher.tables().remote_count(), 0);
}

#[test]
fn readers_see_each_change_whole_while_it_is_published() {
    // Each snapshot has the same VTEP in all of ten rows.
    let changes = |vtep| (0..10).map(|number| remote(number, vtep)).collect::<Vec<_>>();
    let mut publisher = Publisher::new(Tables::new(underlay()).with_changes(&changes(0)).expect("valid"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (reader, done) = (publisher.reader(), &done);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let tables = reader.load();
                    let found: Vec<_> =
                        (0..10).filter_map(|n| tables.remote(OverlayId::new(0), mac(n))).collect();
                    assert_eq!(found.len(), 10);
                    assert!(found.iter().all(|vtep| *vtep == found[0]), "torn: {found:?}");
                    assert!(found[0].get() >= last, "went back");
                    last = found[0].get();
                }
            });
        }
        for round in 1..2000 {
            publisher.change(&changes(round)).expect("valid");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(publisher.free_retired(), 0);
}
