//! Outer packets on the wire towards h2, and what the container behind it gets: the tables.

pub(crate) mod congestion;
pub(crate) mod headers;
pub(crate) mod inner_frames;
pub(crate) mod senders;
pub(crate) mod vxlan;

use crate::row::Received;

/// All rows.
pub(crate) fn rows() -> Vec<Received> {
    [headers::rows(), senders::rows(), vxlan::rows(), inner_frames::rows(), congestion::rows()]
        .into_iter()
        .flatten()
        .collect()
}
