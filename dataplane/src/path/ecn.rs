//! Explicit congestion notification across the tunnel (RFC 6040), as the kernel does it
//! (`include/net/inet_ecn.h`).

use crate::wire::checksum::updated;
use crate::wire::{Inner, Ipv4Header, Ipv6Header, Network};

/// The two ECN bits of a tos or traffic class byte (RFC 3168, section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Ecn {
    /// Not capable of it.
    NotEct = 0,
    /// Capable, codepoint 1.
    Ect1 = 1,
    /// Capable, codepoint 0.
    Ect0 = 2,
    /// Congestion experienced.
    Ce = 3,
}

/// What is done with an inner packet on decapsulation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decapsulated {
    /// Delivered as it is.
    Unchanged,
    /// Delivered with this codepoint.
    Set(Ecn),
    /// Dropped: it cannot carry what the outer header says.
    Drop,
}

impl Ecn {
    /// The bits that hold it.
    pub const MASK: u8 = 3;

    /// The codepoint in a tos or traffic class byte.
    pub const fn of(dsfield: u8) -> Self {
        match dsfield & Self::MASK {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The byte with this codepoint in place of its own.
    pub const fn in_byte(self, dsfield: u8) -> u8 {
        (dsfield & !Self::MASK) | self as u8
    }

    /// The outer codepoint for an inner one.
    ///
    /// It is copied, but for CE, which becomes ECT(0): the kernel follows RFC 3168, section 9.1 ("limited
    /// functionality" aside) here, and not the copying "normal mode" of RFC 6040, section 4.1. Nothing is lost:
    /// the inner packet keeps its CE.
    pub const fn encapsulated(inner: Self) -> Self {
        match inner {
            Self::Ce => Self::Ect0,
            other => other,
        }
    }

    /// Whether there is an inner codepoint that [`Ecn::decapsulated`] does not leave as it is. Mostly not, and then
    /// nobody needs to look for it.
    pub const fn may_change_inner(self) -> bool {
        matches!(self, Self::Ce | Self::Ect1)
    }

    /// What becomes of an inner packet (RFC 6040, section 4.2, figure 4).
    pub const fn decapsulated(outer: Self, inner: Self) -> Decapsulated {
        match (outer, inner) {
            (Self::Ce, Self::NotEct) => Decapsulated::Drop,
            (Self::Ce, Self::Ect0 | Self::Ect1) => Decapsulated::Set(Self::Ce),
            (Self::Ect1, Self::Ect0) => Decapsulated::Set(Self::Ect1),
            _ => Decapsulated::Unchanged,
        }
    }
}

/// The inner packet's tos or traffic class; `None` when it is not IP.
pub(super) fn dsfield(frame: &[u8], inner: &Inner) -> Option<u8> {
    match inner.network {
        Network::V4 { at, .. } => frame.get(at + Ipv4Header::TOS).copied(),
        Network::V6 { at, .. } => {
            let (ip, _) = Ipv6Header::parse(frame.get(at..)?)?;
            Some(ip.traffic_class())
        }
        Network::Truncated | Network::Other => None,
    }
}

/// Writes a codepoint into the inner packet and mends the IPv4 header checksum.
pub(super) fn set(frame: &mut [u8], inner: &Inner, ecn: Ecn) {
    match inner.network {
        Network::V4 { at, .. } => {
            let header = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<{ Ipv4Header::LEN }>());
            if let Some(header) = header {
                let (old, new) = (header[Ipv4Header::TOS], ecn.in_byte(header[Ipv4Header::TOS]));
                let checksum = [header[10], header[11]];
                let checksum = updated(checksum, [header[0], old], [header[0], new]);
                header[Ipv4Header::TOS] = new;
                header[Ipv4Header::CHECKSUM..][..2].copy_from_slice(&checksum);
            }
        }
        Network::V6 { at, .. } => {
            // The low half of the traffic class is the high half of byte 1.
            if let Some(byte) = frame.get_mut(at + 1) {
                *byte = (*byte & 0xcf) | (ecn as u8) << 4;
            }
        }
        Network::Truncated | Network::Other => {}
    }
}

#[cfg(test)]
mod tests {
    use Decapsulated::{Drop, Set, Unchanged};
    use Ecn::{Ce, Ect0, Ect1, NotEct};

    use super::*;

    #[test]
    fn decapsulation_follows_figure_4_of_rfc_6040() {
        #[rustfmt::skip]
        let table = [
            // outer:       NotEct     Ect0       Ect1       Ce
            (NotEct, [Unchanged, Unchanged, Unchanged, Drop]),
            (Ect0,   [Unchanged, Unchanged, Set(Ect1), Set(Ce)]),
            (Ect1,   [Unchanged, Unchanged, Unchanged, Set(Ce)]),
            (Ce,     [Unchanged, Unchanged, Unchanged, Unchanged]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                assert_eq!(Ecn::decapsulated(outer, inner), expected, "outer {outer:?}, inner {inner:?}");
                assert!(expected == Unchanged || outer.may_change_inner(), "outer {outer:?}");
            }
        }
    }

    #[test]
    fn encapsulation_copies_all_but_congestion_experienced() {
        assert_eq!([NotEct, Ect0, Ect1, Ce].map(Ecn::encapsulated), [NotEct, Ect0, Ect1, Ect0]);
    }

    #[test]
    fn every_byte_keeps_its_six_other_bits() {
        for byte in 0..=255 {
            for ecn in [NotEct, Ect0, Ect1, Ce] {
                assert_eq!(ecn.in_byte(byte) >> 2, byte >> 2);
                assert_eq!(Ecn::of(ecn.in_byte(byte)), ecn);
            }
        }
    }
}
