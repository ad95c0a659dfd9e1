//! Offloads of real devices, checked with `ethtool`.

mod namespace;

use namespace::Host;
use vxdp_control::offload::{self, OffloadError, TX_VLAN, TX_VLAN_STAG};

#[tokio::test]
#[ignore = "needs root"]
async fn an_offload_is_switched_off_and_restored_and_others_stay_as_they_are() {
    let host = Host::new("offload");
    host.ip("link add eth1 type veth peer name veth2");
    let before = host.run("ethtool", "-k eth1");
    assert!(before.contains("tx-vlan-offload: on"), "{before}");
    let switched = offload::switch_off(&host.netns(), "eth1", &[TX_VLAN, TX_VLAN_STAG]).await.unwrap();
    let switched = switched.expect("a veth has both on");
    assert_eq!(switched.features(), [TX_VLAN, TX_VLAN_STAG]);
    let during = host.run("ethtool", "-k eth1");
    assert!(during.contains("tx-vlan-offload: off") && during.contains("tx-vlan-stag-hw-insert: off"));
    assert_eq!(offload::switch_off(&host.netns(), "eth1", &[TX_VLAN]).await.unwrap(), None);
    switched.restore(&host.netns()).await.unwrap();
    assert_eq!(host.run("ethtool", "-k eth1"), before);
}

#[tokio::test]
#[ignore = "needs root"]
async fn what_can_be_changed_is_told_apart_from_what_cannot() {
    let host = Host::new("offload-fixed");
    host.ip("link add eth1 type veth peer name veth2");
    let changeable = offload::changeable(&host.netns(), "eth1").await.unwrap();
    // ethtool says the same: `[fixed]` behind what cannot be changed.
    let told = host.run("ethtool", "-k eth1");
    let line =
        |name: &str| told.lines().find(|line| line.trim().starts_with(&format!("{name}:"))).expect("a line");
    for name in [offload::TUNNEL_SEGMENTATION, offload::GRO, "highdma", "rx-fcs"] {
        let shown = if name == offload::GRO { "generic-receive-offload" } else { name };
        assert_eq!(changeable.contains(name), !line(shown).contains("[fixed]"), "{name}\n{told}");
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_missing_device_is_named() {
    let host = Host::new("offload-none");
    let error = offload::active(&host.netns(), "nowhere").await.unwrap_err();
    assert!(matches!(&error, OffloadError::Refused { device, .. } if device == "nowhere"), "{error:?}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_device_that_is_gone_needs_no_restoring() {
    let host = Host::new("offload-gone");
    host.ip("link add eth1 type veth peer name veth2");
    let switched = offload::switch_off(&host.netns(), "eth1", &[TX_VLAN]).await.unwrap();
    host.ip("link del eth1");
    switched.expect("it was on").restore(&host.netns()).await.unwrap();
}
