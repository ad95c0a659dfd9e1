//! Frames that mark the end of a row: one for the kernel's path, one for userspace's, and a question that the
//! kernel answers itself.

use crate::inner::{self, C1, C2};

/// What a fence frame carries before its number.
const MARK: &[u8] = b"fence ";

/// What the addresses begin with under which fences ask.
const ASKERS: [u8; 2] = [10, 9];

/// Who asked, if this is an ARP reply.
fn asked_by(frame: &[u8]) -> Option<[u8; 4]> {
    let reply = frame.get(12..14)? == [0x08, 0x06] && frame.get(20..22)? == [0, 2];
    reply.then(|| frame.get(38..)?.first_chunk().copied()).flatten()
}

/// Gives numbered pairs of fence frames from c1.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    number: u32,
}

impl Fence {
    /// A broadcast, which the kernel carries in every mode, and a unicast frame to c2.
    pub(crate) fn next(&mut self) -> [Vec<u8>; 2] {
        self.number += 1;
        let payload = [MARK, &self.number.to_be_bytes(), &[0; 40]].concat();
        let frame = inner::frame(inner::EXPERIMENT, &payload);
        [inner::between(C1, [0xff; 6], frame.clone()), inner::between(C1, C2, frame)]
    }

    /// What c1 asks `proxy`, under an address of its own that goes with the pair given last; and whether a frame
    /// is the answer.
    pub(crate) fn question(&self) -> (Vec<u8>, impl Fn(&[u8]) -> bool + use<>) {
        let [.., high, low] = self.number.to_be_bytes();
        let asker = [ASKERS[0], ASKERS[1], high, low];
        (inner::arp_from(asker, C2, 1, inner::REMOTE_V4), move |frame: &[u8]| asked_by(frame) == Some(asker))
    }

    /// Whether this is a fence frame, or the answer to one.
    pub(crate) fn is(frame: &[u8]) -> bool {
        frame.get(14..).is_some_and(|payload| payload.starts_with(MARK))
            || asked_by(frame).is_some_and(|asker| asker.starts_with(&ASKERS))
    }
}
