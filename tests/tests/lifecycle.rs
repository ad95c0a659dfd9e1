//! Starting, stopping, dying, repairing and removing: what happens to an overlay while `vxdp` comes and goes.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vxdp_lab::{
    Daemon, Family, Host, Lab, Mode, Outcome, Ping, Place, Segment, config_of, deploy, scenario, wait_until,
};

const KERNEL: [Mode; 2] = [Mode::Kernel; 2];
const XDP: [Mode; 2] = [Mode::Xdp; 2];
const INKERNEL: [Mode; 2] = [Mode::InKernel; 2];

/// Time in which a daemon that notices a loss must have repaired it.
const REPAIR: Duration = Duration::from_secs(15);

/// The scenario on both hosts, and the first container with the address of the second.
fn stand(lab: &Lab, modes: [Mode; 2]) -> Result<(Vec<Daemon>, Place)> {
    let segment = Segment::scenario();
    let daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
    let (c1, _) = segment.place(lab, 0)?;
    ping().expect_all(&c1)?;
    Ok((daemons, c1))
}

/// From the first container to the second.
fn ping() -> Ping {
    Ping::new([10, 0, 0, 3])
}

fn down(host: &Host) -> Result<Outcome> {
    let config = host.config_path();
    host.vxdp(&["down", "--config", config.to_str().context("path")?])
}

/// Does `work` while a ping runs that must not lose anything.
fn without_loss(from: &Place, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let running = ping().interval(Duration::from_millis(10)).start(from)?;
    // Slow pings of known number measure some time before and after, in which the other must be well, too.
    ping().count(2).run(from)?;
    work()?;
    ping().count(2).run(from)?;
    let pinged = running.stop()?;
    // The last request may still be on its way when ping is told to stop.
    ensure!(pinged.sent > 5 && pinged.received + 1 >= pinged.sent, "lost frames: {pinged:?}");
    Ok(())
}

fn stop_leaves_forwarding(modes: [Mode; 2]) {
    scenario("stop", |lab| {
        let (daemons, c1) = stand(lab, modes)?;
        without_loss(&c1, || daemons.into_iter().try_for_each(Daemon::stop))?;
        ping().expect_all(&c1)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn sigterm_leaves_the_overlay_forwarding_without_loss() {
    stop_leaves_forwarding(KERNEL);
}

#[test]
#[ignore = "needs root"]
fn sigterm_leaves_the_overlay_forwarding_without_loss_in_xdp_mode() {
    stop_leaves_forwarding(XDP);
}

#[test]
#[ignore = "needs root"]
fn sigterm_leaves_the_overlay_forwarding_without_loss_by_the_inkernel_engine() {
    stop_leaves_forwarding(INKERNEL);
}

fn second_run_changes_nothing(modes: [Mode; 2]) {
    scenario("again", |lab| {
        let (daemons, c1) = stand(lab, modes)?;
        daemons.into_iter().try_for_each(Daemon::stop)?;
        let before = lab.h1().snapshot()?;
        without_loss(&c1, || {
            let again = lab.h1().start_vxdp(&lab.h1().config_path(), modes[0])?;
            again.stop()
        })?;
        unchanged(&before, &lab.h1().snapshot()?)
    });
}

#[test]
#[ignore = "needs root"]
fn run_on_a_complete_overlay_changes_nothing_and_drops_nothing() {
    second_run_changes_nothing(KERNEL);
}

#[test]
#[ignore = "needs root"]
fn run_on_a_complete_overlay_changes_nothing_and_drops_nothing_in_xdp_mode() {
    second_run_changes_nothing(XDP);
}

#[test]
#[ignore = "needs root"]
fn run_on_a_complete_overlay_changes_nothing_and_drops_nothing_by_the_inkernel_engine() {
    second_run_changes_nothing(INKERNEL);
}

fn kill_while_building(modes: [Mode; 2]) {
    scenario("kill", |lab| {
        let segment = Segment::scenario();
        let (c1, _) = segment.place(lab, 0)?;
        lab.h1().container("c1")?;
        let config = lab.h1().write_config(&config_of(lab, Family::V4, &[segment], 1))?;
        let untouched = lab.h1().snapshot()?;
        // From before the first netlink message to after the last; each attempt finds what the one before left.
        for delay in [2, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60, 100] {
            let (_, daemon) = lab.h1().spawn_vxdp(&config, modes[0])?;
            std::thread::sleep(Duration::from_millis(delay));
            daemon.kill()?;
        }
        let daemon = lab.h1().start_vxdp(&config, modes[0])?;
        ensure!(c1.exec(["ip", "address", "show", "eth1"])?.contains("10.0.0.2/24"), "not built");
        daemon.stop()?;
        // All of it is still known as ours.
        down(lab.h1())?.success()?;
        unchanged(&untouched, &lab.h1().snapshot()?)
    });
}

#[test]
#[ignore = "needs root"]
fn a_run_killed_in_the_middle_of_building_is_completed_by_the_next() {
    kill_while_building(KERNEL);
}

#[test]
#[ignore = "needs root"]
fn a_run_killed_in_the_middle_of_building_is_completed_by_the_next_in_xdp_mode() {
    kill_while_building(XDP);
}

#[test]
#[ignore = "needs root"]
fn a_run_killed_in_the_middle_of_building_is_completed_by_the_next_by_the_inkernel_engine() {
    kill_while_building(INKERNEL);
}

fn down_is_exact(modes: [Mode; 2]) {
    scenario("down", |lab| {
        // Others live in the same namespaces, and under names near ours.
        lab.h1().script(
            "ip netns add overlay
             ip -n overlay link add theirs type bridge
             ip -n overlay link set theirs up
             ip -n overlay address add 172.16.0.1/24 dev theirs
             ip netns add overlay2
             ip link add veth2 type bridge",
        )?;
        let segment = Segment::scenario();
        let c1 = lab.h1().container("c1")?;
        c1.script(
            "ip link add eth0 type bridge
             ip link set eth0 up
             ip address add 172.16.1.1/24 dev eth0
             ip neighbour add 172.16.1.2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
        )?;
        let before = lab.h1().snapshot()?;
        let config = lab.h1().write_config(&config_of(lab, Family::V4, &[segment], 1))?;
        let daemon = lab.h1().start_vxdp(&config, modes[0])?;
        let built = lab.h1().snapshot()?;
        missing(&before, &built).context("run removed something of others")?;
        daemon.stop()?;
        down(lab.h1())?.success()?;
        unchanged(&before, &lab.h1().snapshot()?)?;
        // There is nothing left to remove, and that is fine.
        down(lab.h1())?.success()?;
        unchanged(&before, &lab.h1().snapshot()?)
    });
}

#[test]
#[ignore = "needs root"]
fn down_removes_exactly_what_the_configuration_created() {
    down_is_exact(KERNEL);
}

#[test]
#[ignore = "needs root"]
fn down_removes_exactly_what_the_configuration_created_in_xdp_mode() {
    down_is_exact(XDP);
}

#[test]
#[ignore = "needs root"]
fn down_removes_exactly_what_the_configuration_created_by_the_inkernel_engine() {
    down_is_exact(INKERNEL);
}

/// Whether the daemon tells the service manager within this time that it is alive.
fn shows_life(socket: &UnixDatagram, within: Duration) -> Result<bool> {
    let (begun, mut buffer) = (Instant::now(), [0; 4096]);
    while let Some(left) = within.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        if let Ok(length) = socket.recv(&mut buffer)
            && buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"WATCHDOG=1")
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Under a watchdog of this period, which is twice as long as the daemon may be silent.
fn hanging_is_noticed(mode: Mode) {
    scenario("watchdog", |lab| {
        let period = Duration::from_secs(4);
        let host = lab.h1();
        host.container("c1")?;
        let config = host.write_config(&config_of(lab, Family::V4, &[Segment::scenario()], 1))?;
        let (socket, daemon) = host.start_watched_vxdp(&config, mode, period)?;
        for number in 1..=2 {
            ensure!(shows_life(&socket, period)?, "no notification {number} of a daemon that is well");
        }
        let pid = Pid::from_raw(daemon.pid().cast_signed());
        kill(pid, Signal::SIGSTOP)?;
        // What it said before it hung.
        while shows_life(&socket, Duration::from_millis(100))? {}
        ensure!(!shows_life(&socket, period)?, "one that hangs says that it is alive");
        kill(pid, Signal::SIGCONT)?;
        ensure!(shows_life(&socket, period)?, "no notification of a daemon that goes on");
        daemon.stop()
    });
}

#[test]
#[ignore = "needs root"]
fn a_daemon_shows_the_watchdog_in_time_that_it_is_alive_and_does_not_while_it_hangs() {
    hanging_is_noticed(Mode::Kernel);
}

#[test]
#[ignore = "needs root"]
fn a_daemon_shows_the_watchdog_in_time_that_it_is_alive_and_does_not_while_it_hangs_in_xdp_mode() {
    hanging_is_noticed(Mode::Xdp);
}

fn losses_are_repaired(modes: [Mode; 2]) {
    scenario("repair", |lab| {
        let (_daemons, c1) = stand(lab, modes)?;
        let h1 = lab.h1();
        for loss in [
            "ip -n overlay link del vxlan1",
            "bridge -n overlay fdb del 02:42:0a:00:00:03 dev vxlan1 self",
            "ip -n overlay neighbour del 10.0.0.3 dev vxlan1",
            "ip -n overlay link set vxlan1 down",
            "ip -n overlay link set vxlan1 nomaster",
            "ip -n overlay link del veth2",
            "ip -n c1 address flush dev eth1",
            "ip -n overlay link del br0",
            "ip netns del overlay",
            // What a container that restarts looks like: another namespace under the same name.
            "ip netns del c1; ip netns add c1",
        ] {
            h1.script(loss)?;
            c1.run(["ip", "neighbour", "flush", "all"], Duration::from_secs(5))?;
            wait_until(&format!("`{loss}` is repaired"), REPAIR, || {
                Ok(ping().count(1).run(&c1).is_ok_and(|pinged| pinged.received == 1))
            })?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn what_vanishes_while_running_comes_back() {
    losses_are_repaired(KERNEL);
}

#[test]
#[ignore = "needs root"]
fn what_vanishes_while_running_comes_back_in_xdp_mode() {
    losses_are_repaired(XDP);
}

#[test]
#[ignore = "needs root"]
fn what_vanishes_while_running_comes_back_by_the_inkernel_engine() {
    losses_are_repaired(INKERNEL);
}

fn by_hand_is_adopted(modes: [Mode; 2]) {
    scenario("adopt", |lab| {
        let segment = Segment::scenario().setting("gateway = \"10.0.0.1/24\"");
        for number in 1..=2 {
            build_by_hand(lab, number)?;
        }
        let (c1, _) = segment.place(lab, 0)?;
        ping().expect_all(&c1)?;
        let before = lab.h1().snapshot()?;
        let config = lab.h1().write_config(&config_of(lab, Family::V4, std::slice::from_ref(&segment), 1))?;
        let mut daemon = None;
        without_loss(&c1, || {
            daemon = Some(lab.h1().start_vxdp(&config, modes[0])?);
            Ok(())
        })?;
        missing(&before, &lab.h1().snapshot()?).context("adopting removed or replaced something")?;
        daemon.context("not started")?.stop()?;
        // What was there before is not ours to remove.
        down(lab.h1())?.success()?;
        unchanged(&before, &lab.h1().snapshot()?)?;
        ping().expect_all(&c1)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn an_overlay_built_by_hand_is_adopted_without_loss_and_survives_down() {
    by_hand_is_adopted(KERNEL);
}

#[test]
#[ignore = "needs root"]
fn an_overlay_built_by_hand_is_adopted_without_loss_and_survives_down_in_xdp_mode() {
    by_hand_is_adopted(XDP);
}

#[test]
#[ignore = "needs root"]
fn an_overlay_built_by_hand_is_adopted_without_loss_and_survives_down_by_the_inkernel_engine() {
    by_hand_is_adopted(INKERNEL);
}

/// Host number `number`'s part of the scenario, as the design's table has it.
fn build_by_hand(lab: &Lab, number: usize) -> Result<()> {
    let host = &lab.hosts()[number - 1];
    let (own, other) = (number + 1, 4 - number);
    let vtep = lab.hosts()[2 - number].ipv4();
    host.container(&format!("c{number}"))?;
    host.script(&format!(
        "ip netns add overlay
         ip -n overlay link add br0 type bridge
         ip link add vxlan1 type vxlan id 42 l2miss l3miss proxy learning dstport 4789 noudpcsum
         ip link set vxlan1 netns overlay
         ip -n overlay link set vxlan1 mtu 1450 master br0
         ip -n overlay link add veth2 mtu 1450 type veth peer name eth1 mtu 1450 netns c{number}
         ip -n overlay link set veth2 master br0
         ip -n c{number} link set eth1 address 02:42:0a:00:00:0{own} up
         ip -n c{number} address add 10.0.0.{own}/24 dev eth1
         ip -n overlay address add 10.0.0.1/24 dev br0
         for device in br0 vxlan1 veth2; do ip -n overlay link set $device up; done
         ip -n overlay neighbour add 10.0.0.{other} lladdr 02:42:0a:00:00:0{other} dev vxlan1 nud permanent
         bridge -n overlay fdb add 02:42:0a:00:00:0{other} dev vxlan1 self dst {vtep} vni 42 port 4789"
    ))?;
    Ok(())
}

/// Nothing came and nothing went.
fn unchanged(before: &[String], after: &[String]) -> Result<()> {
    missing(before, after)?;
    missing(after, before).context("something is new")
}

/// Everything of `before` is still in `after`.
fn missing(before: &[String], after: &[String]) -> Result<()> {
    let after = after.iter().collect::<BTreeSet<_>>();
    let gone = before.iter().filter(|line| !after.contains(line)).collect::<Vec<_>>();
    ensure!(gone.is_empty(), "only on one side: {gone:#?}");
    Ok(())
}
