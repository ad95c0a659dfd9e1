//! Configuration files.

use std::path::Path;

use vxdp_control::config::{self, Loaded};
use vxdp_control::engine::compile;
use vxdp_control::misses::Misses;
use vxdp_dataplane::table::{Change, Underlay};
use vxdp_dataplane::wire::MacAddr;
use vxdp_dataplane::{OverlayId, Tables};

/// A file is refused with a line for every mistake, or what it says can be carried out.
pub(super) fn check(file: &[u8]) {
    match config::parse(Path::new("host.toml"), file) {
        Ok(loaded) => accepted(&loaded),
        Err(error) => {
            assert!(!error.problems().is_empty(), "a refusal without a problem");
            for problem in error.problems() {
                let lines = file.iter().filter(|byte| **byte == b'\n').count() + 1;
                // Only a section that is missing from the file has no place in it.
                let missing = problem.message.starts_with("missing");
                let placed = problem.position.map_or(missing, |at| (1..=lines).contains(&at.line));
                assert!(placed, "not in one of the {lines} lines: {problem}");
                assert_eq!(problem.to_string().lines().count(), 1, "{problem}");
                assert!(!problem.message.is_empty(), "{problem}");
            }
        }
    }
}

/// The tables take every overlay, and every row of a remote container.
fn accepted(loaded: &Loaded) {
    let config = &loaded.config;
    let local = config.underlay.local;
    let ids = (0..).map(OverlayId::new);
    let overlays = ids.zip(&config.overlays);
    let mut changes = Vec::new();
    for (id, overlay) in overlays {
        changes.push(Change::Overlay(id, Some(compile::overlay(overlay))));
        let macs = overlay.remotes.iter().map(|remote| remote.mac);
        let macs = macs.chain(overlay.containers.iter().map(|container| container.mac));
        changes.extend(macs.map(|mac| Change::Remote { overlay: id, mac, vtep: None }));
        for remote in &overlay.remotes {
            assert_eq!(remote.vtep.is_ipv4(), local.is_ipv4(), "a VTEP of the other family");
        }
    }
    let underlay = Underlay { local, mac: MacAddr::new([2, 0, 0, 0, 0, 1]) };
    if let Err(error) = Tables::new(underlay).with_changes(&changes) {
        panic!("the tables refuse what the configuration allows: {error}");
    }
    let _ = Misses::new(&config.overlays);
}
