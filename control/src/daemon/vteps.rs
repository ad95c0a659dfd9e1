//! The VTEPs on the kernel's path, as `status` shows them: which there are, and where the kernel would send.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use super::rows;
use crate::api::status::VtepStatus;
use crate::causes::chain;
use crate::config::{Config, Mode, Overlay};
use crate::engine::pilot::{ModeReport, OverlayMode};
use crate::netns::Netns;
use crate::reach::Reach;

/// As many as are asked for: each takes a route request.
const LISTED: usize = 256;

/// Those that the configuration names and those that rows name, however they came, of overlays that no engine has;
/// without those that an engine reports.
pub(super) async fn look(config: &Config, modes: &ModeReport, host: &Netns) -> Vec<VtepStatus> {
    let has_engine = |overlay: &&Overlay| {
        let is_it = |mode: &&OverlayMode| (mode.vni, mode.port) == (overlay.vni.get(), overlay.port);
        modes.overlays.iter().find(is_it).is_some_and(|mode| mode.mode == Mode::Xdp)
    };
    let overlays: Vec<_> = config.overlays.iter().filter(|overlay| !has_engine(overlay)).collect();
    let remotes = overlays.iter().flat_map(|overlay| overlay.remotes.iter().map(|remote| remote.vtep));
    let flood = overlays.iter().flat_map(|overlay| overlay.flood.iter().copied());
    let mut vteps: BTreeSet<IpAddr> = remotes.chain(flood).collect();
    // Without its device an overlay has no rows; that it is not there is told elsewhere.
    vteps.extend(rows::vteps(overlays).await.unwrap_or_default());
    for peer in modes.engine.iter().flat_map(|engine| &engine.peers) {
        vteps.remove(&peer.address);
    }
    let vteps: Vec<_> = vteps.into_iter().take(LISTED).collect();
    reach(host, config.underlay.local, &vteps).await.unwrap_or_else(|error| {
        tracing::warn!("cannot look at the way to the VTEPs: {}", chain(&error));
        Vec::new()
    })
}

async fn reach(host: &Netns, local: IpAddr, vteps: &[IpAddr]) -> io::Result<Vec<VtepStatus>> {
    let status = |(address, reach): (&IpAddr, Reach)| {
        let why = reach.trouble(*address).map(|(what, _)| what);
        VtepStatus { address: *address, reach, why }
    };
    Ok(vteps.iter().zip(Reach::of_each(host, local, vteps).await?).map(status).collect())
}
