//! `vxdp doctor`: what it foretells is what xdp mode gets, and what stands in the way is found, in every mode.
//!
//! Its `--fix`, and what the daemon knows of containers, are in `tests/tests/troubleshooting.rs`; a program of others
//! is in `tests/tests/foreign.rs`.

use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vxdp_lab::{Family, Host, Lab, Mode, Segment, VXLAN_PORT, config_of, deploy, scenario};

/// What it finds, and its exit code.
struct Report {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Report {
    fn of(host: &Host) -> Result<Self> {
        let config = host.config_path();
        let config = config.to_str().context("not UTF-8")?;
        let outcome = host.vxdp(&["doctor", "--json", "--config", config])?;
        let report: Value = serde_json::from_str(&outcome.stdout)?;
        let findings = report["findings"].as_array().context("no findings")?.clone();
        for finding in &findings {
            let says = |key: &str| finding[key].as_str().is_some_and(|words| !words.is_empty());
            ensure!(["what", "why", "command"].into_iter().all(says), "{finding}");
        }
        Ok(Self { code: outcome.code(), findings })
    }

    /// The one finding that begins so.
    fn only(&self, words: &str) -> Result<&Value> {
        let says = |finding: &&Value| finding["what"].as_str().is_some_and(|what| what.starts_with(words));
        let found: Vec<_> = self.findings.iter().filter(says).collect();
        ensure!(found.len() == 1, "{} times `{words}` in {:#?}", found.len(), self.findings);
        Ok(found[0])
    }

    fn has(&self, words: &str) -> bool {
        self.findings.iter().any(|finding| finding["what"].to_string().contains(words))
    }

    /// What makes it slower or does not work, but for what belongs to the machine and not to the lab.
    fn troubles(&self) -> Vec<&Value> {
        let of_machine = |finding: &Value| {
            let what = finding["what"].as_str().unwrap_or_default();
            ["BPF's compiler", "Linux ", "the kernel is built without"].iter().any(|of| what.starts_with(of))
        };
        let is_fine = |finding: &Value| finding["severity"] == "fine";
        self.findings.iter().filter(|finding| !is_fine(finding) && !of_machine(finding)).collect()
    }

    /// Whether the exit code is that of the worst finding.
    fn is_judged_by_the_worst(&self) -> bool {
        let code = |finding: &Value| match finding["severity"].as_str() {
            Some("broken") => 2,
            Some("slower") => 1,
            _ => 0,
        };
        self.code == Some(self.findings.iter().map(code).max().unwrap_or(0))
    }
}

/// Before a daemon runs it says what `vxdp mode xdp` then gets.
fn foretells(lab: &Lab, dataplane: &str) -> Result<()> {
    let (host, segment) = (lab.h1(), Segment::scenario());
    let text = config_of(lab, Family::V4, &[segment], 1);
    let text = text.replacen("[dataplane]\n", &format!("[dataplane]\n{dataplane}\n"), 1);
    let config = host.write_config(&text)?;
    let before = Report::of(host)?;
    let daemon = host.start_vxdp(&config, Mode::Kernel)?;
    let words = ["mode", "xdp", "--engine"];
    let engine = dataplane.split('"').nth(1).context("no engine")?;
    host.vxdp(&[&words[..], &[engine]].concat())?.success()?;
    let modes = host.status()?["modes"].take();
    let (overlay, nic) = (&modes["overlays"][0], &modes["engine"]["devices"][0]);
    let why =
        overlay["why"].as_str().map_or_else(|| "as configured".to_owned(), |why| format!("because {why}"));
    let got = overlay["engine"].as_str().context("no engine")?;
    let foretold = before.only(&format!("overlay 42 on port 4789 in xdp mode: {got} engine, {why}"))?;
    let hook = match nic["regime"].as_str().context("no regime")? {
        "tc" => "tc".to_owned(),
        regime => format!("XDP ({regime})"),
    };
    let copy = match (got, nic["limits"].as_array().context("no limits")?.iter().find_map(Value::as_str)) {
        ("userspace", Some(limit)) => limit,
        _ => "no sockets",
    };
    let gets = foretold["why"].as_str().unwrap_or_default();
    ensure!(gets.contains(&format!("on eth0 it gets {hook}, {copy}")), "{dataplane}: {gets}, but got {nic}");
    ensure!(
        Report::of(host)?.only("overlay 42 on port 4789 in xdp mode")? == foretold,
        "it changes its mind"
    );
    daemon.stop()?;
    host.vxdp(&["down", "--config", config.to_str().context("not UTF-8")?])?.success()?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn doctor_foretells_what_xdp_mode_gets() {
    scenario("foretell", |lab| {
        lab.h1().container("c1")?;
        lab.take_xdp_frames()?;
        for dataplane in [
            "engine = \"userspace\"",
            "engine = \"inkernel\"",
            "engine = \"auto\"",
            "engine = \"inkernel\"\nhook = \"xdp\"",
        ] {
            foretells(lab, dataplane)?;
        }
        Ok(())
    });
}

/// What it says of xdp mode with these lines in `[dataplane]`, over this device; and what `vxdp mode xdp` says.
fn tries(lab: &Lab, device: &str, dataplane: &str) -> Result<(Value, String)> {
    let host = lab.h1();
    let text = config_of(lab, Family::V4, &[Segment::scenario()], 1);
    let text = text.replacen("[dataplane]\n", &format!("[dataplane]\n{dataplane}\n"), 1);
    let config = host.write_config(&text.replacen("\"eth0\"", &format!("\"{device}\""), 1))?;
    let report = Report::of(host)?;
    ensure!(report.is_judged_by_the_worst(), "{:?}: {:#?}", report.code, report.findings);
    let foretold = report.only("overlay 42 on port 4789 in xdp mode")?.clone();
    let daemon = host.start_vxdp(&config, Mode::Kernel)?;
    let said = host.vxdp(&["mode", "xdp"])?.stderr;
    daemon.stop()?;
    Ok((foretold, said))
}

#[test]
#[ignore = "needs root"]
fn doctor_foretells_what_a_driver_refuses_and_what_changes_that() {
    scenario("refused", |lab| {
        lab.h1().container("c1")?;
        let at_xdp = "engine = \"inkernel\"\nhook = \"xdp\"";
        // A veth sends frames of XDP programs only while its other end has NAPI.
        lab.h2().exec(["ethtool", "-K", "eth0", "gro", "off"])?;
        let (foretold, said) = tries(lab, "eth0", at_xdp)?;
        ensure!(foretold["what"].to_string().contains("nothing, because eth0 takes no frames"), "{foretold}");
        ensure!(
            foretold["severity"] == "slower" && said.contains("takes no frames"),
            "{foretold}, but {said}"
        );
        ensure!(foretold["command"].to_string().contains("gro on"), "{foretold}");
        lab.h2().exec(["ethtool", "-K", "eth0", "gro", "on"])?;
        let (foretold, said) = tries(lab, "eth0", at_xdp)?;
        ensure!(foretold["severity"] == "fine" && said.is_empty(), "{foretold}, but {said}");
        // A bridge has no driver that could run programs.
        lab.h1().script(
            "ip link add under type bridge; ip address flush dev eth0; ip link set eth0 master under; \
             ip address add 192.168.10.21/24 dev under; ip link set under up",
        )?;
        let (foretold, said) = tries(lab, "under", "engine = \"userspace\"\nattach = \"driver\"")?;
        ensure!(foretold["what"].to_string().contains("driver of under has no XDP"), "{foretold}");
        ensure!(foretold["severity"] == "slower" && !said.is_empty(), "{foretold}, but {said}");
        ensure!(foretold["command"] == "attach = \"auto\" in [dataplane]", "{foretold}");
        let (foretold, said) = tries(lab, "under", "engine = \"userspace\"\nattach = \"auto\"")?;
        ensure!(
            foretold["why"].to_string().contains("XDP (generic)") && said.is_empty(),
            "{foretold}: {said}"
        );
        Ok(())
    });
}

/// With nothing in the way, then with a MAC that others have put elsewhere.
fn judges(lab: &Lab, mode: Mode) -> Result<()> {
    let segment = Segment::scenario().remote_setting("install = \"on-miss\"");
    let _daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &[mode; 2])?;
    let (host, overlay) = (lab.h1(), lab.h1().netns("overlay"));
    for table in ["iptables", "ip6tables", "arptables"] {
        let file = format!("/proc/sys/net/bridge/bridge-nf-call-{table}");
        overlay.script(&format!("if [ -e {file} ]; then echo 0 > {file}; fi"))?;
    }
    let report = Report::of(host)?;
    ensure!(report.troubles().is_empty() && report.is_judged_by_the_worst(), "{:#?}", report.findings);
    ensure!(
        report.has("no AF_XDP zero-copy") || report.has("eth0: features unknown"),
        "{:#?}",
        report.findings
    );
    ensure!(!report.has("another XDP program"), "ours is taken for another's: {:#?}", report.findings);
    // More rows than an answer of the daemon's has room for: it looks at all.
    let batch = host.dir().join("rows");
    let row = |number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        format!("fdb add 06:00:00:{a:02x}:{b:02x}:{c:02x} dev vxlan1 dst 192.168.10.22 self dynamic\n")
    };
    std::fs::write(&batch, (0..15_000).map(row).collect::<String>())?;
    overlay.exec(["bridge", "-batch", batch.to_str().context("not UTF-8")?])?;
    let mac = "02:42:0a:00:00:03";
    overlay.script(&format!("bridge fdb replace {mac} dev vxlan1 dst 192.168.10.99 self dynamic"))?;
    let report = Report::of(host)?;
    let found =
        report.only(&format!("{mac} is behind VTEP 192.168.10.99; the configuration has it behind"))?;
    ensure!(found["severity"] == "broken" && report.code == Some(2), "{:?}: {found}", report.code);
    // The command does what it says.
    let command = found["command"].as_str().context("no command")?;
    let (command, _) = command.split_once("  #").context("no comment")?;
    let words: Vec<_> =
        command.strip_prefix("vxdp ").context(command.to_owned())?.split_whitespace().collect();
    host.vxdp(&words)?.success()?;
    ensure!(!Report::of(host)?.has(mac), "`{command}` changes nothing");
    overlay.script(&format!(
        "ip link add other type veth peer name far; ip link set other master br0
         bridge fdb add {mac} dev other master static"
    ))?;
    let report = Report::of(host)?;
    let found = report.only(&format!("{mac} is behind the port other of this host"))?;
    host.script(found["command"].as_str().context("no command")?)?;
    ensure!(!Report::of(host)?.has(mac), "{} changes nothing", found["command"]);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn doctor_finds_nothing_wrong_and_then_a_mac_behind_another_vtep_in_every_mode() {
    for mode in Mode::ALL {
        scenario("judge", |lab| judges(lab, mode));
    }
}

#[test]
#[ignore = "needs root"]
fn doctor_finds_the_udp_port_taken_and_queues_without_a_worker() {
    Lab::builder("taken").queues(2).run(|lab| {
        let host = lab.h1();
        host.container("c1")?;
        host.write_config(&config_of(lab, Family::V4, &[Segment::scenario()], 1))?;
        let taken = host.place().enter(|| Ok(UdpSocket::bind(("0.0.0.0", VXLAN_PORT))?))?;
        let words = format!("UDP port {VXLAN_PORT} is taken by");
        let report = Report::of(host)?;
        ensure!(report.has(&words) && report.code == Some(2), "{:?}: {:#?}", report.code, report.findings);
        drop(taken);
        let report = Report::of(host)?;
        ensure!(!report.has(&words), "{:#?}", report.findings);
        let queues = report.only("eth0 has 2 receive queues, and there are 1 workers")?;
        ensure!(queues["severity"] == "slower" && report.is_judged_by_the_worst(), "{queues}");
        let foretold = report.only("overlay 42 on port 4789 in xdp mode")?;
        ensure!(foretold["why"].to_string().contains("1 of 2 receive queues"), "{foretold}");
        Ok(())
    });
}
