//! XDP programs of others: left alone, told about, and got along with.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vxdp_lab::{Family, Lab, Mode, Ping, Place, Segment, deploy, scenario, wait_until};

/// Time in which the fast path must have noticed that a device is free again, on a busy machine.
const NOTICED: Duration = Duration::from_secs(20);

/// Compiles a program that passes everything.
fn program(lab: &Lab) -> Result<PathBuf> {
    let (source, object) = (lab.dir().join("pass.c"), lab.dir().join("pass.o"));
    std::fs::write(
        &source,
        "__attribute__((section(\"xdp\"), used)) int pass(void *context) { return 2; }
         char _license[] __attribute__((section(\"license\"), used)) = \"GPL\";\n",
    )?;
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-g", "-target", "bpf", "-c"]).arg(&source).arg("-o").arg(&object);
    let outcome = clang.output().context("while starting clang")?;
    ensure!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    Ok(object)
}

/// Attaches it as any other tool would.
fn attach(lab: &Lab, place: &Place, device: &str, how: &str) -> Result<u64> {
    let object = program(lab)?;
    place.exec([
        "ip",
        "link",
        "set",
        "dev",
        device,
        how,
        "object",
        object.to_str().context("path")?,
        "section",
        "xdp",
    ])?;
    attached(place, device)?.context("iproute2 attached nothing")
}

/// The number of the program on the device.
fn attached(place: &Place, device: &str) -> Result<Option<u64>> {
    let links = place.json(["ip", "-json", "-details", "link", "show", device])?;
    Ok(links[0]["xdp"]["prog"]["id"].as_u64())
}

#[test]
#[ignore = "needs root"]
fn a_program_of_others_on_the_underlay_keeps_the_daemon_in_kernel_mode_until_it_goes() {
    scenario("foreign-nic", |lab| {
        let segment = Segment::scenario();
        let h1 = lab.h1();
        for how in ["xdp", "xdpgeneric"] {
            let theirs = attach(lab, h1, "eth0", how)?;
            if how == "xdp" {
                lab.hosts()
                    .iter()
                    .zip(["c1", "c2"])
                    .try_for_each(|(host, name)| host.container(name).map(drop))?;
            }
            let config =
                h1.write_config(&vxdp_lab::config_of(lab, Family::V4, std::slice::from_ref(&segment), 1))?;
            let path = config.to_str().context("path")?;
            // By name it is an error, and the overlay stands.
            let refused = h1.vxdp(&["run", "--config", path, "--mode", "xdp"])?;
            ensure!(refused.code() == Some(1), "exit code {:?}", refused.code());
            for words in ["`eth0`", &format!("id {theirs}"), "left alone", "--mode kernel"] {
                ensure!(refused.stderr.contains(words), "does not say `{words}`:\n{}", refused.stderr);
            }
            let daemon = h1.start_vxdp(&config, Mode::Kernel)?;
            ensure!(h1.vxdp(&["mode", "xdp"])?.code() == Some(1), "xdp mode over another program");
            h1.vxdp(&["mode", "auto"])?.success()?;
            let shown = h1.vxdp(&["status"])?.success()?;
            ensure!(
                shown.contains("mode kernel") && shown.contains("already carries another XDP program"),
                "{shown}"
            );
            ensure!(attached(h1, "eth0")? == Some(theirs), "their program is not what it was");
            let doctor = h1.vxdp(&["doctor", "--config", path])?;
            let other = "slower: eth0 has another XDP program already";
            ensure!(doctor.stdout.contains(&format!("{other} (id {theirs})")), "{}", doctor.stdout);
            ensure!(doctor.code().is_some_and(|code| code > 0), "exit code {:?}", doctor.code());
            h1.exec(["ip", "link", "set", "dev", "eth0", how, "off"])?;
            wait_until("the fast path takes the free device", NOTICED, || {
                Ok(h1.status()?["modes"]["mode"] == "xdp")
            })?;
            ensure!(attached(h1, "eth0")?.is_some_and(|ours| ours != theirs), "nothing of ours is attached");
            let doctor = h1.vxdp(&["doctor", "--config", path])?;
            ensure!(!doctor.stdout.contains("another XDP program"), "{}", doctor.stdout);
            daemon.stop()?;
            ensure!(attached(h1, "eth0")?.is_none(), "a program stayed behind");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_port_with_a_program_of_others_stays_with_the_kernel_until_that_goes() {
    scenario("foreign-port", |lab| {
        let segment = Segment::scenario();
        let _daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &[Mode::Kernel; 2])?;
        let (c1, _) = segment.place(lab, 0)?;
        let (_, address2) = segment.place(lab, 1)?;
        let (h1, overlay) = (lab.h1(), lab.h1().netns("overlay"));
        let theirs = attach(lab, &overlay, "veth2", "xdp")?;
        h1.vxdp(&["mode", "xdp"])?.success()?;
        let port = || -> Result<serde_json::Value> {
            let status = h1.status()?;
            let devices = status["modes"]["engine"]["devices"].as_array().context("no devices")?;
            Ok(devices.iter().find(|device| device["device"] == "veth2").context("no veth2")?.clone())
        };
        let trouble = port()?["trouble"].as_str().unwrap_or_default().to_owned();
        ensure!(trouble.contains(&format!("id {theirs}")) && trouble.contains("left alone"), "{trouble}");
        let shown = h1.vxdp(&["status"])?.success()?;
        ensure!(shown.contains("left alone"), "status does not say why:\n{shown}");
        Ping::new(address2).expect_all(&c1)?;
        ensure!(attached(&overlay, "veth2")? == Some(theirs), "their program is not what it was");
        overlay.exec(["ip", "link", "set", "dev", "veth2", "xdp", "off"])?;
        wait_until("the port takes part", NOTICED, || Ok(port()?["trouble"].is_null()))?;
        Ping::new(address2).expect_all(&c1)
    });
}
