//! Reading whole files: the example of the manual, each way of being wrong, and bytes nobody meant.

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// A valid file; its first line is empty, so that `[underlay]` stands in line 2.
const VALID: &str = r#"
[underlay]
device = "eth0"
local = "192.168.10.21"

[[overlay]]
vni = 42
gateway = "10.0.0.1/24"
flood = ["192.168.10.22"]

[[overlay.container]]
attach = { netns = "c1" }
interface = "eth1"
mac = "02:42:0a:00:00:02"
address = "10.0.0.2/24"

[[overlay.remote]]
mac = "02:42:0a:00:00:03"
address = "10.0.0.3"
vtep = "192.168.10.22"
"#;

fn read(text: &str) -> Result<Loaded, ConfigError> {
    parse(Path::new("host1.toml"), text.as_bytes())
}

fn valid(text: &str) -> Config {
    read(text).unwrap_or_else(|error| panic!("{error}")).config
}

/// What `VALID` says after `from` was replaced by `to`.
fn messages(from: &str, to: &str) -> String {
    assert!(VALID.contains(from), "{from}");
    read(&VALID.replacen(from, to, 1)).expect_err(to).to_string()
}

#[test]
fn the_whole_example_of_the_manual_is_read_as_it_says() {
    let manual = include_str!("../../../docs/configuration.md");
    let example =
        manual.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let config = valid(example);
    assert_eq!(config.underlay.device.as_str(), "eth0");
    assert_eq!(config.control.metrics, Some("127.0.0.1:9490".parse().unwrap()));
    let [overlay] = &config.overlays[..] else { panic!("one overlay") };
    assert_eq!(overlay.mtu, Some(1450));
    assert_eq!(overlay.mode, Some(Mode::Auto));
    assert_eq!(overlay.flood, ["192.168.10.22".parse::<std::net::IpAddr>().unwrap()]);
    let [container] = &overlay.containers[..] else { panic!("one container") };
    assert_eq!(container.attach, Attach::Docker("test-overlay".into()));
    assert_eq!(container.host_interface.as_str(), "veth2");
    let [remote] = &overlay.remotes[..] else { panic!("one remote") };
    assert_eq!(remote.install, Install::Static);
}

#[test]
fn absent_keys_have_the_defaults_of_the_manual() {
    let config = valid(VALID);
    assert_eq!(config.dataplane.mode, Mode::Auto);
    assert_eq!(config.dataplane.workers, 1);
    assert_eq!(config.control, Control { socket: "/run/vxdp/vxdp.sock".into(), metrics: None });
    let overlay = &config.overlays[0];
    assert_eq!((overlay.port, overlay.ageing, overlay.mtu, overlay.mode), (4789, 300, None, None));
    let names = [overlay.netns.as_str(), overlay.bridge.as_str(), overlay.vxlan.as_str()];
    assert_eq!(names, ["overlay", "br0", "vxlan1"]);
    assert!(overlay.learning && overlay.proxy && overlay.l2miss && overlay.l3miss);
    assert_eq!((overlay.ttl, overlay.tos, overlay.df), (Ttl::Auto, Tos::Fixed(0), Df::Unset));
    assert_eq!(overlay.source_ports, (49152, 65535));
    assert!(!overlay.udp_checksum);
}

#[test]
fn the_outer_checksum_is_computed_by_default_over_ipv6_only() {
    let over_ipv6 = VALID.replace("192.168.10.21", "fd00::21").replace("192.168.10.22", "fd00::22");
    assert!(valid(&over_ipv6).overlays[0].udp_checksum);
    let without = over_ipv6.replace("vni = 42", "vni = 42\nudp_checksum = false");
    assert!(!valid(&without).overlays[0].udp_checksum);
}

#[test]
fn one_address_or_a_list_of_both_families_is_taken() {
    let dual = VALID
        .replace(r#"gateway = "10.0.0.1/24""#, r#"gateway = ["10.0.0.1/24", "fd42::1/64"]"#)
        .replace(r#"address = "10.0.0.2/24""#, r#"address = ["10.0.0.2/24", "fd42::2/64"]"#)
        .replace(r#"address = "10.0.0.3""#, r#"address = ["10.0.0.3", "fd42::3"]"#);
    let config = valid(&dual);
    assert_eq!(config.overlays[0].gateway.len(), 2);
    assert_eq!(config.overlays[0].containers[0].addresses.len(), 2);
    assert_eq!(config.overlays[0].remotes[0].addresses.len(), 2);
}

#[test]
fn overlays_with_equal_macs_and_addresses_stay_apart() {
    let second =
        VALID[VALID.find("[[overlay]]").unwrap()..].replace("vni = 42", "vni = 43\nnetns = \"second\"");
    let second = second.replace("eth1", "eth2");
    assert_eq!(valid(&format!("{VALID}{second}")).overlays.len(), 2);
}

#[test]
fn each_mistake_is_told_in_one_line_that_names_its_place() {
    let cases: &[(&str, &str, &str)] = &[
        // Keys.
        (
            "vni = 42",
            "vnii = 42",
            "6: overlay[0].vni: missing; [[overlay]] needs it (0 to 16777215)\n\
            host1.toml:7: overlay[0].vnii: unknown key; did you mean `vni`?",
        ),
        (
            "device = \"eth0\"",
            "device = \"eth0\"\nmtu = 1500",
            "4: underlay.mtu: unknown key in [underlay]; `mtu` belongs in [[overlay]]",
        ),
        (
            "device = \"eth0\"",
            "device = \"eth0\"\nqqq = 1",
            "4: underlay.qqq: unknown key; [underlay] takes device, local",
        ),
        (
            "[[overlay]]",
            "[overlay]",
            "6: overlay: expected a list of tables; write [[overlay]], not [overlay]",
        ),
        (
            "mac = \"02:42:0a:00:00:02\"\n",
            "",
            "11: overlay[0].container[0].mac: missing; [[overlay.container]] needs it (unicast MAC address)",
        ),
        // Kinds.
        (
            "vni = 42",
            "vni = \"42\"",
            "7: overlay[0].vni: expected a VNI, an integer from 0 to 16777215, found a string",
        ),
        (
            "vni = 42",
            "vni = 42\nport = 47.89",
            "8: overlay[0].port: expected an integer from 1 to 65535, found a float",
        ),
        (
            "flood = [\"192.168.10.22\"]",
            "flood = \"192.168.10.22\"",
            "9: overlay[0].flood: expected a list, found a string",
        ),
        (
            "{ netns = \"c1\" }",
            "\"c1\"",
            "12: overlay[0].container[0].attach: expected a table, found a string",
        ),
        // Numbers.
        (
            "vni = 42",
            "vni = 16777216",
            "7: overlay[0].vni: 16777216 is not a VNI; expected 0 to 16777215 (24 bits)",
        ),
        ("vni = 42", "vni = -1", "7: overlay[0].vni: -1 is not a VNI; expected 0 to 16777215 (24 bits)"),
        (
            "vni = 42",
            "vni = 99999999999999999999999",
            "7: overlay[0].vni: 99999999999999999999999 is not a VNI; expected 0 to 16777215 (24 bits)",
        ),
        ("vni = 42", "vni = 42\nport = 0", "8: overlay[0].port: 0 is out of range; expected 1 to 65535"),
        ("vni = 42", "vni = 42\nmtu = 67", "8: overlay[0].mtu: 67 is out of range; expected 68 to 65535"),
        ("vni = 42", "vni = 42\nttl = 256", "8: overlay[0].ttl: 256 is out of range; expected 1 to 255"),
        (
            "vni = 42",
            "vni = 42\nttl = \"no\"",
            "8: overlay[0].ttl: `no` is none of \"auto\", \"inherit\" or an integer from 1 to 255",
        ),
        (
            "vni = 42",
            "vni = 42\ntos = 1",
            "8: overlay[0].tos: the kernel takes 1 for \"inherit\"; expected \"inherit\", 0 or 2 to 255",
        ),
        (
            "vni = 42",
            "vni = 42\nageing = 0",
            "8: overlay[0].ageing: 0 is not possible: the kernel takes it for its \
            default, 300; expected 1 to 4294967295",
        ),
        (
            "vni = 42",
            "vni = 42\nsource_ports = [65535, 49152]",
            "8: overlay[0].source_ports: the range is reversed; expected [49152, 65535]",
        ),
        (
            "vni = 42",
            "vni = 42\nsource_ports = [5000, 5000]",
            "8: overlay[0].source_ports: the kernel ignores a range of one port; expected more than 5000 alone",
        ),
        (
            "vni = 42",
            "vni = 42\nmode = \"fast\"",
            "8: overlay[0].mode: `fast` is none of \"auto\", \"kernel\", \"xdp\"",
        ),
        // Names.
        (
            "vni = 42",
            "vni = 42\nbridge = \"a-bridge-too-far\"",
            "8: overlay[0].bridge: `a-bridge-too-far` has 16 bytes; at most 15 are allowed",
        ),
        ("\"eth1\"", "\"lo\"", "13: overlay[0].container[0].interface: every namespace has a `lo` already"),
        (
            "\"eth1\"",
            "\"eth%d\"",
            "13: overlay[0].container[0].interface: `eth%d` has a character that the kernel does not allow in a name",
        ),
        // MACs.
        (
            "02:42:0a:00:00:02",
            "03:42:0a:00:00:02",
            "14: overlay[0].container[0].mac: 03:42:0a:00:00:02 is a multicast \
            address; expected one whose first octet is even",
        ),
        (
            "02:42:0a:00:00:02",
            "00:00:00:00:00:00",
            "14: overlay[0].container[0].mac: 00:00:00:00:00:00 is no \
            container's address; expected a unicast MAC address",
        ),
        (
            "02:42:0a:00:00:03",
            "02-42-0a-00-00-03",
            "18: overlay[0].remote[0].mac: `02-42-0a-00-00-03` is not a MAC \
            address; expected six pairs of hexadecimal digits, as in 02:42:0a:00:00:02",
        ),
        (
            "02:42:0a:00:00:03",
            "02:42:0a:00:00:02",
            "18: overlay[0].remote[0].mac: 02:42:0a:00:00:02 is taken by overlay[0].container[0].mac",
        ),
        // Addresses.
        (
            "10.0.0.2/24",
            "10.0.0.2",
            "15: overlay[0].container[0].address: `10.0.0.2` has no prefix length; expected one as in \"10.0.0.2/24\"",
        ),
        (
            "\"10.0.0.3\"",
            "\"10.0.0.3/24\"",
            "19: overlay[0].remote[0].address: `10.0.0.3/24` has a prefix length; expected \"10.0.0.3\"",
        ),
        (
            "10.0.0.2/24",
            "10.0.1.2/24",
            "15: overlay[0].container[0].address: 10.0.1.2 is outside 10.0.0.0/24, the \
            prefix of overlay[0].gateway",
        ),
        (
            "\"10.0.0.3\"",
            "\"10.0.1.3\"",
            "19: overlay[0].remote[0].address: 10.0.1.3 is outside 10.0.0.0/24, the \
            prefix of overlay[0].gateway",
        ),
        (
            "10.0.0.2/24",
            "10.0.0.0/24",
            "15: overlay[0].container[0].address: 10.0.0.0 is the network's own address \
            in 10.0.0.0/24; expected a host's",
        ),
        (
            "10.0.0.2/24",
            "10.0.0.255/24",
            "15: overlay[0].container[0].address: 10.0.0.255 is the broadcast address \
            of 10.0.0.0/24; expected a host's",
        ),
        (
            "\"10.0.0.3\"",
            "\"10.0.0.2\"",
            "19: overlay[0].remote[0].address: 10.0.0.2 is taken by overlay[0].container[0].address",
        ),
        (
            "\"10.0.0.3\"",
            "\"10.0.0.1\"",
            "19: overlay[0].remote[0].address: 10.0.0.1 is taken by overlay[0].gateway",
        ),
        (
            "\"10.0.0.2/24\"",
            "[]",
            "15: overlay[0].container[0].address: the list is empty; expected at least one address",
        ),
        (
            "\"10.0.0.2/24\"",
            "[\"fd42::2/64\"]\n[[overlay]]\nvni = 1\nnetns = \"n\"\nmtu = 1279\ngateway = \"fd42::1/64\"",
            "19: overlay[1].mtu: 1279 is too small for IPv6 inside; expected 1280 or more",
        ),
        // VTEPs.
        (
            "vtep = \"192.168.10.22\"",
            "vtep = \"192.168.10.21\"",
            "20: overlay[0].remote[0].vtep: 192.168.10.21 is our own address (underlay.local)",
        ),
        (
            "vtep = \"192.168.10.22\"",
            "vtep = \"fd00::22\"",
            "20: overlay[0].remote[0].vtep: fd00::22 is of another \
            family than underlay.local; expected an IPv4 address",
        ),
        (
            "vtep = \"192.168.10.22\"",
            "vtep = \"239.1.1.1\"",
            "20: overlay[0].remote[0].vtep: 239.1.1.1 is a multicast address; expected a host's",
        ),
        (
            "flood = [\"192.168.10.22\"]",
            "flood = [\"192.168.10.22\", \"0.0.0.0\"]",
            "9: overlay[0].flood[1]: 0.0.0.0 is the unspecified address; expected a host's",
        ),
        (
            "flood = [\"192.168.10.22\"]",
            "flood = [\"192.168.10.21\"]",
            "9: overlay[0].flood: 192.168.10.21 is our own address (underlay.local)",
        ),
        (
            "local = \"192.168.10.21\"",
            "local = \"::ffff:192.168.10.21\"",
            "4: underlay.local: ::ffff:192.168.10.21 \
            is an IPv4 address in IPv6 clothes; expected \"192.168.10.21\"",
        ),
        // What a host has once.
        (
            "[[overlay.container]]",
            "[[overlay]]\nvni = 42\nnetns = \"n\"\n[[overlay.container]]",
            "12: overlay[1].vni: VNI 42 on UDP port 4789 is taken by overlay[0].vni",
        ),
        (
            "[[overlay.container]]",
            "[[overlay]]\nvni = 43\nvxlan = \"vxlan2\"\n[[overlay.container]]",
            "11: overlay[1].bridge: the name br0 in namespace overlay is taken by overlay[0].bridge",
        ),
        (
            "\"eth1\"",
            "\"eth1\"\nhost_interface = \"br0\"",
            "14: overlay[0].container[0].host_interface: the name br0 \
            in namespace overlay is taken by overlay[0].bridge",
        ),
        (
            "netns = \"c1\"",
            "netns = \"overlay\"",
            "12: overlay[0].container[0].attach: namespace overlay belongs to overlay[0]; expected a container's",
        ),
        // Ways to attach and to install.
        (
            "netns = \"c1\"",
            "netns = \"c1\", pid = 1",
            "12: overlay[0].container[0].attach: expected one of docker, netns and pid, found 2 of them",
        ),
        (
            "netns = \"c1\"",
            "pid = 0",
            "12: overlay[0].container[0].attach.pid: 0 is out of range; expected 1 to 4294967295",
        ),
        (
            "vtep = \"192.168.10.22\"",
            "vtep = \"192.168.10.22\"\ninstall = \"on-miss\"\n[control]\nsocket = \"x\"",
            "23: control.socket: `x` is not an absolute path",
        ),
        (
            "flood = [\"192.168.10.22\"]\n",
            "l2miss = false\n\n[[overlay.remote]]\nmac = \"02:00:00:00:00:01\"\n\
            vtep = \"192.168.10.22\"\ninstall = \"on-miss\"\n",
            "14: overlay[0].remote[0].install: \"on-miss\" waits for a miss, but overlay[0].l2miss is false",
        ),
        // Nothing there.
        (
            &VALID[VALID.find("[[overlay]]").unwrap_or(0)..],
            "",
            " overlay: missing; a host needs at least one [[overlay]]",
        ),
        (
            "[[overlay.container]]",
            "[control]\nmetrics = \"127.0.0.1:0\"\n[[overlay.container]]",
            "12: control.metrics: port 0 is no port; expected 1 to 65535",
        ),
        // Syntax.
        ("vni = 42", "vni = ", "7:7: string values must be quoted, expected literal string"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(messages(from, to), format!("host1.toml:{expected}"), "after {from:?} -> {to:?}");
    }
}

#[test]
fn all_problems_are_told_in_the_order_of_the_file() {
    let broken = VALID.replace("\"eth0\"", "7").replace("vni = 42", "vni = 1\nmtu = 1").replace("c1", "c/1");
    let error = read(&broken).expect_err("three mistakes");
    let lines: Vec<_> =
        error.problems().iter().filter_map(|problem| problem.position).map(|at| at.line).collect();
    assert_eq!(lines, [3, 8, 13]);
}

#[test]
fn a_message_stays_on_one_line_whatever_the_file_says() {
    let text = messages("\"eth1\"", "\"a\\nb\\u001b[2J\"");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn bytes_that_are_not_text_are_told_with_their_line() {
    let error = parse(Path::new("f"), b"a = 1\nb = \"\xff\"").expect_err("not UTF-8");
    assert_eq!(error.to_string(), "f:2:6: not UTF-8 text");
}

#[test]
fn a_file_that_is_not_there_is_told_by_name() {
    let error = load(Path::new("/nonexistent/host1.toml")).expect_err("no file");
    assert!(error.to_string().starts_with("/nonexistent/host1.toml: cannot read"), "{error}");
}

#[test]
fn items_are_found_in_the_file_after_loading() {
    let source = read(VALID).expect("valid").source;
    let line = |key: &KeyPath| source.locate(key).map(|at| at.line);
    assert_eq!(line(&KeyPath::root().key("underlay").key("device")), Some(3));
    assert_eq!(line(&KeyPath::overlay(0).key("remote").index(0).key("vtep")), Some(20));
    assert_eq!(line(&KeyPath::overlay(0).key("mtu")), Some(6));
    assert_eq!(line(&KeyPath::root().key("control").key("socket")), None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(Path::new("f"), &bytes);
    }

    #[test]
    fn mutated_files_never_panic_and_every_message_is_one_line(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..4usize, any::<u8>()), 1..12),
    ) {
        let mut bytes = VALID.as_bytes().to_vec();
        for (at, deleted, byte) in edits {
            let at = at.index(bytes.len());
            let end = (at + deleted).min(bytes.len());
            bytes.splice(at..end, [byte]);
        }
        if let Err(error) = parse(Path::new("f"), &bytes) {
            prop_assert_eq!(error.to_string().lines().count(), error.problems().len());
        }
    }

    #[test]
    fn any_value_under_any_key_gives_a_config_or_a_message(
        section in 0..schema::SECTIONS.len(),
        key in any::<prop::sample::Index>(),
        value in prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<String>().prop_map(|s| format!("{s:?}")),
            Just("[]".to_owned()), Just("[[1]]".to_owned()), Just("{}".to_owned()), Just("1979-05-27".to_owned()),
        ],
    ) {
        let section = schema::SECTIONS[section];
        let key = section.keys[key.index(section.keys.len())].name;
        let (table, line) = match section.header {
            "the file" => (String::new(), format!("{key} = {value}")),
            "attach" => ("[[overlay]]\n[[overlay.container]]".into(), format!("attach = {{ {key} = {value} }}")),
            header if header.contains('.') => (format!("[[overlay]]\n{header}"), format!("{key} = {value}")),
            header => (header.to_owned(), format!("{key} = {value}")),
        };
        let _ = read(&format!("{table}\n{line}\n"));
    }
}
