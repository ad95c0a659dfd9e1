//! Captured frames as pcapng (IETF draft-ietf-opsawg-pcapng): blocks in memory, to be written whole.

use std::borrow::Cow;
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapResult};
use vxdp_dataplane::worker::Way;

/// `if_tsresol`: nanoseconds.
const NANOSECONDS: u8 = 9;

/// Where a frame was seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Interface {
    /// The device.
    pub device: String,
    /// What it is to vxdp.
    pub description: String,
}

/// A frame that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// When, since 1970.
    pub at: Duration,
    /// Its whole length.
    pub len: u32,
    /// Its first bytes.
    pub bytes: Cow<'a, [u8]>,
    /// Which way it passed.
    pub way: Way,
    /// The path, the queue, and what became of the frame: the library writes no `epb_queue`, no `epb_verdict`.
    pub comment: Cow<'a, str>,
    /// Frames that were lost on the way here since the last one.
    pub lost: u64,
}

impl<'a> Record<'a> {
    /// What a block says; `None` for one that another program wrote.
    pub fn of_block(block: EnhancedPacketBlock<'a>) -> Option<Self> {
        let EnhancedPacketBlock { timestamp: at, original_len: len, data: bytes, options, .. } = block;
        let (mut way, mut comment, mut lost) = (None, None, 0);
        for option in options {
            match option {
                EnhancedPacketOption::Flags(flags) if flags & 3 == 1 => way = Some(Way::Enters),
                EnhancedPacketOption::Flags(flags) if flags & 3 == 2 => way = Some(Way::Leaves),
                EnhancedPacketOption::Comment(words) => comment = Some(words),
                EnhancedPacketOption::DropCount(count) => lost = count,
                _ => {}
            }
        }
        Some(Self { at, len, bytes, way: way?, comment: comment?, lost })
    }
}

/// Blocks that wait to be written.
pub struct Blocks {
    writer: PcapNgWriter<Vec<u8>>,
}

impl Blocks {
    /// The beginning of a section.
    ///
    /// # Errors
    /// None is known: memory takes everything.
    pub fn new() -> PcapResult<Self> {
        let program =
            SectionHeaderOption::UserApplication(Cow::Borrowed(concat!("vxdp ", env!("CARGO_PKG_VERSION"))));
        let options = vec![program];
        // One endianness on every host, so that a reader need not guess what an option of ours means.
        let section = SectionHeaderBlock { endianness: Endianness::Little, options, ..Default::default() };
        Ok(Self { writer: PcapNgWriter::with_section_header(Vec::new(), section)? })
    }

    /// Adds an interface; they are numbered in the order in which they were added.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn interface(&mut self, interface: &Interface, snap_length: u32) -> PcapResult<()> {
        let options = vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(&interface.device)),
            InterfaceDescriptionOption::IfDescription(Cow::Borrowed(&interface.description)),
            InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
        ];
        let block = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: snap_length, options };
        self.writer.write_pcapng_block(block).map(drop)
    }

    /// Adds a frame that was seen at the interface of this number.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn frame(&mut self, interface: u32, record: &Record<'_>) -> PcapResult<()> {
        let direction = match record.way {
            Way::Enters => 1,
            Way::Leaves => 2,
        };
        let mut options = vec![
            EnhancedPacketOption::Comment(Cow::Borrowed(&record.comment)),
            EnhancedPacketOption::Flags(direction),
        ];
        if record.lost > 0 {
            options.push(EnhancedPacketOption::DropCount(record.lost));
        }
        let (timestamp, original_len) = (record.at, record.len);
        let data = Cow::Borrowed(&*record.bytes);
        let block = EnhancedPacketBlock { interface_id: interface, timestamp, original_len, data, options };
        self.writer.write_pcapng_block(block).map(drop)
    }

    /// What waits to be written.
    pub fn bytes(&self) -> &[u8] {
        self.writer.get_ref()
    }

    /// It was written.
    pub fn written(&mut self) {
        self.writer.get_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn a_frame_survives_the_wire() {
        let mut blocks = Blocks::new().expect("memory");
        let interface = Interface { device: "veth2".into(), description: "container c1".into() };
        blocks.interface(&interface, 65535).expect("memory");
        for (way, lost) in [(Way::Enters, 0), (Way::Leaves, 17)] {
            let at = Duration::from_nanos(1_790_000_000_123_456_789);
            let (bytes, comment) = (Cow::Borrowed(&[1, 2, 3][..]), Cow::Borrowed("path userspace"));
            let record = Record { at, len: 98, bytes, way, comment, lost };
            blocks.frame(0, &record).expect("memory");
            let mut reader = PcapNgReader::new(blocks.bytes()).expect("a section");
            let mut last = None;
            while let Some(block) = reader.next_block() {
                if let Block::EnhancedPacket(packet) = block.expect("a block").into_owned() {
                    last = Record::of_block(packet);
                }
            }
            assert_eq!(last, Some(record));
        }
    }
}
