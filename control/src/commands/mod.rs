//! What each command does: one file per command.

mod capture;
mod check;
mod doctor;
mod down;
mod fdb;
mod manual;
mod mode;
mod run;
mod status;
mod table;
mod top;
mod trace;

pub use capture::capture;
pub use check::check;
pub use doctor::doctor;
pub use down::down;
pub use fdb::fdb;
pub use manual::{completions, man};
pub use mode::mode;
pub use run::run;
pub use status::status;
pub use top::top;
pub use trace::trace;
