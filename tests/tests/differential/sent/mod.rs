//! Frames that a container sends, and what leaves the host: the tables.

pub(crate) mod checksums;
pub(crate) mod link;
pub(crate) mod nested;
pub(crate) mod network;
pub(crate) mod sizes;

use vxdp_lab::Family;

use crate::row::Emitted;

/// All rows for this underlay.
pub(crate) fn rows(family: Family) -> Vec<Emitted> {
    [link::rows(), nested::rows(), network::rows(), checksums::rows(), sizes::rows(family)]
        .into_iter()
        .flatten()
        .collect()
}
