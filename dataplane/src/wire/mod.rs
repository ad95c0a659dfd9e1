//! Wire formats: values checked once, then infallible.

mod mac;
mod vni;

pub use mac::{InvalidMac, MacAddr};
pub use vni::{InvalidVni, Vni};
