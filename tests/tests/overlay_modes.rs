//! Overlays of one host in different modes: what is asked of one of them does not touch the others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use vxdp_lab::{Family, Host, Lab, Mode, Probe, Segment, config_of, deploy, wait_until};

const FAST: [Mode; 2] = [Mode::Xdp, Mode::InKernel];

/// Two segments with equal MACs and addresses: VNI 42, and 43 with these lines in its `[[overlay]]`.
fn red_and_blue(settings: &str) -> [Segment; 2] {
    let blue = Segment::new(43)
        .netns("overlay43")
        .setting(settings)
        .member(1, "blue1", "02:42:0a:00:00:02", "10.0.0.2/24")
        .member(2, "blue2", "02:42:0a:00:00:03", "10.0.0.3/24");
    [Segment::scenario(), blue]
}

fn probe(lab: &Lab, segment: &Segment) -> Result<Probe> {
    let ((from, _), (to, address)) = (segment.place(lab, 0)?, segment.place(lab, 1)?);
    Probe::start(&from, &to, address, Duration::from_millis(2))
}

/// The other host's VTEP.
fn peer_of(lab: &Lab, host: &Host) -> String {
    let other = if host.name() == lab.h1().name() { lab.h2() } else { lab.h1() };
    other.ipv4().to_string()
}

/// The modes of VNI 42 and 43.
fn modes(host: &Host) -> Result<[String; 2]> {
    let status = host.status()?;
    let mode = |index: usize| Some(status["modes"]["overlays"][index]["mode"].as_str()?.to_owned());
    mode(0).zip(mode(1)).map(|(red, blue)| [red, blue]).context("no modes")
}

/// Frames that fast paths have put into tunnels of this VNI.
fn carried(host: &Host, vni: u32) -> Result<u64> {
    let engine = host.status()?["modes"]["engine"].take();
    let overlays = engine["overlays"].as_array().context("no overlays")?;
    let ours = overlays.iter().filter(|overlay| overlay["vni"] == vni);
    Ok(ours.filter_map(|overlay| overlay["encap"]["frames"].as_u64()).sum())
}

/// Waits until fast paths have carried 50 frames more of this VNI.
fn flies(host: &Host, vni: u32) -> Result<()> {
    let before = carried(host, vni)?;
    wait_until(&format!("VNI {vni} is carried on {}", host.name()), Duration::from_secs(10), || {
        Ok(carried(host, vni)? > before + 50)
    })
}

#[test]
#[ignore = "needs root"]
fn one_overlay_changes_its_mode_under_traffic_and_the_other_is_undisturbed() {
    FAST.into_iter().for_each(changes_alone);
}

fn changes_alone(mode: Mode) {
    Lab::builder("alone").run(|lab| {
        let segments = red_and_blue("");
        let _daemons = deploy(lab, Family::V4, &segments, &[mode; 2])?;
        lab.hosts().iter().try_for_each(Host::wait_for_fast_path)?;
        let probes = [probe(lab, &segments[0])?, probe(lab, &segments[1])?];
        for host in lab.hosts() {
            flies(host, 43)?;
            host.vxdp(&["mode", "kernel", "--vni", "43"])?.success()?;
            ensure!(modes(host)? == ["xdp", "kernel"], "{:?} on {}", modes(host)?, host.name());
            ensure!(host.status()?["mode"] == "mixed", "{}", host.status()?["mode"]);
            probes[1].wait_for(100)?;
            let blue = carried(host, 43)?;
            flies(host, 42)?;
            probes[1].wait_for(100)?;
            ensure!(carried(host, 43)? == blue, "the fast path carries VNI 43 on {}", host.name());
            host.vxdp(&[&["mode"], mode.words(), &["--vni", "43"]].concat())?.success()?;
            flies(host, 43)?;
            flies(host, 42)?;
        }
        for (probe, vni) in probes.into_iter().zip([42, 43]) {
            let probed = probe.stop()?;
            eprintln!("{}, VNI {vni}: {probed:?}", mode.as_str());
            ensure!((probed.lost, probed.doubled) == (0, 0), "VNI {vni}: {probed:?}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn an_overlay_has_the_mode_that_its_part_of_the_configuration_names() {
    FAST.into_iter().for_each(|mode| {
        let engine = mode.words()[2];
        let dataplane = format!("mode = \"xdp\"\nengine = \"{engine}\"");
        Lab::builder("named").dataplane(&dataplane).run(|lab| {
            let segments = red_and_blue("mode = \"kernel\"");
            lab.hosts().iter().zip([["c1", "blue1"], ["c2", "blue2"]]).try_for_each(|(host, names)| {
                names.into_iter().try_for_each(|name| host.container(name).map(drop))
            })?;
            let mut daemons = Vec::new();
            for (number, host) in (1..).zip(lab.hosts()) {
                let config = host.write_config(&config_of(lab, Family::V4, &segments, number))?;
                daemons.push(host.start_vxdp_as_configured(&config)?);
            }
            let probes = [probe(lab, &segments[0])?, probe(lab, &segments[1])?];
            for host in lab.hosts() {
                ensure!(modes(host)? == ["xdp", "kernel"], "{:?} on {}", modes(host)?, host.name());
                flies(host, 42)?;
                ensure!(carried(host, 43)? == 0, "the fast path carries VNI 43 on {}", host.name());
                // VTEPs of the overlay without an engine are shown beside the others.
                let row = "bridge fdb add 02:42:0a:00:00:77 dev vxlan1 dst 192.168.10.77 self dynamic";
                host.netns("overlay43").script(row)?;
                let status = host.status()?;
                let shown = |vteps: &Value, address: &str| {
                    vteps.as_array().is_some_and(|vteps| vteps.iter().any(|vtep| vtep["address"] == address))
                };
                ensure!(shown(&status["vteps"], "192.168.10.77"), "{status}");
                ensure!(shown(&status["modes"]["engine"]["peers"], &peer_of(lab, host)), "{status}");
            }
            probes.into_iter().try_for_each(|probe| probe.stop().map(drop))
        });
    });
}

#[test]
#[ignore = "needs root"]
fn xdp_mode_for_one_overlay_does_not_fail_for_anothers_trouble() {
    Lab::builder("trouble").run(|lab| {
        let (h1, segments) = (lab.h1(), red_and_blue(""));
        ["c1", "blue1"].into_iter().try_for_each(|name| h1.container(name).map(drop))?;
        let config = config_of(lab, Family::V4, &segments, 1);
        let daemon = h1.start_vxdp(&h1.write_config(&config)?, Mode::Xdp)?;
        ensure!(modes(h1)? == ["xdp", "xdp"], "{:?}", modes(h1)?);
        // Userspace cannot be had with this, the programs can.
        let required = config.replace("[dataplane]\n", "[dataplane]\nzero_copy = \"require\"\n");
        h1.write_config(&required)?;
        kill(Pid::from_raw(daemon.pid().try_into()?), Signal::SIGHUP)?;
        wait_until("userspace is refused", Duration::from_secs(10), || {
            Ok(modes(h1)? == ["kernel", "kernel"])
        })?;
        h1.vxdp(&["mode", "xdp", "--engine", "inkernel", "--vni", "42"])?.success()?;
        ensure!(modes(h1)? == ["xdp", "kernel"], "{:?}", modes(h1)?);
        let refused = h1.vxdp(&["mode", "xdp", "--vni", "43"])?;
        ensure!(refused.code() == Some(1) && refused.stderr.contains("cannot be had"), "{refused:?}");
        ensure!(modes(h1)? == ["xdp", "kernel"], "{:?}", modes(h1)?);
        Ok(())
    });
}
