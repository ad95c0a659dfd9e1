//! Switching, stopping, hanging, dying and upgrading under load: what each costs, in frames and in time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vxdp_lab::{
    Cost, Daemon, Family, Lab, Load, Mode, Place, Segment, config_of, deploy, scenario, wait_until,
};

/// The scenario in a lab, with a container on each side.
struct Scene<'a> {
    lab: &'a Lab,
    mode: Mode,
    daemons: Vec<Daemon>,
    ends: [(Place, IpAddr); 2],
}

/// What an event on one host may cost. The figures that were measured are in `docs/operations.md`.
struct Bound {
    /// Datagrams, of one each 2 ms.
    lost: usize,
    /// Longest time without any.
    gap: Duration,
}

const fn bound(lost: usize, gap_ms: u64) -> Bound {
    Bound { lost, gap: Duration::from_millis(gap_ms) }
}

/// Nothing is lost; what is late is the machine's affair, not ours.
const NOTHING: Bound = bound(0, 1000);

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, mode: Mode) -> Result<Self> {
        let segment = Segment::scenario();
        let daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &[mode; 2])?;
        let scene = Self { lab, mode, daemons, ends: [segment.place(lab, 0)?, segment.place(lab, 1)?] };
        if mode.is_fast() {
            lab.hosts().iter().try_for_each(vxdp_lab::Host::wait_for_fast_path)?;
            let load = scene.load()?;
            scene.lab.h1().wait_for_userspace(100)?;
            load.stop()?;
        }
        Ok(scene)
    }

    fn load(&self) -> Result<Load> {
        let [(c1, address1), (c2, address2)] = &self.ends;
        Load::start([(c1, *address1), (c2, *address2)])
    }

    /// Does `work` under load and holds what it cost against the bound.
    fn costs<T>(&self, event: &str, bound: &Bound, work: impl FnOnce(&Load) -> Result<T>) -> Result<T> {
        let load = self.load()?;
        let outcome = work(&load).with_context(|| event.to_owned());
        let cost = load.stop().with_context(|| event.to_owned())?;
        eprintln!("{} mode, {event}: {cost}", self.mode.as_str());
        let Cost { probe, .. } = cost;
        ensure!(probe.lost <= bound.lost && probe.gap <= bound.gap && probe.doubled == 0, "{event}: {cost}");
        outcome
    }

    /// The shell's own `kill`: a minimal Debian has no program of that name.
    fn signal(&self, signal: &str) -> Result<()> {
        self.lab.h1().script(&format!("kill {signal} {}", self.daemons[0].pid())).map(drop)
    }

    /// Waits until the fast path carries, in the mode that has one.
    fn wait_for_userspace(&self) -> Result<()> {
        match self.mode {
            Mode::Kernel => Ok(()),
            Mode::Xdp | Mode::InKernel => self.lab.h1().wait_for_userspace(100),
        }
    }
}

fn in_every_mode(name: &str, steps: impl Fn(Scene<'_>) -> Result<()>) {
    for mode in Mode::ALL {
        scenario(name, |lab| {
            steps(Scene::new(lab, mode)?).with_context(|| format!("{} mode", mode.as_str()))
        });
    }
}

#[test]
#[ignore = "needs root"]
fn switching_modes_loses_nothing_and_breaks_no_connection() {
    scenario("switch", |lab| {
        let scene = Scene::new(lab, Mode::Xdp)?;
        let between = |modes: &[Mode]| {
            scene.costs(&format!("vxdp mode, on both hosts: {modes:?}"), &NOTHING, |load| {
                for mode in modes {
                    for host in lab.hosts() {
                        host.vxdp(&[&["mode"], mode.words()].concat())?.success()?;
                    }
                    load.wait_for(50)?;
                }
                lab.h1().wait_for_userspace(100)
            })
        };
        between(&[Mode::Kernel, Mode::Xdp].repeat(2))?;
        between(&[Mode::Kernel, Mode::InKernel].repeat(2))?;
        between(&[Mode::Xdp, Mode::InKernel].repeat(2))
    });
}

#[test]
#[ignore = "needs root"]
fn a_daemon_that_stops_and_starts_loses_nothing() {
    in_every_mode("restart", |mut scene| {
        let daemon = scene.daemons.remove(0);
        let again = scene.costs("SIGTERM, and a new daemon", &NOTHING, |load| {
            daemon.stop()?;
            load.wait_for(100)?;
            let again = scene.lab.h1().start_vxdp(&scene.lab.h1().config_path(), scene.mode)?;
            scene.wait_for_userspace()?;
            Ok(again)
        })?;
        again.stop()
    });
}

#[test]
#[ignore = "needs root"]
fn a_daemon_that_takes_over_from_another_loses_nothing() {
    in_every_mode("takeover", |mut scene| {
        let mut first = scene.daemons.remove(0);
        let (host, config) = (scene.lab.h1(), scene.lab.h1().config_path());
        let second = scene.costs("vxdp run --takeover", &NOTHING, |load| {
            let second = host.take_over_vxdp(&config, scene.mode)?;
            ensure!(first.wait()?.success(), "the first daemon ended badly:\n{}", first.log_text());
            load.wait_for(100)?;
            scene.wait_for_userspace()?;
            Ok(second)
        })?;
        ensure!(host.status()?["pid"] == second.pid(), "{}", host.status()?);
        // Nobody is there to take over from: then it is an ordinary start.
        second.stop()?;
        host.take_over_vxdp(&config, scene.mode)?.stop()
    });
}

#[test]
#[ignore = "needs root"]
fn a_takeover_that_cannot_be_leaves_the_running_daemon_alone() {
    scenario("no-takeover", |lab| {
        let scene = Scene::new(lab, Mode::Kernel)?;
        let host = lab.h1();
        let broken =
            config_of(lab, Family::V4, &[Segment::scenario()], 1).replace("netns = \"c1\"", "netns = \"c9\"");
        let path = host.dir().join("broken.toml");
        std::fs::write(&path, broken)?;
        let words = ["run", "--takeover", "--config", path.to_str().context("path")?];
        let outcome = host.vxdp(&words)?;
        ensure!(outcome.code() == Some(2) && outcome.stderr.contains("c9"), "{outcome:?}");
        ensure!(host.status()?["pid"] == scene.daemons[0].pid(), "{}", host.status()?);
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn traffic_goes_on_when_the_daemon_hangs_wakes_dies_and_is_started_again() {
    in_every_mode("fail", |mut scene| {
        // The programs take a worker for stuck after 100 ms without a heartbeat; twice that for a busy machine.
        scene.costs("SIGSTOP", &bound(100, 1000), |load| {
            scene.signal("-STOP")?;
            load.wait_for(200)
        })?;
        scene.costs("SIGCONT", &bound(25, 1000), |load| {
            scene.signal("-CONT")?;
            load.wait_for(100)?;
            scene.wait_for_userspace()
        })?;
        let daemon = scene.daemons.remove(0);
        // What sat in the rings, and where there are none, at most what a door swallows that lost its program first.
        let killed = if scene.mode == Mode::Xdp { bound(100, 1000) } else { bound(40, 500) };
        scene.costs("SIGKILL", &killed, |load| {
            daemon.kill()?;
            load.wait_for(200)
        })?;
        let again = scene.costs("a new daemon after SIGKILL", &NOTHING, |load| {
            let again = scene.lab.h1().start_vxdp(&scene.lab.h1().config_path(), scene.mode)?;
            load.wait_for(100)?;
            scene.wait_for_userspace()?;
            Ok(again)
        })?;
        again.stop()
    });
}

#[test]
#[ignore = "needs root"]
fn the_kernel_carries_when_a_daemon_hangs_for_longer_than_its_lease_and_the_programs_when_it_wakes() {
    scenario("lease", |lab| {
        let scene = Scene::new(lab, Mode::InKernel)?;
        let overlay = lab.h1().netns("overlay");
        let by_the_kernel = || -> Result<u64> {
            let device = overlay.json(["ip", "-json", "-s", "link", "show", "vxlan1"])?;
            device[0]["stats64"]["tx"]["packets"].as_u64().context("no counter")
        };
        scene.costs("SIGSTOP for longer than the lease", &NOTHING, |load| {
            let before = by_the_kernel()?;
            scene.signal("-STOP")?;
            let stopped = Instant::now();
            load.wait_for(200)?;
            // The last renewal was a second ago at most, so the programs have four more.
            if stopped.elapsed() < Duration::from_secs(3) {
                let early = by_the_kernel()? - before;
                ensure!(early < 20, "the kernel carried {early} frames within the lease");
            }
            wait_until("the lease is over, and the kernel carries", Duration::from_secs(10), || {
                Ok(by_the_kernel()? - before >= 200)
            })?;
            ensure!(stopped.elapsed() > Duration::from_secs(3), "after {:?} already", stopped.elapsed());
            load.wait_for(100)
        })?;
        scene.costs("SIGCONT after that", &NOTHING, |load| {
            scene.signal("-CONT")?;
            load.wait_for(100)?;
            scene.wait_for_userspace()
        })
    });
}

#[test]
#[ignore = "needs root"]
fn traffic_goes_on_when_a_worker_panics_and_the_fast_path_comes_back_by_itself() {
    scenario("panic", |lab| {
        let scene = Scene::new(lab, Mode::Xdp)?;
        let host = lab.h1();
        let switches = || Ok::<_, anyhow::Error>(host.status()?["modes"]["switches"].to_string());
        // A backtrace is written before the sockets close, which may take longer than the heartbeat's 100 ms.
        scene.costs("a worker that panics", &bound(150, 1000), |load| {
            std::fs::write(host.bug_file(), "")?;
            wait_until("the loss is told", Duration::from_secs(10), || {
                Ok(switches()?.contains("a bug, as a test asked for"))
            })?;
            load.wait_for(100)?;
            scene.wait_for_userspace()
        })?;
        ensure!(host.status()?["pid"] == scene.daemons[0].pid(), "{}", host.status()?);
        ensure!(switches()?.contains("the kernel took over"), "{}", switches()?);
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_fast_path_that_is_lost_comes_back_by_itself() {
    for mode in [Mode::Xdp, Mode::InKernel] {
        lost_fast_path_comes_back(mode);
    }
}

fn lost_fast_path_comes_back(mode: Mode) {
    scenario("lost", |lab| {
        let scene = Scene::new(lab, mode)?;
        let host = lab.h1();
        // The engine cannot do without the device it was built over. Before Linux 6.2 only one that is down can
        // be given another name.
        host.script("ip link set eth0 down; ip link set eth0 name gone")?;
        wait_until("the loss is told", Duration::from_secs(10), || {
            let modes = &host.status()?["modes"];
            Ok(modes["mode"] == "kernel" && modes["trouble"].as_str().is_some_and(|why| why.contains("eth0")))
        })?;
        host.script("ip link set gone name eth0; ip link set eth0 up")?;
        let (c1, address2) = (&scene.ends[0].0, scene.ends[1].1);
        let answered =
            || Ok(vxdp_lab::Ping::new(address2).count(1).run(c1).is_ok_and(|pinged| pinged.received == 1));
        wait_until("traffic flows again", Duration::from_secs(15), answered)?;
        let load = scene.load()?;
        host.wait_for_userspace(100)?;
        load.stop()?;
        let switches = host.status()?["modes"]["switches"].to_string();
        ensure!(switches.contains("the kernel took over") && switches.contains("eth0"), "{switches}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn an_uplink_that_somebody_removes_is_made_again() {
    scenario("uplink", |lab| {
        let scene = Scene::new(lab, Mode::InKernel)?;
        let host = lab.h1();
        let uplinks = "ip -o link | sed -n 's/^[0-9]*: \\(vx[0-9a-f]*\\.[0-9]*\\)@.*/\\1/p'";
        let before = host.script(uplinks)?;
        ensure!(before.lines().count() == 1, "the doors of h1: {before}");
        // The daemon looks once a second, and starts the engine again a second later.
        scene.costs("the uplink is removed", &bound(1500, 4000), |load| {
            host.script(&format!("ip link del {}", before.trim()))?;
            wait_until("the loss is told", Duration::from_secs(10), || {
                Ok(host.status()?["modes"]["switches"].to_string().contains(before.trim()))
            })?;
            wait_until("it is made again", Duration::from_secs(10), || Ok(host.script(uplinks)? == before))?;
            load.wait_for(100)?;
            scene.wait_for_userspace()
        })
    });
}
