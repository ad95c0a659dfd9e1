//! VXLAN headers (RFC 7348, section 5).

use super::Vni;

/// A VXLAN header: flags, 24 reserved bits, VNI, 8 reserved bits.
#[derive(Clone, Copy, Debug)]
pub struct VxlanHeader<'a>(&'a [u8; VxlanHeader::LEN]);

impl<'a> VxlanHeader<'a> {
    /// Bytes.
    pub const LEN: usize = 8;
    /// Offset of the VNI.
    pub const VNI: usize = 4;
    /// The I flag: the VNI is valid.
    pub const FLAG_I: u8 = 0x08;
    /// UDP port that IANA gave to VXLAN.
    pub const PORT: u16 = 4789;

    /// The header at the front and what follows it; `None` when the bytes are too few.
    pub fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        bytes.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// The header of a frame of this segment.
    pub const fn bytes(vni: Vni) -> [u8; 8] {
        let [a, b, c] = vni.to_wire();
        [Self::FLAG_I, 0, 0, 0, a, b, c, 0]
    }

    /// Whether the I flag is set and every reserved bit is zero.
    ///
    /// RFC 7348 wants reserved bits ignored; the kernel drops what it does not understand, and so do we.
    pub fn is_plain(self) -> bool {
        matches!(*self.0, [Self::FLAG_I, 0, 0, 0, _, _, _, 0])
    }

    /// The segment.
    pub fn vni(self) -> Vni {
        Vni::from_wire([self.0[4], self.0[5], self.0[6]])
    }
}
