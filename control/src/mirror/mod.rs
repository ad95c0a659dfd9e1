//! The kernel's forwarding state as the fast path needs it: rows and next hops in, table changes out.
//!
//! The kernel is the one source of truth in both modes.
//! [`message`] reads netlink messages, [`fdb`] decides for every MAC of an overlay whether the fast path
//! may carry it, [`nexthop`] keeps the resolution of each VTEP, [`state`] puts them together and gives numbers.
//! [`follow`] does the I/O: `dump` looks at devices and neighbours, `readings` has the forwarding tables read one
//! after the other when `due`, `reading` puts one together of what `rows` gives, `audit` looks at everything now and then,
//! `work` gathers what a burst of notifications asks for, `upkeep` keeps
//! the kernel's rows and next hops alive, [`query`] has the requests.

pub mod audit;
mod due;
mod dump;
pub mod fact;
pub mod fdb;
pub mod follow;
mod link;
pub mod message;
pub mod nexthop;
pub mod query;
mod reading;
mod readings;
mod rows;
pub mod state;
mod upkeep;
mod work;
