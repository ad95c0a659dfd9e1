//! Each way of being wrong, with the one line that says so.

use super::{VALID, read};

/// What `VALID` says after `from` was replaced by `to`.
pub(super) fn messages(from: &str, to: &str) -> String {
    assert!(VALID.contains(from), "{from}");
    read(&VALID.replacen(from, to, 1)).expect_err(to).to_string()
}

#[test]
fn different_engines_may_share_a_nic_at_tc_and_where_only_one_of_them_is_used() {
    let overlays = |dataplane: &str, first: &str, second: &str| {
        let text = format!(
            "[dataplane]\n{dataplane}\n[[overlay]]\nvni = 7\nnetns = \"o7\"\n{first}\n[[overlay]]\n{second}"
        );
        read(&VALID.replacen("[[overlay]]", &text, 1)).map(drop).map_err(|error| error.to_string())
    };
    let (userspace, inkernel) = ("engine = \"userspace\"", "engine = \"inkernel\"");
    assert_eq!(overlays("", userspace, inkernel), Ok(()));
    let xdp = "hook = \"xdp\"";
    assert_eq!(overlays(xdp, userspace, userspace), Ok(()));
    assert_eq!(overlays(xdp, "engine = \"auto\"", inkernel), Ok(()));
    assert_eq!(overlays(xdp, "engine = \"userspace\"\nmode = \"kernel\"", inkernel), Ok(()));
    let checksums = overlays(xdp, "engine = \"auto\"\nudp_checksum = true", inkernel).unwrap_err();
    assert!(checksums.contains("inkernel here and userspace in overlay[0]"), "{checksums}");
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
            "[dataplane]\nworkers = 2\ncpus = [3]\n[[overlay]]",
            "8: dataplane.cpus: 1 processors for 2 workers; expected as many",
        ),
        (
            "[[overlay]]",
            "[dataplane]\nworkers = 2\ncpus = [3, 3]\n[[overlay]]",
            "8: dataplane.cpus[1]: processor 3 is taken by dataplane.cpus[0]",
        ),
        (
            "[[overlay]]",
            "[dataplane]\nhook = \"xdp\"\nengine = \"inkernel\"\n[[overlay]]\nvni = 7\nnetns = \"o7\"\n\
             engine = \"userspace\"\n[[overlay]]",
            "13: overlay[1].engine: inkernel here and userspace in overlay[0], but with dataplane.hook = \"xdp\" \
             the NIC has room for one engine; expected the same in every overlay, or hook = \"tc\"",
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
