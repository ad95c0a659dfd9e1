//! What the fuzz targets do with their input, so that ordinary tests can do the same with every input kept.
//!
//! Each function takes bytes of any kind and panics where something that must hold does not. `tests/fuzz` gives
//! them to libFuzzer, `tests/tests/fuzz.rs` replays the corpora and adds random inputs.

mod api;
mod configuration;
mod mirror;
mod oracle;
mod process;
mod script;
mod wire;

/// A fuzz target: its name, which is also its corpus's, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] = [
    ("wire", wire::check),
    ("process", process::check),
    ("configuration", configuration::check),
    ("mirror", mirror::check),
    ("api", api::check),
];

/// Runs one target on one input.
///
/// # Panics
/// When there is no such target, or something that must hold does not.
pub fn run(target: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, check) = found.unwrap_or_else(|| panic!("no fuzz target is called {target}"));
    check(input);
}
