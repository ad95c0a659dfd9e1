//! What people and programs get to read.

pub mod progress;
pub mod table;
