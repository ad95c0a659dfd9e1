//! UDP headers (RFC 768).

/// A UDP header: source port, destination port, length, checksum.
#[derive(Clone, Copy, Debug)]
pub struct UdpHeader<'a>(&'a [u8; UdpHeader::LEN]);

impl<'a> UdpHeader<'a> {
    /// Bytes.
    pub const LEN: usize = 8;
    /// Offset of the source port.
    pub const SOURCE_PORT: usize = 0;
    /// Offset of the destination port.
    pub const DESTINATION_PORT: usize = 2;
    /// Offset of the length.
    pub const LENGTH: usize = 4;
    /// Offset of the checksum.
    pub const CHECKSUM: usize = 6;

    /// The header at the front and what follows it; `None` when the bytes are too few.
    pub fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        bytes.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// Source port.
    pub fn source_port(self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// Destination port.
    pub fn destination_port(self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Bytes of header and payload.
    pub fn length(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[4], self.0[5]]))
    }

    /// Checksum, as it stands on the wire; zero means none.
    pub fn checksum(self) -> [u8; 2] {
        [self.0[6], self.0[7]]
    }
}
