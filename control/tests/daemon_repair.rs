//! The daemon puts back what others take away, follows its containers, and leaves the overlay when it stops.

mod daemon;
mod kernel_host;
mod scenario;

use daemon::{
    REMOTE, config, has_bridge_row, has_fdb, has_link, has_neighbour, has_remote, spawn, start, start_with,
    write,
};
use kernel_host::{link, on_a_host, run, snapshot};
use nix::sys::signal::Signal;

#[test]
#[ignore = "needs root"]
fn a_deleted_vxlan_device_comes_back_with_its_rows_and_then_there_is_rest() {
    on_a_host(async |host| {
        let daemon = start(&host, "static");
        let before = snapshot(&["overlay", "c1"]);
        daemon.wait_settled();
        run("ip -n overlay link del vxlan1");
        daemon.wait_until("vxlan1 is back", || has_link("overlay", "vxlan1") && has_remote());
        let passes = daemon.wait_settled();
        assert_eq!(snapshot(&["overlay", "c1"]), before);
        assert!(passes < 10, "{passes} passes for one deletion:\n{}", daemon.log());
        assert!(daemon.log().contains("repaired"), "{}", daemon.log());
    });
}

#[test]
#[ignore = "needs root"]
fn rows_that_somebody_deletes_or_changes_are_put_back() {
    on_a_host(async |host| {
        let daemon = start(&host, "static");
        daemon.wait_settled();
        run(&format!("bridge -n overlay fdb del {REMOTE} dev vxlan1 self"));
        daemon.wait_until("the FDB row is back", || has_fdb(REMOTE));
        run(&format!("bridge -n overlay fdb del {REMOTE} dev vxlan1 master"));
        daemon.wait_until("the bridge row is back", || has_bridge_row(REMOTE));
        run("ip -n overlay neigh del 10.0.0.3 dev vxlan1");
        daemon.wait_until("the neighbour is back", || has_neighbour("10.0.0.3"));
        run(&format!("bridge -n overlay fdb replace {REMOTE} dev vxlan1 self dst 192.168.10.99"));
        let right = || run("bridge -n overlay fdb show dev vxlan1").contains("dst 192.168.10.22");
        daemon.wait_until("the VTEP is right again", right);
    });
}

#[test]
#[ignore = "needs root"]
fn an_overlay_whose_namespace_was_deleted_is_built_again() {
    on_a_host(async |host| {
        let daemon = start(&host, "static");
        let before = snapshot(&["overlay", "c1"]);
        run("ip netns del overlay");
        daemon.wait_until("the overlay is back", || has_link("overlay", "vxlan1") && has_remote());
        daemon.wait_settled();
        assert_eq!(snapshot(&["overlay", "c1"]), before);
        // And it is listened to.
        run("ip -n overlay link del vxlan1");
        daemon.wait_until("vxlan1 is back", has_remote);
    });
}

#[test]
#[ignore = "needs root"]
fn a_container_that_goes_is_reported_and_one_that_comes_back_is_attached() {
    on_a_host(async |host| {
        let daemon = start(&host, "static");
        assert!(daemon.status().overlays[0].containers[0].attached);
        run("ip netns del c1");
        daemon.wait_until("it is reported", || !daemon.status().overlays[0].containers[0].attached);
        let reason = daemon.status().overlays[0].containers[0].reason.clone();
        assert!(reason.is_some_and(|reason| reason.contains("c1")));
        run("ip netns add c1");
        daemon.wait_until("it is attached", || has_link("c1", "eth1"));
        daemon.wait_until("it is reported", || daemon.status().overlays[0].containers[0].attached);
        assert_eq!(link("c1", "eth1")["address"], "02:42:0a:00:00:02");
        for word in ["container-away", "container-back"] {
            assert!(daemon.log().contains(word), "{}", daemon.log());
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_container_whose_namespace_is_replaced_is_attached_again() {
    on_a_host(async |host| {
        let daemon = start(&host, "static");
        run("ip netns del c1");
        run("ip netns add c1");
        daemon.wait_until("it is attached", || has_link("c1", "eth1"));
        daemon.wait_settled();
        let addresses = run("ip -n c1 addr show dev eth1");
        assert!(addresses.contains("10.0.0.2/24"), "{addresses}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_container_that_is_found_by_pid_may_end() {
    on_a_host(async |host| {
        run("ip netns add c1");
        let mut process =
            std::process::Command::new("unshare").args(["--net", "sleep", "60"]).spawn().expect("a process");
        let own = std::fs::read_link("/proc/thread-self/ns/net").expect("ours");
        let theirs = || std::fs::read_link(format!("/proc/{}/ns/net", process.id())).expect("theirs");
        while theirs() == own {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let attach = format!("attach = {{ pid = {} }}", process.id());
        let daemon =
            start_with(&host, &config(&host, "static").replace("attach = { netns = \"c1\" }", &attach));
        assert!(has_link("overlay", "veth2"));
        process.kill().expect("our child");
        process.wait().expect("our child");
        daemon.wait_until("it is reported", || !daemon.status().overlays[0].containers[0].attached);
    });
}

#[test]
#[ignore = "needs root"]
fn a_repair_that_fails_is_reported_and_tried_again_until_it_works() {
    on_a_host(async |host| {
        let daemon = start(&host, "static");
        daemon.wait_settled();
        run("ip -n overlay link set vxlan1 name away");
        run("ip -n overlay link add vxlan1 type bridge");
        daemon.wait_until("it fails", || daemon.status().reconcile.failures > 1);
        let status = daemon.status();
        assert_eq!(status.reconcile.state, "failing");
        assert!(status.errors[0].message.contains("vxlan1"), "{:?}", status.errors);
        run("ip -n overlay link del vxlan1");
        run("ip -n overlay link set away name vxlan1");
        daemon.wait_settled();
        assert!(has_remote());
    });
}

#[test]
#[ignore = "needs root"]
fn sigterm_and_sigkill_leave_the_overlay_and_the_next_daemon_changes_nothing() {
    on_a_host(async |host| {
        let mut daemon = start(&host, "static");
        let before = snapshot(&["overlay", "c1"]);
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.end().success(), "{}", daemon.log());
        assert_eq!(snapshot(&["overlay", "c1"]), before);

        let mut daemon = start_with(&host, &config(&host, "static"));
        daemon.signal(Signal::SIGKILL);
        daemon.end();
        assert_eq!(snapshot(&["overlay", "c1"]), before);

        let daemon = start_with(&host, &config(&host, "static"));
        assert_eq!(daemon.log().matches("nothing was changed").count(), 2, "{}", daemon.log());
        assert_eq!(snapshot(&["overlay", "c1"]), before);
    });
}

#[test]
#[ignore = "needs root"]
fn sighup_follows_a_new_configuration_and_survives_a_bad_one() {
    on_a_host(async |host| {
        let daemon = start(&host, "static");
        write(&host, "nonsense");
        daemon.signal(Signal::SIGHUP);
        daemon.wait_until("it refuses", || daemon.log().contains("not-reloaded"));
        assert!(has_remote());
        let new = config(&host, "static")
            + "[[overlay.remote]]\nmac = \"02:42:0a:00:00:04\"\nvtep = \"192.168.10.23\"\n";
        write(&host, &new.replace("10.0.0.3", "10.0.0.33"));
        daemon.signal(Signal::SIGHUP);
        daemon.wait_until("the new remote is there", || has_fdb("02:42:0a:00:00:04"));
        daemon.wait_until("the old address is gone", || !has_neighbour("10.0.0.3"));
        assert!(has_neighbour("10.0.0.33"));
    });
}

#[test]
#[ignore = "needs root"]
fn rows_and_devices_of_others_are_left_alone() {
    on_a_host(async |host| {
        let daemon = start(&host, "static");
        let foreign = "06:00:00:00:00:01";
        run(&format!("bridge -n overlay fdb add {foreign} dev vxlan1 self dst 192.168.10.77"));
        run("ip -n overlay link add foreign0 type bridge");
        run("ip -n overlay link del vxlan1");
        daemon.wait_until("vxlan1 is back", has_remote);
        daemon.wait_settled();
        assert!(has_link("overlay", "foreign0"));
        // It went with its device, and it was not ours to bring back.
        assert!(!has_fdb(foreign));
    });
}

#[test]
#[ignore = "needs root"]
fn a_missing_container_is_a_usage_error_and_nothing_is_built() {
    on_a_host(async |host| {
        let before = run("ip -j link") + &run("ip netns list");
        let mut daemon = spawn(&host, &config(&host, "static"));
        assert_eq!(daemon.end().code(), Some(2), "{}", daemon.log());
        assert!(daemon.log().contains("c1"), "{}", daemon.log());
        assert_eq!(run("ip -j link") + &run("ip netns list"), before);
    });
}
