//! The follower when it has lost track, and when it looks without an occasion: readings of whole tables beside the
//! following.

mod followed;
mod namespace;

use std::time::{Duration, Instant};

use followed::{LIMIT, Tables, add_bridge, in_time, ip, many, overlay, overlay_with, remote};
use namespace::Host;
use vxdp_control::mirror::audit::Rhythm;
use vxdp_control::mirror::nexthop::Resolution;
use vxdp_dataplane::wire::MacAddr;

/// No audit comes to help.
const NEVER: Rhythm = Rhythm { every: Duration::from_secs(3600), share: 0 };

/// Longest wait for a large table to be read.
const READ: Duration = Duration::from_secs(60);

/// The first remote's VTEP goes through this next hop.
fn through(last: u8) -> impl Fn(&Tables) -> bool {
    let wanted = Resolution::Resolved { next_hop: MacAddr::new([2, 0, 0, 0, 0, last]), mtu: None };
    move |tables| tables.vteps.get(&ip("192.168.10.22")) == Some(&wanted)
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_overflow_ends_in_the_same_tables() {
    let host = overlay("storm");
    let mut tables = Tables::follow_audited(&host, NEVER).await;
    // While nobody takes facts, the follower stops reading and the kernel's buffer runs over.
    host.bridge_batch(&many("fdb add", 0..60_000));
    // The first reading may have found them all already.
    let lost = |t: &Tables| t.counters.read().overflows > 0;
    tables.until("all rows", READ, |t| t.macs.len() == 60_000 && lost(t)).await;
    assert_eq!(tables.lost, None);
}

#[tokio::test]
#[ignore = "needs root"]
async fn rows_that_go_while_notifications_are_lost_leave_the_tables() {
    const STANDING: u32 = 20_000;
    const STAYING: u32 = 100;
    let host = overlay("gone");
    host.bridge_batch(&many("fdb add", 0..STANDING));
    let mut tables = Tables::follow_audited(&host, NEVER).await;
    tables.until("all that stood", READ, |t| t.macs.len() == STANDING as usize).await;
    host.bridge_batch(&many("fdb del", STAYING..STANDING));
    let took = tables.until("those that stay", READ, |t| t.macs.len() == STAYING as usize).await;
    let counters = tables.counters.read();
    eprintln!("{} rows gone after {took:.1?}, {counters:?}", STANDING - STAYING);
    assert!(counters.overflows > 0 && counters.audits == 0, "{counters:?}");
    assert_eq!(tables.forgotten, (STANDING - STAYING) as usize);
    assert_eq!(tables.lost, None);
}

#[tokio::test]
#[ignore = "needs root"]
async fn losses_while_tables_are_read_lead_to_one_more_reading() {
    const STANDING: u32 = 50_000;
    /// Twice as many notifications, more than the receive buffer holds.
    const COMING: u32 = 15_000;
    // In another namespace, so that the host's socket hears nothing of it.
    let (host, overlay) = (overlay("again"), Host::new("again"));
    add_bridge(&overlay, "");
    overlay.bridge_batch(&many("fdb add", 0..STANDING));
    let mut tables = Tables::follow_both(&host, &overlay, NEVER).await;
    let mut from = STANDING;
    for losses in 1..=3 {
        overlay.bridge_batch(&many("fdb add", from..from + COMING));
        from += COMING;
        let lost = |t: &Tables| t.counters.read().overflows >= losses;
        while !lost(&tables) {
            // Nothing is told before the tables have been read.
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(tables.facts.try_recv().is_err(), "the first reading has ended already");
        }
    }
    let caught_up = |t: &Tables| t.counters.read().behind == 0;
    tables.until("everything", READ, |t| t.macs.len() == from as usize && caught_up(t)).await;
    let counters = tables.counters.read();
    // The host's neighbours, what was under way, and one more.
    assert_eq!((counters.dumps, counters.audits), (3, 0), "{counters:?}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_next_hop_that_moves_while_the_hosts_notifications_are_lost_is_followed() {
    let host = overlay("hosts");
    host.ip("neigh replace 192.168.10.22 lladdr 02:00:00:00:00:01 dev eth0 nud permanent");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 self dst 192.168.10.22");
    let mut tables = Tables::follow_audited(&host, NEVER).await;
    tables.until("resolved", LIMIT, through(1)).await;
    // Of routes only the host's socket hears.
    let mut lines: String = (0..40_000u32)
        .map(|number| {
            let [_, a, b, c] = number.to_be_bytes();
            format!("route add 10.{a}.{b}.{c}/32 dev eth0\n")
        })
        .collect();
    lines += "neigh replace 192.168.10.22 lladdr 02:00:00:00:00:02 dev eth0 nud permanent\n";
    host.ip_batch(&lines);
    tables.until("moved", LIMIT, through(2)).await;
    let counters = tables.counters.read();
    assert!(counters.overflows > 0 && counters.audits == 0, "{counters:?}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn what_changes_while_a_large_table_is_read_is_told_at_once() {
    const STANDING: u32 = 50_000;
    let host = overlay("large");
    host.bridge_batch(&many("fdb add", 0..STANDING));
    let neighbour = |last: u8| {
        host.ip(&format!("neigh replace 192.168.10.23 lladdr 02:00:00:00:00:0{last} dev eth0 nud permanent"));
    };
    neighbour(9);
    let mut tables = Tables::follow_audited(&host, NEVER).await;
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 self dst 192.168.10.23");
    let through = |last: u8| {
        let next_hop = MacAddr::new([2, 0, 0, 0, 0, last]);
        let wanted = Resolution::Resolved { next_hop, mtu: None };
        move |t: &Tables| t.vteps.get(&ip("192.168.10.23")) == Some(&wanted)
    };
    tables.until("a row that came meanwhile", LIMIT, through(9)).await;
    let mut took = Vec::new();
    for turn in 0..9 {
        neighbour(turn);
        took.push(tables.until("moved", LIMIT, through(turn)).await);
    }
    host.bridge("fdb del 02:42:0a:00:00:03 dev vxlan1 self");
    tables.until("a row that went meanwhile", LIMIT, |t| t.macs.is_empty()).await;
    assert_eq!(tables.counters.read().behind, 1, "the tables have been read too soon");
    in_time("next hop, beside a reading", &mut took);
    let took = tables.until("all that stood", READ, |t| t.macs.len() == STANDING as usize).await;
    eprintln!("{STANDING} rows read after another {took:.1?}");
    // What went is not taken back by a reading that had found it.
    assert_eq!((tables.macs.contains_key(&remote(3)), tables.counters.read().behind), (false, 0));
}

#[tokio::test]
#[ignore = "needs root"]
async fn what_comes_while_an_audit_reads_is_told_at_once_and_not_taken_back_by_its_end() {
    const STANDING: u32 = 5000;
    const COMING: u8 = 30;
    let host = overlay("audit");
    host.bridge_batch(&many("fdb add", 0..STANDING));
    // One audit after the other.
    let rhythm = Rhythm { every: Duration::ZERO, share: 0 };
    let mut tables = Tables::follow_audited(&host, rhythm).await;
    tables.until("all that stood", LIMIT, |t| t.macs.len() == STANDING as usize).await;
    let before = tables.counters.read().audits;
    for last in 0..COMING {
        let mac = remote(last);
        host.bridge(&format!("fdb add {mac} dev vxlan1 master static"));
        host.bridge(&format!("fdb add {mac} dev vxlan1 self dst 192.168.10.23"));
        tables.until("added", LIMIT, |t| t.macs.contains_key(&mac)).await;
    }
    let audits = tables.counters.read().audits;
    assert!(audits > before, "no audit has ended meanwhile");
    // Once more, so that each row has seen the end of one that began before it came.
    let deadline = Instant::now() + LIMIT;
    while tables.counters.read().audits < audits + 2 {
        assert!(Instant::now() < deadline, "audits have ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
        while let Ok(facts) = tables.facts.try_recv() {
            facts.into_iter().for_each(|fact| tables.take(fact));
        }
    }
    assert_eq!((tables.forgotten, tables.macs.len()), (0, STANDING as usize + usize::from(COMING)));
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_audit_puts_right_what_no_notification_tells_and_counts_it() {
    let host = overlay_with("drift", " local fd00:10::21");
    for last in [1, 2] {
        let hop = format!("fd00:10::{last} lladdr 02:00:00:00:00:0{last}");
        host.ip(&format!("neigh replace {hop} dev eth0 nud reachable"));
    }
    host.ip("route add fd00:77::/64 via fd00:10::2");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 self dst fd00:77::1");
    let rhythm = Rhythm { every: Duration::from_millis(100), share: 0 };
    let mut tables = Tables::follow_audited(&host, rhythm).await;
    let through = |last: u8| {
        let next_hop = MacAddr::new([2, 0, 0, 0, 0, last]);
        move |t: &Tables| {
            t.vteps.get(&ip("fd00:77::1")) == Some(&Resolution::Resolved { next_hop, mtu: None })
        }
    };
    tables.until("routed", LIMIT, through(2)).await;
    // From its last second on nobody takes this route any more; the kernel clears it away, and tells, half a
    // minute later (`fib6_run_gc`, net/ipv6/ip6_fib.c).
    host.ip("route add fd00:77::1/128 via fd00:10::1 expires 2");
    tables.until("routed for a while", LIMIT, through(1)).await;
    let before = tables.counters.read();
    tables.until("audited", LIMIT, through(2)).await;
    let after = tables.counters.read();
    assert!(after.drift > before.drift, "{before:?} {after:?}");
}
