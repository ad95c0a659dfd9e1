//! Configurations that `vxdp run` refuses: one clear message, exit code 2, and nothing on the host has changed.

use anyhow::{Context, Result, ensure};
use vxdp_lab::{Attachment, Lab, Mode, Outcome, TwoHosts, scenario, vxdp_binary};

/// One way of being wrong.
struct Case {
    what: &'static str,
    /// Part of the example configuration that is replaced …
    from: &'static str,
    /// … by this; the message names the line on which its last line stands.
    to: &'static str,
    /// Words that the message must hold.
    says: &'static str,
}

const fn case(what: &'static str, from: &'static str, to: &'static str, says: &'static str) -> Case {
    Case { what, from, to, says }
}

/// Mistakes that the file alone shows.
const IN_THE_FILE: [Case; 17] = [
    case("syntax", "vni = 42", "vni = = 42", ""),
    case("unknown key", "vni = 42", "vni = 42\nlerning = true", "learning"),
    case("wrong type", "port = 4789", "port = \"4789\"", "port"),
    case("VNI out of 24 bits", "vni = 42", "vni = 16777216", "16777215"),
    case("multicast MAC", "mac = \"02:42:0a:00:00:02\"", "mac = \"03:42:0a:00:00:02\"", "multicast"),
    case("malformed MAC", "mac = \"02:42:0a:00:00:02\"", "mac = \"02:42:0a:00:00\"", "02:42:0a:00:00"),
    case("address outside the prefix", "address = \"10.0.0.3\"", "address = \"10.0.1.3\"", "10.0.0.0/24"),
    case("duplicate MAC", "mac = \"02:42:0a:00:00:03\"", "mac = \"02:42:0a:00:00:02\"", "02:42:0a:00:00:02"),
    case("duplicate address", "address = \"10.0.0.3\"", "address = \"10.0.0.2\"", "10.0.0.2"),
    case("own VTEP", "vtep = \"192.168.10.22\"", "vtep = \"192.168.10.21\"", "192.168.10.21"),
    case("VTEP of the other family", "vtep = \"192.168.10.22\"", "vtep = \"fd00:10::22\"", "IPv4"),
    case("long device name", "device = \"eth0\"", "device = \"a-name-of-17-byte\"", "15"),
    case("long bridge name", "bridge = \"br0\"", "bridge = \"bridge0123456789\"", "15"),
    case("long vxlan name", "vxlan = \"vxlan1\"", "vxlan = \"vxlan01234567890\"", "15"),
    case("long interface name", "interface = \"eth1\"", "interface = \"eth1234567890123\"", "15"),
    case("port zero", "port = 4789", "port = 0", "port"),
    case("no table", "[underlay]", "[underlay]\n[[overlays]]", "overlay"),
];

/// Mistakes that only a look at the host shows.
const ON_THE_HOST: [Case; 5] = [
    case("missing device", "device = \"eth0\"", "device = \"eth9\"", "eth9"),
    case(
        "an address that is not ours",
        "local = \"192.168.10.21\"",
        "local = \"192.168.10.77\"",
        "192.168.10.77",
    ),
    case("MTU too large", "gateway = \"10.0.0.1/24\"", "mtu = 1451", "1450"),
    case("missing namespace", "netns = \"c1\" }", "netns = \"c9\" }", "c9"),
    case("missing process", "netns = \"c1\" }", "pid = 4194303 }", "4194303"),
];

fn refused(lab: &Lab, text: &str) -> Result<Outcome> {
    let config = lab.h1().write_config(text)?;
    let before = lab.h1().snapshot()?;
    let outcome =
        lab.h1().vxdp(&["run", "--config", config.to_str().context("path")?, "--mode", "kernel"])?;
    ensure!(outcome.code() == Some(2), "exit code {:?}\n{}", outcome.code(), outcome.stderr);
    let after = lab.h1().snapshot()?;
    ensure!(before == after, "the host has changed:\n{before:#?}\n{after:#?}");
    Ok(outcome)
}

fn check(lab: &Lab, case: &Case, line_wanted: bool) -> Result<()> {
    let [example, _] = TwoHosts::configs(Attachment::Netns);
    let begin = example.find(case.from).context("the example does not hold what is replaced")?;
    let text = example.replacen(case.from, case.to, 1);
    let line = text[..begin + case.to.len()].lines().count();
    let outcome = refused(lab, &text)?;
    let message = outcome.stderr.trim();
    ensure!(message.contains(case.says), "does not say `{}`:\n{message}", case.says);
    ensure!(message.lines().count() <= 3, "not one clear message:\n{message}");
    if line_wanted {
        let place = format!("h1.toml:{line}:");
        ensure!(message.contains(&place), "does not name {place}:\n{message}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_mistake_in_the_file_is_named_with_its_line_and_changes_nothing() {
    scenario("bad-file", |lab| {
        lab.h1().container("c1")?;
        IN_THE_FILE.iter().try_for_each(|case| check(lab, case, true).context(case.what))
    });
}

#[test]
#[ignore = "needs root"]
fn a_configuration_that_does_not_fit_the_host_changes_nothing() {
    scenario("bad-host", |lab| {
        lab.h1().container("c1")?;
        ON_THE_HOST.iter().try_for_each(|case| check(lab, case, false).context(case.what))
    });
}

#[test]
#[ignore = "needs root"]
fn two_overlays_with_one_vni_and_port_are_refused() {
    scenario("twins", |lab| {
        lab.h1().container("c1")?;
        let [example, _] = TwoHosts::configs(Attachment::Netns);
        let twin =
            "\n[[overlay]]\nvni = 42\nport = 4789\nnetns = \"other\"\nbridge = \"br0\"\nvxlan = \"vxlan1\"\n";
        let outcome = refused(lab, &format!("{example}{twin}"))?;
        ensure!(outcome.stderr.contains("42"), "{}", outcome.stderr);
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_udp_port_that_another_program_holds_is_refused_by_its_name() {
    scenario("port-taken", |lab| {
        lab.h1().container("c1")?;
        let _held = lab.h1().enter(|| Ok(std::net::UdpSocket::bind("127.0.0.1:4789")?))?;
        let [example, _] = TwoHosts::configs(Attachment::Netns);
        let outcome = refused(lab, example)?;
        let holder = format!("(pid {})", std::process::id());
        ensure!(outcome.stderr.contains("UDP port 4789 is taken by"), "{}", outcome.stderr);
        ensure!(outcome.stderr.contains(&holder), "does not name {holder}: {}", outcome.stderr);
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_container_in_the_hosts_own_namespace_is_refused() {
    scenario("host-net", |lab| {
        let [example, _] = TwoHosts::configs(Attachment::Netns);
        let own = format!("pid = {}", lab.h1().holder());
        let outcome = refused(lab, &example.replace("netns = \"c1\" }", &format!("{own} }}")))?;
        ensure!(outcome.stderr.contains("host's own network namespace"), "{}", outcome.stderr);
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_docker_container_without_an_engine_is_refused() {
    scenario("no-docker", |lab| {
        let [example, _] = TwoHosts::configs(Attachment::Docker);
        let text = example.replace("test-overlay-1", "nobody-has-this-name");
        let outcome = refused(lab, &text)?;
        ensure!(outcome.stderr.contains("nobody-has-this-name"), "{}", outcome.stderr);
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_user_without_privileges_is_told_so() {
    scenario("no-privileges", |lab| {
        lab.h1().container("c1")?;
        let [example, _] = TwoHosts::configs(Attachment::Netns);
        let config = lab.h1().write_config(example)?;
        let before = lab.h1().snapshot()?;
        let binary = vxdp_binary()?;
        let mut words = vec!["setpriv", "--bounding-set", "-net_admin,-sys_admin", "--"];
        words.extend([binary.to_str().context("path")?, "run", "--mode", Mode::Kernel.as_str(), "--config"]);
        words.push(config.to_str().context("path")?);
        let outcome = lab.h1().run(words, std::time::Duration::from_secs(20))?;
        ensure!(outcome.code() == Some(2), "exit code {:?}\n{}", outcome.code(), outcome.stderr);
        ensure!(outcome.stderr.contains("CAP_NET_ADMIN"), "{}", outcome.stderr);
        ensure!(before == lab.h1().snapshot()?, "the host has changed");
        Ok(())
    });
}
