//! What xdp mode would get on this host, by the rules that an engine starts with. Nothing is started.

use vxdp_dataplane::worker::ZeroCopy;

use super::regime::{self, NicFeatures};
use super::{Kind, settings};
use crate::config::{Config, Hook, Overlay, XdpAttach};

/// What xdp mode would get for one overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// The engine.
    pub engine: Kind,
    /// Why this one, where the configuration leaves it open.
    pub why: Option<&'static str>,
    /// Where the program of the underlay's device would run: `tc`, or for XDP `driver` or `generic`.
    pub hook: &'static str,
    /// Whether the sockets of the underlay's device would copy, or why nothing would start.
    pub copy: Result<&'static str, String>,
}

impl Forecast {
    /// For an overlay, over a device whose driver says `features`.
    pub fn of(config: &Config, overlay: &Overlay, features: Option<NicFeatures>) -> Self {
        let asked = overlay.engine.unwrap_or(config.dataplane.engine);
        let (engine, why) = regime::engine_of(config, overlay, asked, features.into());
        let hook = match (engine, config.dataplane.hook, config.dataplane.attach, features) {
            (Kind::InKernel, Hook::Tc, ..) => "tc",
            (.., XdpAttach::Generic, _) | (.., XdpAttach::Auto, Some(NicFeatures { native: false, .. })) => {
                "generic"
            }
            (.., XdpAttach::Driver, _) | (.., XdpAttach::Auto, Some(_)) => "driver",
            (.., XdpAttach::Auto, None) => "driver or generic",
        };
        let copy = match engine {
            Kind::Userspace => copy(config, features),
            Kind::InKernel => Ok("no sockets"),
        };
        Self { engine, why, hook, copy }
    }

    /// Whether the XDP place of the underlay's device would be taken.
    pub fn takes_xdp(&self) -> bool {
        self.hook != "tc"
    }
}

fn copy(config: &Config, features: Option<NicFeatures>) -> Result<&'static str, String> {
    let offered = features.map(|features| features.zero_copy);
    match (settings::zero_copy(config).map_err(|error| error.to_string())?, offered) {
        (ZeroCopy::Off, _) | (ZeroCopy::IfOffered, Some(false)) => Ok(settings::why_copy(config)),
        (ZeroCopy::Require, Some(false)) => {
            Err("`zero_copy = \"require\"` cannot be had: the driver has no zero-copy".to_owned())
        }
        (_, Some(true)) => Ok("zero-copy"),
        (_, None) => Ok("zero-copy if the driver has it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &str = "[[overlay.container]]\nattach = { netns = 'c1' }\ninterface = 'eth1'\n\
                             host_interface = 'veth2'\nmac = '02:42:0a:00:00:02'\naddress = '10.0.0.2/24'\n";

    fn forecast(dataplane: &str, overlay: &str, features: Option<NicFeatures>) -> Forecast {
        let text = format!(
            "[underlay]\ndevice = 'eth0'\nlocal = '192.0.2.1'\n[dataplane]\n{dataplane}\n[[overlay]]\nvni = 1\n{overlay}"
        );
        let loaded = crate::config::parse(std::path::Path::new("f"), text.as_bytes()).expect("valid");
        Forecast::of(&loaded.config, &loaded.config.overlays[0], features)
    }

    fn nic(native: bool, zero_copy: bool) -> Option<NicFeatures> {
        Some(NicFeatures { native, zero_copy })
    }

    #[test]
    fn a_nic_with_zero_copy_and_no_container_gets_it_in_userspace() {
        let got = forecast("engine = 'auto'", "", nic(true, true));
        assert_eq!((got.engine, got.hook, got.copy), (Kind::Userspace, "driver", Ok("zero-copy")));
    }

    #[test]
    fn containers_go_to_tc_without_sockets_unless_userspace_is_asked_for_which_copies() {
        let got = forecast("engine = 'auto'", CONTAINER, nic(true, true));
        assert_eq!((got.engine, got.hook, got.copy.as_deref()), (Kind::InKernel, "tc", Ok("no sockets")));
        assert!(got.why.is_some() && got.hook == "tc");
        let got = forecast("engine = 'userspace'", CONTAINER, nic(true, true));
        let copy = got.copy.expect("it starts");
        assert!(copy.starts_with("copy: veth ports") && got.why.is_none(), "{copy}");
    }

    #[test]
    fn a_driver_without_xdp_gets_the_generic_hook_and_one_that_is_unknown_either() {
        let hook = |dataplane, features| forecast(dataplane, "", features).hook;
        assert_eq!(hook("engine = 'userspace'", nic(false, false)), "generic");
        assert_eq!(hook("engine = 'inkernel'\nhook = 'xdp'", nic(true, false)), "driver");
        assert_eq!(hook("engine = 'userspace'\nattach = 'generic'", nic(true, false)), "generic");
        assert_eq!(hook("engine = 'userspace'", None), "driver or generic");
    }

    #[test]
    fn zero_copy_that_is_required_and_cannot_be_had_is_told() {
        let required = "engine = 'userspace'\nzero_copy = 'require'";
        assert!(forecast(required, "", nic(true, false)).copy.is_err());
        assert!(forecast(required, CONTAINER, nic(true, true)).copy.is_err());
        assert_eq!(forecast(required, "", nic(true, true)).copy, Ok("zero-copy"));
    }
}
