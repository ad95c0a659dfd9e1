//! The parts of the Rust toolchain that only the tests need: formatter and linter.

use crate::process;
use anyhow::{Result, bail};

/// A part of the toolchain.
pub(super) struct Component {
    /// The cargo command it brings.
    pub(super) name: &'static str,
    /// What rustup calls it.
    rustup: &'static str,
}

const COMPONENTS: [Component; 2] =
    [Component { name: "fmt", rustup: "rustfmt" }, Component { name: "clippy", rustup: "clippy" }];

/// The parts that are not there.
pub(super) fn missing() -> Vec<&'static Component> {
    COMPONENTS.iter().filter(|c| !works(c.name)).collect()
}

/// Installs the parts that are not there.
pub(super) fn ensure() -> Result<()> {
    let missing: Vec<_> = missing().iter().map(|c| c.rustup).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if process::find("rustup").is_none() {
        bail!(
            "the Rust toolchain lacks {} and there is no rustup to add it: install it beside cargo",
            missing.join(" and ")
        );
    }
    eprintln!("installing with rustup: {}", missing.join(" "));
    process::run(process::command("rustup").args(["component", "add"]).args(&missing))
}

/// Whether cargo has the command. rustup leaves a proxy in place of a missing part, so it must be started.
fn works(name: &str) -> bool {
    process::cargo().args([name, "--version"]).output().is_ok_and(|out| out.status.success())
}
