//! xdp mode: workers, XDP programs and their tables over a standing kernel overlay.

pub mod compile;
