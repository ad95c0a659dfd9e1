//! The model without a kernel.

use super::*;
use crate::api::status::Status;
use crate::api::{Kind, Refusal, Station};
use crate::config::*;
use crate::model::schedule::{AUDIT, DEBOUNCE};
use vxdp_dataplane::wire::Vni;

const T: Duration = Duration::from_secs(1);

/// The scenario's overlay with another VNI.
pub(crate) fn overlay(vni: u32) -> Overlay {
    let name = |name| IfName::new(name).expect("a name");
    Overlay {
        vni: Vni::new(vni).expect("a VNI"),
        port: 4789,
        netns: NsName::new("overlay").expect("a name"),
        bridge: name("br0"),
        vxlan: name("vxlan1"),
        gateway: vec!["10.0.0.1/24".parse().expect("a prefix")],
        mtu: None,
        learning: true,
        proxy: true,
        l2miss: true,
        l3miss: true,
        ageing: 300,
        ttl: Ttl::Auto,
        tos: Tos::Fixed(0),
        df: Df::Unset,
        udp_checksum: false,
        source_ports: (49152, 65535),
        mode: None,
        engine: None,
        flood: Vec::new(),
        containers: vec![Container {
            attach: Attach::Netns(NsName::new("c1").expect("a name")),
            interface: name("eth1"),
            host_interface: name("veth2"),
            mac: MacAddr::new([2, 0x42, 10, 0, 0, 2]),
            addresses: vec!["10.0.0.2/24".parse().expect("a prefix")],
        }],
        remotes: vec![Remote {
            mac: MacAddr::new([2, 0x42, 10, 0, 0, 3]),
            addresses: vec![IpAddr::from([10, 0, 0, 3])],
            vtep: IpAddr::from([192, 168, 10, 22]),
            install: Install::Static,
        }],
    }
}

/// The scenario's host 1.
pub(crate) fn config() -> Config {
    Config {
        underlay: Underlay {
            device: IfName::new("eth0").expect("a name"),
            local: IpAddr::from([192, 168, 10, 21]),
        },
        dataplane: Dataplane {
            mode: Mode::Kernel,
            engine: Engine::Userspace,
            hook: Hook::Tc,
            workers: 1,
            cpus: Vec::new(),
            attach: XdpAttach::Auto,
            zero_copy: ZeroCopy::Auto,
            poll: Poll::Adaptive,
        },
        control: Control { socket: "/run/vxdp/vxdp.sock".into(), metrics: None },
        overlays: vec![overlay(42)],
    }
}

/// A remote that the configuration does not have.
pub(crate) fn station(number: u8) -> Station {
    Station {
        vni: 42,
        port: Some(4789),
        mac: MacAddr::new([2, 0x42, 10, 0, 0, number]),
        vtep: IpAddr::from([192, 168, 10, 23]),
        addresses: vec![IpAddr::from([10, 0, 0, number])],
    }
}

fn segment() -> Segment {
    Segment::of(&overlay(42))
}

/// A daemon with nothing to do.
fn settled_with(install: Install) -> State {
    let mut config = config();
    config.overlays[0].remotes[0].install = install;
    let mut state = State::new(Arc::new(config), Remembered::default(), Outcome::default());
    assert!(reconciles(&apply(&mut state, DEBOUNCE, Event::Tick)));
    apply(&mut state, DEBOUNCE, Event::Reconciled(Outcome::default()));
    assert_eq!(state.deadline(), Some(DEBOUNCE + AUDIT));
    state
}

fn settled() -> State {
    settled_with(Install::Static)
}

fn reconciles(changes: &[Change]) -> bool {
    changes.iter().any(|change| matches!(change, Change::Reconcile(..)))
}

fn reply(changes: &[Change]) -> &Reply {
    let replies: Vec<_> = changes
        .iter()
        .filter_map(|change| if let Change::Reply(_, reply) = change { Some(reply) } else { None })
        .collect();
    assert_eq!(replies.len(), 1, "{changes:?}");
    replies[0]
}

fn status_of(state: &mut State) -> Status {
    let mut changes = apply(state, T, Event::Asked(Client(99), Request::Status));
    let Some(Change::Status(Client(99), status)) = changes.pop() else { panic!("{changes:?}") };
    *status
}

fn missed_mac() -> Missed {
    Missed::Mac(overlay(42).remotes[0].mac)
}

#[test]
fn a_deleted_link_is_repaired_after_the_debounce() {
    let mut state = settled();
    let noticed = Noticed { links: true, ..Noticed::default() };
    for _ in 0..50 {
        assert!(!reconciles(&apply(&mut state, T, Event::Noticed(noticed.clone()))));
    }
    assert_eq!(state.deadline(), Some(T + DEBOUNCE));
    assert!(reconciles(&apply(&mut state, T + DEBOUNCE, Event::Tick)));
    assert!(!reconciles(&apply(&mut state, T + AUDIT * 2, Event::Tick)));
}

#[test]
fn learning_of_strangers_causes_no_reconciliation() {
    let mut state = settled();
    let deadline = state.deadline();
    for number in 0..100 {
        let macs = vec![MacAddr::new([6, 0, 0, 0, 0, number])];
        apply(&mut state, T, Event::Noticed(Noticed { macs, ..Noticed::default() }));
    }
    assert_eq!(state.deadline(), deadline);
}

#[test]
fn a_change_of_a_configured_row_causes_a_reconciliation() {
    for noticed in [
        Noticed { macs: vec![overlay(42).remotes[0].mac], ..Noticed::default() },
        Noticed { macs: vec![MacAddr::ZERO], ..Noticed::default() },
        Noticed { addresses: overlay(42).remotes[0].addresses.clone(), ..Noticed::default() },
    ] {
        let mut state = settled();
        apply(&mut state, T, Event::Noticed(noticed));
        assert_eq!(state.deadline(), Some(T + DEBOUNCE));
    }
}

#[test]
fn an_overflow_is_counted_and_looks_at_everything() {
    let mut state = settled();
    apply(&mut state, T, Event::Overflowed);
    assert_eq!(state.deadline(), Some(T + DEBOUNCE));
    assert_eq!(status_of(&mut state).reconcile.overflows, 1);
}

#[test]
fn a_failure_is_retried_later_and_shown() {
    let mut state = settled();
    apply(&mut state, T, Event::Noticed(Noticed { links: true, ..Noticed::default() }));
    assert!(reconciles(&apply(&mut state, T + DEBOUNCE, Event::Tick)));
    let outcome = Outcome { error: Some("no such device".to_owned()), ..Outcome::default() };
    apply(&mut state, T + DEBOUNCE, Event::Reconciled(outcome));
    let status = status_of(&mut state);
    assert_eq!((status.reconcile.state.as_str(), status.reconcile.failures), ("failing", 1));
    assert_eq!(status.errors[0].message, "no such device");
    assert_eq!(state.deadline(), Some(T + DEBOUNCE + schedule::FIRST_RETRY));
}

#[test]
fn a_container_that_is_away_is_reported_once_and_shown() {
    let mut state = settled();
    let away = BTreeMap::from([((segment(), "veth2".to_owned()), "no namespace c1".to_owned())]);
    for expected in [1, 0] {
        apply(&mut state, T, Event::PlacesChanged);
        let changes =
            apply(&mut state, T, Event::Reconciled(Outcome { away: away.clone(), ..Outcome::default() }));
        let said = changes.iter().filter(|c| matches!(c, Change::Log(Say::ContainerAway { .. }))).count();
        assert_eq!(said, expected);
    }
    let container = status_of(&mut state).overlays[0].containers[0].clone();
    assert_eq!((container.attached, container.reason.as_deref()), (false, Some("no namespace c1")));
    let changes = apply(&mut state, T, Event::Reconciled(Outcome::default()));
    assert!(changes.iter().any(|c| matches!(c, Change::Log(Say::ContainerBack { .. }))));
}

#[test]
fn a_miss_is_answered_and_the_row_is_wanted_from_then_on() {
    let mut state = settled_with(Install::OnMiss);
    let changes = apply(&mut state, T, Event::Missed(vec![(segment(), missed_mac()); 100]));
    let [Change::Install(_, answers)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(answers.len(), 1);
    assert_eq!(state.remembered.rows()[0].1.len(), 2);
    let installed = Event::Installed { segment: segment(), answers: answers.clone(), error: None };
    apply(&mut state, T, installed);
    let misses = status_of(&mut state).misses;
    assert_eq!((misses.asked, misses.answered, misses.held_down), (100, 1, 99));
}

#[test]
fn an_answer_that_the_kernel_refuses_is_not_wanted_and_may_be_asked_again() {
    let mut state = settled_with(Install::OnMiss);
    let changes = apply(&mut state, T, Event::Missed(vec![(segment(), missed_mac())]));
    let [Change::Install(_, answers)] = &changes[..] else { panic!("{changes:?}") };
    let error = Some("refused".to_owned());
    apply(&mut state, T, Event::Installed { segment: segment(), answers: answers.clone(), error });
    assert!(state.remembered.rows().iter().all(|(_, rows)| rows.is_empty()));
    let changes = apply(&mut state, T, Event::Missed(vec![(segment(), missed_mac())]));
    assert!(matches!(changes[..], [Change::Install(..)]), "{changes:?}");
}

#[test]
fn answers_under_way_are_bounded() {
    let mut config = config();
    let remote = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        Remote { mac: MacAddr::new([2, 0, 0, a, b, c]), ..overlay(42).remotes[0].clone() }
    };
    config.overlays[0].remotes = (0..5000).map(remote).collect();
    let mut state = State::new(Arc::new(config.clone()), Remembered::default(), Outcome::default());
    let asked = config.overlays[0].remotes.iter().map(|remote| (segment(), Missed::Mac(remote.mac)));
    let changes = apply(&mut state, Duration::ZERO, Event::Missed(asked.collect()));
    let [Change::Install(_, answers)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(answers.len(), ANSWERS_UNDER_WAY);
    assert_eq!(state.misses.counters.dropped, 5000 - ANSWERS_UNDER_WAY as u64);
}

#[test]
fn an_added_remote_is_wanted_until_it_is_deleted() {
    let mut state = settled();
    let add = Request::FdbAdd(Station { port: None, ..station(9) });
    let changes = apply(&mut state, T, Event::Asked(Client(1), add));
    let [Change::Write(Client(1), _, rows)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(rows.len(), 3);
    let changes = apply(&mut state, T, Event::Written(Client(1), Ok(())));
    assert!(changes.iter().any(|c| matches!(c, Change::Note(remembered::Note::Add(_)))), "{changes:?}");
    assert!(matches!(reply(&changes), Reply::Ok(_)));
    assert_eq!(status_of(&mut state).overlays[0].remotes.added, 1);

    let delete = Request::FdbDel { vni: 42, port: None, mac: station(9).mac };
    let changes = apply(&mut state, T, Event::Asked(Client(2), delete));
    assert!(
        changes.iter().any(|c| matches!(c, Change::Remove(_, _, rows) if rows.len() == 3)),
        "{changes:?}"
    );
    assert_eq!(status_of(&mut state).overlays[0].remotes.added, 0);
}

#[test]
fn an_added_remote_that_the_kernel_refuses_is_not_wanted() {
    let mut state = settled();
    apply(&mut state, T, Event::Asked(Client(1), Request::FdbAdd(station(9))));
    apply(&mut state, T, Event::Written(Client(1), Ok(())));
    let elsewhere = Station { vtep: IpAddr::from([192, 168, 10, 24]), ..station(9) };
    apply(&mut state, T, Event::Asked(Client(2), Request::FdbAdd(elsewhere)));
    let changes = apply(&mut state, T, Event::Written(Client(2), Err("refused".to_owned())));
    assert!(matches!(reply(&changes), Reply::Error(Refusal { kind: Kind::Failed, .. })));
    assert_eq!(state.remembered.added(segment(), station(9).mac), Some(&station(9)));
}

#[test]
fn a_remote_that_contradicts_the_configuration_is_refused() {
    let bad = [
        Station { vni: 43, ..station(9) },
        Station { port: Some(4790), ..station(9) },
        Station { mac: MacAddr::BROADCAST, ..station(9) },
        Station { mac: overlay(42).containers[0].mac, ..station(9) },
        Station { mac: overlay(42).remotes[0].mac, ..station(9) },
        Station { vtep: config().underlay.local, ..station(9) },
        Station { vtep: "fd00::1".parse().expect("an address"), ..station(9) },
        Station { addresses: overlay(42).remotes[0].addresses.clone(), ..station(9) },
        Station { addresses: vec![IpAddr::from([10, 0, 0, 1])], ..station(9) },
    ];
    for station in bad {
        let mut state = settled();
        let changes = apply(&mut state, T, Event::Asked(Client(1), Request::FdbAdd(station.clone())));
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert!(matches!(reply(&changes), Reply::Error(Refusal { kind: Kind::Refused, .. })), "{station:?}");
        assert_eq!(state.remembered, Remembered::default());
    }
}

#[test]
fn a_configured_remote_is_not_deleted_and_an_unknown_one_is_forgotten() {
    let mut state = settled();
    let of = |mac| Request::FdbDel { vni: 42, port: None, mac };
    let changes = apply(&mut state, T, Event::Asked(Client(1), of(overlay(42).remotes[0].mac)));
    assert!(matches!(reply(&changes), Reply::Error(_)));
    let changes = apply(&mut state, T, Event::Asked(Client(1), of(station(9).mac)));
    assert!(matches!(changes[..], [Change::Forget(..)]), "{changes:?}");
}

#[test]
fn a_bad_new_configuration_leaves_the_old_one_in_force() {
    let mut state = settled();
    let old = Arc::clone(state.config());
    apply(&mut state, T, Event::Loaded(Err("line 3: no".to_owned())));
    let mut moved = config();
    moved.control.socket = "/run/other.sock".into();
    apply(&mut state, T, Event::Loaded(Ok(Arc::new(moved))));
    assert!(Arc::ptr_eq(state.config(), &old));
}

#[test]
fn a_new_configuration_is_reconciled_at_once() {
    let mut state = settled();
    let mut new = config();
    new.overlays[0].remotes.clear();
    let changes = apply(&mut state, T, Event::Loaded(Ok(Arc::new(new))));
    assert!(reconciles(&changes), "{changes:?}");
    assert!(!state.wants(missed_mac()));
}

#[test]
fn nothing_is_reconciled_while_stopping() {
    let mut state = settled();
    apply(&mut state, T, Event::Stop);
    assert_eq!(state.deadline(), None);
    assert!(!reconciles(&apply(&mut state, T + AUDIT * 9, Event::PlacesChanged)));
    assert!(!reconciles(&apply(&mut state, T + AUDIT * 9, Event::Tick)));
}
