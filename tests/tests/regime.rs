//! Where the programs run and how the workers wait: each works, and `status` says which it is and why no better.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use vxdp_lab::{
    Family, Host, Lab, Mode, Ping, Place, Segment, config_of, deploy, tcp_transfer, udp_exchange,
};

/// Bytes of a TCP transfer: some thousand segments.
const BULK: usize = 2 << 20;

/// How long an idle worker is watched: many times its longest sleep.
const IDLE: Duration = Duration::from_secs(3);

/// Ping, UDP and TCP both ways between the scenario's containers.
fn carries_everything(c1: &Place, c2: &Place) -> Result<()> {
    Ping::new([10, 0, 0, 3]).expect_all(c1)?;
    Ping::new([10, 0, 0, 2]).expect_all(c2)?;
    udp_exchange(c1, c2, [10, 0, 0, 3], &[1, 100, 1000, 1422])?;
    tcp_transfer(c1, c2, [10, 0, 0, 3], BULK)?;
    tcp_transfer(c2, c1, [10, 0, 0, 2], BULK)
}

fn deployed(lab: &Lab, modes: [Mode; 2], steps: impl FnOnce(&Place, &Place) -> Result<()>) -> Result<()> {
    let segment = Segment::scenario();
    let _daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
    let (c1, c2) = (segment.place(lab, 0)?.0, segment.place(lab, 1)?.0);
    let fast = lab.hosts().iter().zip(modes).filter(|(_, mode)| *mode == Mode::Xdp);
    fast.map(|(host, _)| host).try_for_each(Host::wait_for_fast_path)?;
    steps(&c1, &c2)
}

fn devices(host: &Host) -> Result<Vec<Value>> {
    let devices = host.status()?["modes"]["engine"]["devices"].take();
    Ok(devices.as_array().context("no devices")?.clone())
}

/// What `status` says in words about every device.
fn told(host: &Host) -> Result<String> {
    host.vxdp(&["status"])?.success()
}

#[test]
#[ignore = "needs root"]
fn generic_mode_carries_everything_and_status_says_why_it_is_not_the_driver() {
    Lab::builder("generic").dataplane("attach = \"generic\"").run(|lab| {
        deployed(lab, [Mode::Xdp; 2], |c1, c2| {
            carries_everything(c1, c2)?;
            for host in lab.hosts() {
                let frames = host.frames()?;
                eprintln!("{}: {frames:?}", host.name());
                ensure!(frames.xdp.encap > 0 && frames.xdp.decap > 0, "{}: {frames:?}", host.name());
                for device in devices(host)? {
                    ensure!(device["regime"] == "generic", "{device}");
                }
                let told = told(host)?;
                let lines = told.lines().filter(|line| line.ends_with(": generic as `attach` says"));
                ensure!(lines.count() == 2, "not one for the underlay and one for the port:\n{told}");
            }
            Ok(())
        })
    });
}

#[test]
#[ignore = "needs root"]
fn the_regime_of_veths_is_the_driver_in_copy_mode_and_status_says_why() {
    Lab::builder("driver").run(|lab| {
        deployed(lab, [Mode::Xdp; 2], |_, _| {
            for device in devices(lab.h1())? {
                ensure!(device["regime"] == "driver" && device["zero_copy"] == false, "{device}");
            }
            let told = told(lab.h1())?;
            ensure!(told.contains("eth0: copy: veth ports only copy, and share its memory"), "{told}");
            Ok(())
        })
    });
}

#[test]
#[ignore = "needs root"]
fn zero_copy_that_cannot_be_had_is_refused_with_the_reason() {
    Lab::builder("zero").dataplane("zero_copy = \"require\"").run(|lab| {
        lab.h1().container("c1")?;
        let config = lab.h1().write_config(&config_of(lab, Family::V4, &[Segment::scenario()], 1))?;
        let Err(refused) = lab.h1().start_vxdp(&config, Mode::Xdp) else { bail!("it started") };
        let refused = format!("{refused:#}");
        ensure!(
            refused.contains("`zero_copy = \"require\"` cannot be had: container ports are veths"),
            "{refused}"
        );
        // The overlay is not at stake: the same file serves in kernel mode, and the switch says why it is refused.
        let _daemon = lab.h1().start_vxdp(&config, Mode::Kernel)?;
        let switched = lab.h1().vxdp(&["mode", "xdp"])?;
        ensure!(switched.code() == Some(1) && switched.stderr.contains("cannot be had"), "{switched:?}");
        Ok(())
    });
}

/// How often the worker looks at its rings in a second while nothing arrives.
///
/// Counted, not timed: what a turn costs depends on who else is on the machine (`docs/performance.md`).
fn idle_turns_per_second(host: &Host) -> Result<f64> {
    let turns = || -> Result<u64> {
        let turns = &host.status()?["modes"]["engine"]["queues"][0]["turns"];
        turns.as_u64().with_context(|| format!("no turns in {turns}"))
    };
    let (before, begin) = (turns()?, Instant::now());
    std::thread::sleep(IDLE);
    Ok((turns()? - before) as f64 / begin.elapsed().as_secs_f64())
}

/// Everything crosses with h1 in this mode; answers how often h1's worker looks at its rings when idle.
fn polls(mode: &str) -> f64 {
    let mut idle = 0.0;
    Lab::builder(mode).dataplane(&format!("poll = \"{mode}\"")).run(|lab| {
        deployed(lab, [Mode::Xdp, Mode::Kernel], |c1, c2| {
            carries_everything(c1, c2)?;
            let frames = lab.h1().frames()?.xdp;
            ensure!(frames.encap > 1000 && frames.decap > 1000, "{frames:?}");
            idle = idle_turns_per_second(lab.h1())?;
            eprintln!("{mode}: {idle:.0} turns a second when idle");
            Ok(())
        })
    });
    idle
}

// 50 a second are by the clock (`LONGEST_SLEEP`); the rest is for frames that the kernels send by themselves.

#[test]
#[ignore = "needs root"]
fn adaptive_polling_carries_everything_and_sleeps_when_idle() {
    let idle = polls("adaptive");
    assert!(idle < 200.0, "{idle} turns a second");
}

#[test]
#[ignore = "needs root"]
fn interrupt_mode_carries_everything_and_sleeps_when_idle() {
    let idle = polls("interrupt");
    assert!(idle < 200.0, "{idle} turns a second");
}

#[test]
#[ignore = "needs root"]
fn busy_polling_carries_everything_and_never_sleeps() {
    let idle = polls("busy");
    assert!(idle > 2000.0, "{idle} turns a second: it sleeps");
}
