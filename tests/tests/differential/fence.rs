//! Frames that mark the end of a row: one for the kernel's path, one for userspace's.

use crate::inner::{self, C1, C2};

/// What a fence frame carries before its number.
const MARK: &[u8] = b"fence ";

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

    /// Whether this is a fence frame.
    pub(crate) fn is(frame: &[u8]) -> bool {
        frame.get(14..).is_some_and(|payload| payload.starts_with(MARK))
    }
}
