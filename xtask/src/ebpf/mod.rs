//! `cargo xtask ebpf`: compiles the XDP programs, or checks that the committed objects are what they compile to.

pub(crate) mod toolchain;

use crate::process;
use crate::setup::{self, Purpose};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toolchain::{TARGET, Toolchain};

/// A committed object and the program of the package that it is compiled from.
struct Object {
    file: &'static str,
    binary: &'static str,
}

/// The committed objects.
const OBJECTS: [Object; 2] = [
    Object { file: "ebpf/vxdp.bpf.o", binary: "vxdp-ebpf" },
    Object { file: "ebpf/bench.bpf.o", binary: "vxdp-bench-ebpf" },
];

/// The committed note on what they were compiled with.
const MADE_WITH: &str = "ebpf/vxdp.bpf.txt";

/// Compile the XDP programs into ebpf/vxdp.bpf.o and, for the benchmarks, ebpf/bench.bpf.o, which are committed
/// beside their source.
///
/// The toolchain is Debian's rustc-web, rust-web-src and llvm-22-dev, and a bpf-linker that is built once
/// into the target directory. Where these cannot be had, rustup's nightly with rust-src and a bpf-linker in
/// PATH serve as well, but may give other bytes.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask ebpf            after a change in ebpf/: compile, and replace the objects
  cargo xtask ebpf --check    compile, and compare with the objects; exit code 1 if they differ")]
pub(crate) struct Args {
    /// Only compare; leave the committed objects as they are
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let toolchain = toolchain()?;
    eprintln!("compiling with {}", toolchain.versions);
    for object in &OBJECTS {
        let built_file = build(&toolchain, object.binary)?;
        let built = read(&built_file)?;
        let (name, file) = (object.file, process::root().join(object.file));
        if args.check {
            if let Some(difference) = difference(&read(&file)?, &built) {
                return Err(complaint(name, &difference, &toolchain, &built_file));
            }
            println!("{name} is what its source compiles to ({} bytes)", built.len());
            continue;
        }
        let unchanged = std::fs::read(&file).is_ok_and(|old| old == built);
        write(&file, &built)?;
        println!("{name}: {} ({} bytes)", if unchanged { "unchanged" } else { "replaced" }, built.len());
    }
    if !args.check {
        write(&process::root().join(MADE_WITH), format!("{}\n", toolchain.versions).as_bytes())?;
    }
    Ok(())
}

/// Debian's toolchain, installed if need be, or else a nightly.
fn toolchain() -> Result<Toolchain> {
    let debian = setup::ensure(&[Purpose::Ebpf]).and_then(|()| Toolchain::debian());
    debian.or_else(|why_not| {
        Toolchain::nightly().map_err(|neither| {
            why_not.context(format!(
                "no toolchain for the XDP programs: {neither:#} (`rustup toolchain install nightly --component \
                 rust-src` and a bpf-linker would do), and Debian's cannot be had"
            ))
        })
    })
}

/// Compiles `binary`; the file with the object.
fn build(toolchain: &Toolchain, binary: &str) -> Result<PathBuf> {
    let target_dir = process::target_dir().join("bpf");
    let mut cargo = toolchain.cargo()?;
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags()?);
    cargo.args(["build", "--release", "--locked", "-Zbuild-std=core", "--target", TARGET]);
    cargo.args(["--package", "vxdp-ebpf", "--bin", binary, "--features", "programs"]);
    process::run(cargo.arg("--target-dir").arg(&target_dir))?;
    Ok(target_dir.join(TARGET).join("release").join(binary))
}

/// Flags with which every checkout gives the same bytes: nothing may depend on where it lies.
///
/// No debug information: it would name lines, and each comment would change the object.
fn rustflags() -> Result<OsString> {
    let home = std::env::var_os("HOME").context("HOME is not set; cargo needs it, too")?;
    let cargo_home =
        std::env::var_os("CARGO_HOME").map_or_else(|| Path::new(&home).join(".cargo"), PathBuf::from);
    let mut flags = OsString::from("-Cdebuginfo=0");
    for (from, to) in [(process::root(), "/vxdp"), (cargo_home, "/cargo")] {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    Ok(flags)
}

/// How `built` differs from `committed`, if it does.
fn difference(committed: &[u8], built: &[u8]) -> Option<String> {
    if committed == built {
        return None;
    }
    let common = committed.iter().zip(built).take_while(|(a, b)| a == b).count();
    Some(format!(
        "{} bytes committed, {} compiled, different from byte {common} on",
        committed.len(),
        built.len()
    ))
}

/// The error for an object that is not what its source compiles to, with the likely reason.
fn complaint(object: &str, difference: &str, toolchain: &Toolchain, built: &Path) -> anyhow::Error {
    let made_with = std::fs::read_to_string(process::root().join(MADE_WITH)).unwrap_or_default();
    let reason = if made_with.trim() == toolchain.versions {
        "the source was changed without it".to_owned()
    } else {
        format!("it was made with {}, here it is {}", made_with.trim(), toolchain.versions)
    };
    anyhow::anyhow!(
        "{object} is not what its source compiles to: {difference}. Probably {reason}. `cargo xtask ebpf` \
         replaces it; to see what changed, run llvm-objdump -d on it and on {}",
        built.display()
    )
}

/// The bytes of `file`.
fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Replaces the content of `file`.
fn write(file: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_says_where_it_begins() {
        assert_eq!(difference(b"abc", b"abc"), None);
        assert!(difference(b"abc", b"abx").unwrap().ends_with("from byte 2 on"));
        assert!(difference(b"abc", b"abcd").unwrap().contains("3 bytes committed, 4 compiled"));
    }

    #[test]
    fn no_flag_tells_where_the_checkout_lies_without_hiding_it() {
        let flags = rustflags().unwrap().into_string().unwrap();
        let root = process::root().display().to_string();
        assert!(flags.split('\x1f').filter(|f| f.contains(&root)).all(|f| f.ends_with("=/vxdp")), "{flags}");
    }
}
