//! Reading whole files: the example of the manual, each way of being wrong, and bytes nobody meant.

mod mistakes;

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

#[test]
fn the_whole_example_of_the_manual_is_read_as_it_says() {
    let manual = include_str!("../../../../docs/configuration.md");
    let example =
        manual.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let config = valid(example);
    assert_eq!(config.underlay.device.as_str(), "eth0");
    assert_eq!(config.control.metrics, Some("127.0.0.1:9490".parse().unwrap()));
    let [overlay] = &config.overlays[..] else { panic!("one overlay") };
    assert_eq!(overlay.mtu, Some(1450));
    assert_eq!(overlay.mode, Some(Mode::Auto));
    assert_eq!((config.dataplane.engine, overlay.engine), (Engine::Userspace, Some(Engine::InKernel)));
    assert_eq!(overlay.flood, ["192.168.10.22".parse::<std::net::IpAddr>().unwrap()]);
    let [container] = &overlay.containers[..] else { panic!("one container") };
    assert_eq!(container.attach, Attach::Docker("test-overlay".into()));
    assert_eq!(container.host_interface.as_str(), "veth2");
    let [remote] = &overlay.remotes[..] else { panic!("one remote") };
    assert_eq!(remote.install, Install::Static);
}

#[test]
fn the_configurations_of_the_readme_and_the_examples_are_read() {
    let readme = include_str!("../../../../README.md");
    let blocks = readme.split("```toml").skip(1).filter_map(|rest| rest.split("```").next());
    assert_eq!(blocks.map(valid).count(), 1);
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files = std::fs::read_dir(examples).expect("examples").map(|entry| entry.expect("a file").path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "toml"));
    for file in files {
        load(&file).unwrap_or_else(|error| panic!("{error}"));
    }
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
fn all_problems_are_told_in_the_order_of_the_file() {
    let broken = VALID.replace("\"eth0\"", "7").replace("vni = 42", "vni = 1\nmtu = 1").replace("c1", "c/1");
    let error = read(&broken).expect_err("three mistakes");
    let lines: Vec<_> =
        error.problems().iter().filter_map(|problem| problem.position).map(|at| at.line).collect();
    assert_eq!(lines, [3, 8, 13]);
}

#[test]
fn a_message_stays_on_one_line_whatever_the_file_says() {
    let text = mistakes::messages("\"eth1\"", "\"a\\nb\\u001b[2J\"");
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
