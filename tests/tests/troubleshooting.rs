//! `docs/troubleshooting.md` is true: its transcripts are run in a lab with the trouble that they are about.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use vxdp_lab::{Attachment, Host, Lifetime, Mode, Ping, Transcript, TwoHosts, wait_until};

const PAGE: &str = include_str!("../../docs/troubleshooting.md");

/// Runs what the page shows under `headline`, once the trouble shows. The page's hosts are in xdp mode; in another one
/// the same is shown, but who carries the frames.
fn is_true(hosts: &TwoHosts, mode: Mode, headline: &str) -> Result<()> {
    let carrier = if mode == Mode::Xdp { "userspace" } else { mode.as_str() };
    let [theirs, ours] = [carrier, "userspace"].map(|name| format!("{name:<10} "));
    let in_xdp_mode = |text: &str| {
        text.replace(&format!("carried by: {carrier}"), "carried by: userspace")
            .replace(&format!("▶ {theirs}"), &format!("  {theirs}"))
            .replace(&format!("  {ours}"), &format!("▶ {ours}"))
    };
    for transcript in Transcript::under(PAGE, &format!("### {headline}"))? {
        transcript.is_true(hosts.lab().hosts(), |page, text| page.is_shown(&in_xdp_mode(text)))?;
    }
    Ok(())
}

fn with_hosts(name: &str, mode: Mode, steps: impl FnOnce(&TwoHosts) -> Result<()>) {
    let hosts = TwoHosts::build(name, Attachment::Netns, mode, Lifetime::Bound)
        .unwrap_or_else(|error| panic!("no lab: {error:#}"));
    steps(&hosts).unwrap_or_else(|error| panic!("{name}: {error:#}"));
}

#[test]
#[ignore = "needs root"]
fn the_pages_three_causes_are_found_with_its_commands_in_every_mode() {
    Mode::ALL.into_iter().for_each(three_causes);
}

fn three_causes(mode: Mode) {
    with_hosts("trouble", mode, |hosts| {
        for host in hosts.lab().hosts() {
            host.prepare_for_pages()?;
            host.script("cp /usr/share/doc/vxdp/examples/host[12].toml /etc/vxdp")?;
        }
        let [(c1, _), (_, address2)] = hosts.containers()?;
        Ping::new(address2).count(2).expect_all(&c1)?;
        is_true(hosts, mode, "Nobody told this host where the MAC is")?;
        let (h1, h2) = (hosts.lab().h1(), hosts.lab().h2());
        h2.script("ip netns del c2")?;
        is_true(hosts, mode, "The container is gone on the other host")?;
        h2.script("ip address del 192.168.10.22/24 dev eth0")?;
        h1.script("ip neigh flush dev eth0; ip neigh del 192.168.10.22 dev eth0 || true; ping -c1 -W1 192.168.10.22 || true")?;
        is_true(hosts, mode, "The other host does not answer")
    });
}

fn report(host: &Host) -> Result<(Option<i32>, Value)> {
    let outcome =
        host.vxdp(&["doctor", "--json", "--config", host.config_path().to_str().context("not UTF-8")?])?;
    Ok((outcome.code(), serde_json::from_str(&outcome.stdout)?))
}

/// Of the machine's own settings a test knows nothing, so it looks at one of the overlay's.
#[test]
#[ignore = "needs root"]
fn doctor_finds_fixes_and_puts_back() {
    with_hosts("doctor", Mode::Kernel, |hosts| {
        let host = hosts.lab().h1();
        let overlay = host.netns("overlay");
        let file = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        overlay.script(&format!("echo 1 > {file}"))?;
        let setting = || overlay.exec(["cat", file]);
        let (code, json) = report(host)?;
        ensure!(code == Some(1) && json["verdict"] == "slower", "{code:?}: {json}");
        let findings = json["findings"].as_array().context("no findings")?;
        let found =
            findings.iter().find(|finding| finding["what"].to_string().contains("bridge-nf-call-iptables"));
        ensure!(found.is_some_and(|found| found["command"].to_string().contains("sysctl -w")), "{json}");
        let config = host.config_path();
        let binary = vxdp_lab::vxdp_binary()?;
        let words = [binary.to_str(), Some("doctor"), Some("--fix"), Some("--config"), config.to_str()];
        let words: Vec<_> = words.into_iter().collect::<Option<_>>().context("not UTF-8")?;
        // Ctrl-C, and a terminal that is closed: then nobody reads what is said.
        for ending in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGHUP] {
            let mut fixing = host.command(words.clone());
            let mut fixing =
                fixing.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn()?;
            let fixed = wait_until("it is fixed", Duration::from_secs(10), || Ok(setting()?.trim() == "0"));
            drop(fixing.stderr.take());
            let pid = nix::unistd::Pid::from_raw(fixing.id().try_into()?);
            nix::sys::signal::kill(pid, ending)?;
            let back = wait_until("it is put back", Duration::from_secs(10), || Ok(setting()?.trim() == "1"));
            fixing.kill()?;
            fixing.wait()?;
            fixed.and(back)?;
        }
        host.script("ip route del 192.168.10.0/24 dev eth0")?;
        let (code, json) = report(host)?;
        ensure!(
            code == Some(2) && json.to_string().contains("no route leads to 192.168.10.22"),
            "{code:?}: {json}"
        );
        Ok(())
    });
}

/// How many findings say this.
fn findings(host: &Host, words: &str) -> Result<usize> {
    let (_, json) = report(host)?;
    let findings = json["findings"].as_array().context("no findings")?;
    Ok(findings
        .iter()
        .filter(|finding| finding["what"].as_str().is_some_and(|what| what.contains(words)))
        .count())
}

#[test]
#[ignore = "needs root"]
fn doctor_sees_a_narrow_route_an_offload_that_is_off_and_a_container_that_is_away_once_each() {
    with_hosts("doctors", Mode::Kernel, |hosts| {
        let host = hosts.lab().h1();
        for (words, cause, cure) in [
            (
                "192.168.10.22 takes packets of 1400 bytes; an inner MTU of 1450",
                "ip route add 192.168.10.22/32 dev eth0 mtu 1400",
                "ip route del 192.168.10.22/32 dev eth0",
            ),
            (
                "eth0: tx-udp_tnl-segmentation is off",
                "ethtool -K eth0 tx-udp_tnl-segmentation off",
                "ethtool -K eth0 tx-udp_tnl-segmentation on",
            ),
        ] {
            ensure!(findings(host, words)? == 0, "{words}: before {cause}");
            host.script(cause)?;
            ensure!(findings(host, words)? == 1, "{words}: {cause}");
            host.script(cure)?;
            ensure!(findings(host, words)? == 0, "{words}: {cure}");
        }
        host.script("ip netns del c1")?;
        wait_until("the daemon knows", Duration::from_secs(10), || {
            Ok(host.status()?["overlays"][0]["containers"][0]["attached"] == false)
        })?;
        let (code, json) = report(host)?;
        ensure!(code == Some(2) && findings(host, "c1")? == 1, "{json}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn trace_knows_the_ways_of_a_frame_in_each_mode() {
    for (mode, now) in [(Mode::Kernel, "kernel"), (Mode::Xdp, "userspace"), (Mode::InKernel, "inkernel")] {
        with_hosts("trace", mode, |hosts| {
            let [(c1, _), (_, address2)] = hosts.containers()?;
            Ping::new(address2).count(2).expect_all(&c1)?;
            let (c1, c2) = ("02:42:0a:00:00:02", "02:42:0a:00:00:03");
            let trace = |host: &Host, src: &str, dst: &str| -> Result<Value> {
                let words = ["trace", "--vni", "42", "--src", src, "--dst", dst, "--json"];
                Ok(serde_json::from_str(&host.vxdp(&words)?.success()?)?)
            };
            let (h1, h2) = (hosts.lab().h1(), hosts.lab().h2());
            let rows = h1.vxdp(&["fdb", "show", "--mac", c2])?.success()?;
            ensure!(rows.contains(c2) && rows.lines().skip(1).all(|row| row.contains(c2)), "{rows}");
            let sent = trace(h1, c1, c2)?;
            ensure!(sent["now"] == now && sent["arrives"] == true, "{sent}");
            ensure!(sent["userspace"].to_string().contains("encapsulated"), "{sent}");
            let received = trace(h2, c1, c2)?;
            ensure!(
                received["arrives"] == true && received["inkernel"].to_string().contains("decapsulated"),
                "{received}"
            );
            let back = trace(h2, c1, c1)?;
            ensure!(
                back["arrives"] == false && back["kernel"].to_string().contains("split horizon"),
                "{back}"
            );
            let strange = trace(h1, "02:42:0a:00:00:77", c2)?;
            ensure!(strange["userspace"].to_string().contains("unknown_source"), "{strange}");
            let flooded = trace(h1, c1, "ff:ff:ff:ff:ff:ff")?;
            ensure!(flooded["userspace"].to_string().contains("multicast"), "{flooded}");
            h1.script("ip route add 192.168.10.22/32 dev eth0 mtu 1400")?;
            let narrow = trace(h1, c1, c2)?;
            ensure!(
                narrow["arrives"] == true && narrow["inkernel"].to_string().contains("unresolved_vtep"),
                "{narrow}"
            );
            let Err(error) = trace(h1, c1, "nonsense") else { bail!("nonsense has a way") };
            ensure!(error.to_string().contains("nonsense"), "{error}");
            Ok(())
        });
    }
}
