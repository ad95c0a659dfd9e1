//! This host's part: an overlay of its running daemon, and a container in it.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use vxdp_control::api::status::{PathStatus, Status};
use vxdp_control::api::{Request, client};
use vxdp_control::config::{self, Config, Container, Engine, Hook, Overlay};
use vxdp_control::container;
use vxdp_control::engine::pilot::{ModeReport, OverlayMode};
use vxdp_lab::{Directions, Frames, Mode, Place};

use crate::regime::{Regime, offloads};
use crate::sink;
use crate::subject::{Entrance, Kind};

/// An overlay of the daemon here. Dropping it switches the overlay back to what it was.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) vni: u32,
    pub(super) container: Place,
    /// The container's device.
    pub(super) device: String,
    pub(super) mac: [u8; 6],
    pub(super) address: Ipv4Addr,
    /// Where the container's frames enter the host.
    pub(super) entrance: Entrance,
    nic: String,
    socket: PathBuf,
    hook: Hook,
    before: OverlayMode,
}

/// Reads the configuration of this host.
pub(super) fn read(file: &Path) -> Result<Config> {
    Ok(config::load(file)?.config)
}

/// The container's IPv4 address, if it has one.
pub(super) fn ipv4(container: &Container) -> Option<Ipv4Addr> {
    container.addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

impl Here {
    /// Finds the container, and asks the daemon whether it is attached.
    pub(super) fn find(config: &Config, overlay: &Overlay, container: &Container) -> Result<Self> {
        let what = container::describe(&container.attach);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let netns = runtime.block_on(container::resolve(&container.attach))?.netns;
        let place = Place::here();
        let status: Status = client::ask(&config.control.socket, &Request::Status)?;
        let vni = overlay.vni.get();
        let running = status.overlays.iter().find(|it| (it.vni, it.port) == (vni, overlay.port));
        let running =
            running.with_context(|| format!("the daemon runs with another file: no overlay {vni}"))?;
        let interface = container.interface.as_str();
        let attached = running.containers.iter().find(|it| it.attach == what && it.interface == interface);
        let attached = attached.with_context(|| format!("the daemon runs with another file: no {what}"))?;
        if !attached.attached {
            bail!("{what} is not attached: {}", attached.reason.as_deref().unwrap_or("for no known reason"));
        }
        let before = status.modes.overlays.into_iter().find(|it| (it.vni, it.port) == (vni, overlay.port));
        let inside = place.at(&Path::new("/run/netns").join(overlay.netns.as_str()), overlay.netns.as_str());
        Ok(Self {
            vni,
            container: place.at(netns.path(), &what),
            device: interface.to_owned(),
            mac: container.mac.octets(),
            address: ipv4(container).with_context(|| format!("{what} has no IPv4 address"))?,
            entrance: (inside, container.host_interface.as_str().to_owned()),
            nic: config.underlay.device.as_str().to_owned(),
            socket: config.control.socket.clone(),
            hook: config.dataplane.hook,
            before: before.with_context(|| format!("the daemon knows no mode of overlay {vni}"))?,
        })
    }

    /// Switches the overlay; an error if it does not get there, and then nothing has changed.
    pub(super) fn switch(&self, mode: Mode) -> Result<()> {
        let (mode, engine) = match mode {
            Mode::Kernel => (config::Mode::Kernel, None),
            Mode::Xdp => (config::Mode::Xdp, Some(Engine::Userspace)),
            Mode::InKernel => (config::Mode::Xdp, Some(Engine::InKernel)),
        };
        let request = Request::Mode { vni: Some(self.vni), mode, engine };
        let report: ModeReport = client::ask(&self.socket, &request)?;
        let now = report.overlays.iter().find(|it| (it.vni, it.port) == (self.vni, self.before.port));
        let trouble = report.trouble.as_deref().unwrap_or("the daemon does not say why");
        ensure!(
            now.is_some_and(|now| now.mode == mode),
            "overlay {} is not in {mode} mode: {trouble}",
            self.vni
        );
        Ok(())
    }

    /// Where a sink sees what the overlay hands to the container.
    pub(super) fn sink_hook(&self, mode: Mode) -> sink::Hook {
        match (mode, self.hook) {
            (Mode::InKernel, Hook::Tc) => sink::Hook::Tc,
            _ => sink::Hook::Xdp,
        }
    }

    /// What each path of the overlay has carried so far.
    pub(super) fn carried(&self) -> Result<Frames> {
        let status: Status = client::ask(&self.socket, &Request::Status)?;
        let overlay =
            status.overlays.into_iter().find(|it| (it.vni, it.port) == (self.vni, self.before.port));
        let mut frames = Frames::default();
        for PathStatus { path, carried, .. } in overlay.context("the daemon lost its overlay")?.paths {
            let of = if path == "kernel" { &mut frames.kernel } else { &mut frames.xdp };
            let Directions { encap, decap } = *of;
            *of = Directions { encap: encap + carried.encap.frames, decap: decap + carried.decap.frames };
        }
        Ok(frames)
    }

    /// How the mode that the overlay is in works here.
    pub(super) fn regime(&self, kind: Kind) -> Result<String> {
        let mut regime = Regime::default();
        let driver = Place::here().exec(["ethtool", "-i", &self.nic])?;
        let driver = driver.lines().find_map(|line| line.strip_prefix("driver: ")).unwrap_or("unknown");
        regime.set("nic", driver);
        if kind.mode().is_some_and(Mode::is_fast) {
            regime.set_engine(kind, &client::ask::<Value>(&self.socket, &Request::Status)?);
        }
        regime.set("container offloads", offloads(&self.container, &self.device)?);
        regime.set("processors", std::thread::available_parallelism()?.to_string());
        Ok(regime.line())
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let OverlayMode { asked, asked_engine, .. } = self.before;
        let request = Request::Mode { vni: Some(self.vni), mode: asked, engine: Some(asked_engine) };
        if let Err(error) = client::ask::<ModeReport>(&self.socket, &request) {
            eprintln!("overlay {} is not back in mode {asked}: {error}", self.vni);
        }
    }
}

/// The containers of an overlay, for a message.
pub(super) fn known(overlay: &Overlay) -> String {
    let mut text = String::new();
    for address in overlay.containers.iter().filter_map(ipv4) {
        // Writing into a string does not fail.
        let _ = write!(text, "{}{address}", if text.is_empty() { "" } else { ", " });
    }
    if text.is_empty() { "none".to_owned() } else { text }
}
