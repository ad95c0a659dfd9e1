//! Programs of developers from crates.io, built once into the target directory.

use crate::process;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory with the program `name` of this version, built with what `configure` adds to `cargo install`.
pub(crate) fn ensure(name: &str, version: &str, configure: impl FnOnce(&mut Command)) -> Result<PathBuf> {
    let dir = process::target_dir().join(name);
    let bin = dir.join("bin");
    if first_line(&bin.join(name)).is_none_or(|line| line != format!("{name} {version}")) {
        eprintln!("building {name} {version}, once, into {}", dir.display());
        let mut cargo = process::cargo();
        cargo.args(["install", name, "--locked", "--version", version, "--force", "--root"]).arg(&dir);
        configure(&mut cargo);
        process::run(&mut cargo)?;
    }
    Ok(bin)
}

/// The first line that `program --version` prints, if it starts.
pub(crate) fn first_line(program: &Path) -> Option<String> {
    let out = process::command(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout);
    text.lines().next().map(|line| line.trim().to_owned())
}
