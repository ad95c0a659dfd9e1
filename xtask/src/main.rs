//! Developer and operator commands; one file per command.
fn main() {}
