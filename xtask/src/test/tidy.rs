//! House rules that neither the compiler nor clippy checks, over every Rust file of the workspace.

use crate::process;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The crates, each a directory at the top.
const ROOMS: [&str; 6] = ["benches", "control", "dataplane", "ebpf", "tests", "xtask"];

/// A file longer than this is worth splitting; it is named, and passes.
const LONG: usize = 400;

/// A file longer than this is refused.
const TOO_LONG: usize = 600;

/// Where unsafe code may live: the AF_XDP port, the XDP programs, the lab's few system calls.
const UNSAFE_ALLOWED: [&str; 3] = ["dataplane/src/port/xsk.rs", "ebpf/", "tests/src/syscall.rs"];

/// Fails with every breach of a rule.
pub(super) fn check() -> Result<()> {
    let root = process::root();
    let mut files = Vec::new();
    let mut breaches = Vec::new();
    for room in ROOMS {
        collect(&root.join(room), &mut files)?;
        let manifest = read(&root.join(room).join("Cargo.toml"))?;
        if !manifest.contains("[lints]\nworkspace = true") {
            breaches.push(format!("{room}/Cargo.toml: does not take the workspace's lints"));
        }
    }
    for file in &files {
        let text = read(file)?;
        let name = file.strip_prefix(&root).unwrap_or(file).display().to_string();
        let length = text.lines().count();
        if (LONG..=TOO_LONG).contains(&length) {
            println!("note: {name} has {length} lines; {LONG} are enough for one idea");
        }
        breaches.extend(judge(&name, &text).into_iter().map(|breach| format!("{name}: {breach}")));
    }
    if !breaches.is_empty() {
        bail!("house rules broken:\n  {}", breaches.join("\n  "));
    }
    println!("{} files keep the house rules", files.len());
    Ok(())
}

/// What is wrong with the file `name`.
fn judge(name: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    if !text.starts_with("//! ") && !text.starts_with("#![doc = include_str!(") {
        breaches.push("line 1: does not say (`//! …`) what the file is for".to_owned());
    }
    let length = text.lines().count();
    if length > TOO_LONG {
        breaches.push(format!("has {length} lines, more than {TOO_LONG}: split it"));
    }
    let may_be_unsafe = UNSAFE_ALLOWED.iter().any(|allowed| name.starts_with(allowed));
    for (index, line) in text.lines().enumerate() {
        let (number, line) = (index + 1, line.trim_start());
        if line.starts_with("//") {
            continue;
        }
        // The workspace denies unsafe code, so a file that has some must have lifted that.
        let lifts = line.contains(concat!("allow(unsafe", "_code"))
            || line.contains(concat!("expect(unsafe", "_code"));
        if lifts && !may_be_unsafe {
            breaches.push(format!("line {number}: unsafe code belongs into {}", UNSAFE_ALLOWED.join(", ")));
        }
        for stub in [concat!("to", "do!("), concat!("unimpl", "emented!(")] {
            if line.contains(stub) {
                breaches.push(format!("line {number}: {stub}…)"));
            }
        }
    }
    breaches
}

/// Adds the Rust files below `dir`, which is no build directory.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", dir.display()))?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// The text of `file`.
fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_it_is_for() {
        assert!(judge("control/src/a.rs", "//! What it is.\nfn a() {}\n").is_empty());
        assert_eq!(judge("control/src/a.rs", "fn a() {}\n").len(), 1);
        assert_eq!(judge("control/src/a.rs", "").len(), 1);
    }

    #[test]
    fn a_file_is_not_endless() {
        let lines = |count| format!("//! Long.\n{}", "\n".repeat(count - 1));
        assert!(judge("a.rs", &lines(TOO_LONG)).is_empty());
        assert_eq!(judge("a.rs", &lines(TOO_LONG + 1)).len(), 1);
    }

    #[test]
    fn unsafe_code_stays_where_it_belongs() {
        let text = concat!("//! A.\n#![expect(unsafe", "_code, reason = \"x\")]\n");
        assert!(judge("dataplane/src/port/xsk.rs", text).is_empty());
        assert!(judge("ebpf/src/main.rs", text).is_empty());
        assert_eq!(judge("control/src/a.rs", text).len(), 1);
        assert!(judge("control/src/a.rs", concat!("//! A.\n#![forbid(unsafe", "_code)]\n")).is_empty());
    }

    #[test]
    fn stubs_are_found_outside_comments() {
        assert_eq!(judge("a.rs", concat!("//! A.\nfn a() { to", "do!() }\n")).len(), 1);
        assert!(judge("a.rs", concat!("//! A.\n// no to", "do!() here\n")).is_empty());
    }
}
