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
    /// Whether the sockets of the underlay's device would copy.
    pub copy: &'static str,
    /// Why nothing would start.
    pub refusal: Option<Refusal>,
}

/// Why an engine would not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What stands in its way.
    pub why: String,
    /// What changes that.
    pub change: String,
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
        let (copy, refusal) = match engine {
            Kind::Userspace => copy(config, features),
            Kind::InKernel => ("no sockets", None),
        };
        let refusal = refusal.or_else(|| refused_by_driver(config, engine, hook, features?));
        Self { engine, why, hook, copy, refusal }
    }

    /// Whether the XDP place of the underlay's device would be taken.
    pub fn takes_xdp(&self) -> bool {
        self.hook != "tc"
    }
}

/// Whether sockets copy, or why there would be none.
fn copy(config: &Config, features: Option<NicFeatures>) -> (&'static str, Option<Refusal>) {
    let change = || "zero_copy = \"auto\" in [dataplane]".to_owned();
    let offered = features.map(|features| features.zero_copy);
    let wanted = match settings::zero_copy(config) {
        Ok(wanted) => wanted,
        Err(error) => {
            return ("no sockets", Some(Refusal { why: error.to_string(), change: change() }));
        }
    };
    match (wanted, offered) {
        (ZeroCopy::Off, _) | (ZeroCopy::IfOffered, Some(false)) => (settings::why_copy(config), None),
        (ZeroCopy::Require, Some(false)) => {
            let why = "`zero_copy = \"require\"` cannot be had: the driver has no zero-copy".to_owned();
            ("no sockets", Some(Refusal { why, change: change() }))
        }
        (_, Some(true)) => ("zero-copy", None),
        (_, None) => ("zero-copy if the driver has it", None),
    }
}

/// Why the program of the underlay's device would be refused, or would be of no use there.
fn refused_by_driver(config: &Config, engine: Kind, hook: &str, features: NicFeatures) -> Option<Refusal> {
    let device = &config.underlay.device;
    if hook == "driver" && !features.native {
        let why = format!("`attach = \"driver\"` cannot be had: the driver of {device} has no XDP");
        return Some(Refusal { why, change: "attach = \"auto\" in [dataplane]".to_owned() });
    }
    let sends = engine == Kind::InKernel && hook != "tc";
    (sends && !features.takes_frames).then(|| Refusal {
        why: format!(
            "{device} takes no frames from XDP programs (ndo_xdp_xmit; some drivers do once they have a program)"
        ),
        change: "hook = \"tc\" in [dataplane]; on a veth, in the namespace of its other end: ethtool -K DEVICE gro on"
            .to_owned(),
    })
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
        Some(NicFeatures { native, takes_frames: native, zero_copy })
    }

    #[test]
    fn a_nic_with_zero_copy_and_no_container_gets_it_in_userspace() {
        let got = forecast("engine = 'auto'", "", nic(true, true));
        assert_eq!((got.engine, got.hook, got.copy), (Kind::Userspace, "driver", "zero-copy"));
    }

    #[test]
    fn containers_go_to_tc_without_sockets_unless_userspace_is_asked_for_which_copies() {
        let got = forecast("engine = 'auto'", CONTAINER, nic(true, true));
        assert_eq!((got.engine, got.hook, got.copy), (Kind::InKernel, "tc", "no sockets"));
        assert!(got.why.is_some() && got.hook == "tc");
        let got = forecast("engine = 'userspace'", CONTAINER, nic(true, true));
        assert!(
            got.copy.starts_with("copy: veth ports") && (got.why, &got.refusal) == (None, &None),
            "{got:?}"
        );
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
        let refused = |overlay, features| forecast(required, overlay, features).refusal.is_some();
        assert!(refused("", nic(true, false)) && refused(CONTAINER, nic(true, true)));
        assert!(!refused("", nic(true, true)));
    }

    #[test]
    fn what_the_driver_refuses_is_told_with_what_changes_it() {
        let change = |dataplane, features| Some(forecast(dataplane, "", features).refusal?.change);
        let driver = "engine = 'userspace'\nattach = 'driver'";
        assert_eq!(change(driver, nic(false, false)).as_deref(), Some("attach = \"auto\" in [dataplane]"));
        assert_eq!(change(driver, nic(true, false)), None);
        // The programs at tc need nothing of the driver, those at XDP that it sends.
        assert_eq!(change("engine = 'inkernel'\nattach = 'driver'", nic(false, false)), None);
        let mute = Some(NicFeatures { native: true, takes_frames: false, zero_copy: false });
        let told = change("engine = 'inkernel'\nhook = 'xdp'", mute);
        assert!(told.is_some_and(|change| change.starts_with("hook = \"tc\"")));
        assert_eq!(change("engine = 'inkernel'\nhook = 'xdp'", nic(true, false)), None);
        assert_eq!(change("engine = 'userspace'", mute), None);
        assert_eq!(change(driver, None), None);
    }
}
