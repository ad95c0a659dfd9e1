//! Whether the underlay's device and address are there.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkAttribute;

use super::PreflightError;
use crate::config::{KeyPath, Loaded, Problem};
use crate::kernel::desired::UnderlayFacts;
use crate::netns::Netns;

/// A device as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    index: u32,
    name: String,
    mtu: u32,
    addresses: Vec<IpAddr>,
}

/// Finds the underlay's device; `None`, and a problem more, when it or the address is missing.
pub(super) async fn look(
    loaded: &Loaded,
    host: &Netns,
    problems: &mut Vec<Problem>,
) -> Result<Option<UnderlayFacts>, PreflightError> {
    let devices = devices(host).await?;
    let (path, underlay) = (KeyPath::root().key("underlay"), &loaded.config.underlay);
    match judge(&devices, underlay.device.as_str(), underlay.local) {
        Ok(facts) => Ok(Some(facts)),
        Err((key, message)) => {
            problems.push(loaded.source.problem(&path.key(key), message));
            Ok(None)
        }
    }
}

/// The facts, or the key to blame and why.
fn judge(devices: &[Device], name: &str, local: IpAddr) -> Result<UnderlayFacts, (&'static str, String)> {
    let Some(device) = devices.iter().find(|device| device.name == name) else {
        return Err(("device", format!("there is no device `{name}`; {}", nearest(devices, name))));
    };
    if device.addresses.contains(&local) {
        return Ok(UnderlayFacts { ifindex: device.index, mtu: device.mtu, local });
    }
    let elsewhere = devices.iter().find(|device| device.addresses.contains(&local));
    let same_family = device.addresses.iter().filter(|address| address.is_ipv4() == local.is_ipv4());
    let has: Vec<_> = same_family.map(ToString::to_string).collect();
    let hint = match elsewhere {
        Some(elsewhere) => format!("{} has it", elsewhere.name),
        None if has.is_empty() => {
            format!("it has no {} address", if local.is_ipv4() { "IPv4" } else { "IPv6" })
        }
        None => format!("it has {}", has.join(", ")),
    };
    Err(("local", format!("{local} is not an address of {name}; {hint}")))
}

/// The device that may have been meant, else all there are.
fn nearest(devices: &[Device], name: &str) -> String {
    /// Likeness (Jaro-Winkler, 0 to 1) from which on a name is offered as a correction.
    const SIMILAR: f64 = 0.75;
    let scored = devices.iter().map(|device| (strsim::jaro_winkler(name, &device.name), device));
    match scored.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, device)) if likeness >= SIMILAR => format!("did you mean `{}`?", device.name),
        _ => {
            let names: Vec<_> = devices.iter().map(|device| device.name.as_str()).collect();
            format!("there is {}", names.join(", "))
        }
    }
}

async fn devices(host: &Netns) -> Result<Vec<Device>, PreflightError> {
    let netlink = host.netlink()?;
    let mut devices = Vec::new();
    let mut links = netlink.link().get().execute();
    while let Some(link) = links.try_next().await? {
        let (mut name, mut mtu) = (None, None);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(is) => name = Some(is),
                LinkAttribute::Mtu(is) => mtu = Some(is),
                _ => {}
            }
        }
        if let (Some(name), Some(mtu)) = (name, mtu) {
            devices.push(Device { index: link.header.index, name, mtu, addresses: Vec::new() });
        }
    }
    let mut addresses = netlink.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        let own = message.attributes.iter().find_map(|attribute| match attribute {
            // On a point-to-point device `Address` is the peer's.
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let only = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        let device = devices.iter_mut().find(|device| device.index == message.header.index);
        if let (Some(device), Some(address)) = (device, own.or(only)) {
            device.addresses.push(address);
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<Device> {
        let device = |index, name: &str, addresses: &[&str]| Device {
            index,
            name: name.to_owned(),
            mtu: 1500,
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
        };
        vec![
            device(1, "lo", &["127.0.0.1"]),
            device(2, "eth0", &["192.0.2.1"]),
            device(3, "eth1", &["192.0.2.7"]),
        ]
    }

    fn told(name: &str, local: &str) -> (&'static str, String) {
        judge(&devices(), name, local.parse().expect("an address")).expect_err("a problem")
    }

    #[test]
    fn device_and_address_that_are_there_give_facts() {
        let local = "192.0.2.1".parse().expect("an address");
        assert_eq!(judge(&devices(), "eth0", local), Ok(UnderlayFacts { ifindex: 2, mtu: 1500, local }));
    }

    #[test]
    fn a_missing_device_is_told_with_the_nearest_one() {
        assert_eq!(
            told("etho", "192.0.2.1"),
            ("device", "there is no device `etho`; did you mean `eth1`?".to_owned())
        );
        assert_eq!(
            told("wlp2s0", "192.0.2.1"),
            ("device", "there is no device `wlp2s0`; there is lo, eth0, eth1".to_owned())
        );
    }

    #[test]
    fn an_address_that_is_not_on_the_device_is_told_with_the_ones_that_are() {
        assert_eq!(told("eth0", "192.0.2.7").1, "192.0.2.7 is not an address of eth0; eth1 has it");
        assert_eq!(told("eth0", "192.0.2.9").1, "192.0.2.9 is not an address of eth0; it has 192.0.2.1");
        assert_eq!(told("eth0", "fd00::1").1, "fd00::1 is not an address of eth0; it has no IPv6 address");
    }
}
