//! The toolchain of the XDP programs: a compiler, its core library's source, and bpf-linker.
//!
//! Compiling for BPF takes `-Zbuild-std`, and a linker that reads what the compiler wrote: bpf-linker's LLVM
//! must not be older than the compiler's. Debian has both in matching versions, kept current for its browsers.

use crate::process;
use crate::tool;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compilation target.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler; not the one that builds the workspace, which may well be first in `PATH`.
pub(crate) const RUSTC: &str = "/usr/bin/rustc";
/// A file of the core library's source.
pub(crate) const CORE: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";
/// The LLVM of compiler and linker.
pub(crate) const LLVM: &str = "22";
/// Tells bpf-linker's build where that LLVM is.
pub(crate) const LLVM_CONFIG: &str = "/usr/lib/llvm-22/bin/llvm-config";
/// The linker's version. Another one may order sections differently, which is a different object.
const LINKER: &str = "0.13.0";

/// A compiler and a linker that fit.
pub(super) struct Toolchain {
    /// Debian's compiler, or `None` for rustup's nightly.
    rustc: Option<PathBuf>,
    /// The directory with the linker, to be first in `PATH`; `None` if it is in `PATH`.
    linker: Option<PathBuf>,
    /// What was used, in one line.
    pub(super) versions: String,
}

impl Toolchain {
    /// Debian's compiler and a bpf-linker built for it, once, in the target directory.
    pub(super) fn debian() -> Result<Toolchain> {
        let linker = tool::ensure("bpf-linker", LINKER, |cargo| {
            cargo.env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"));
            cargo.args(["--no-default-features", "--features", &format!("llvm-{LLVM}")]);
        })?;
        let compiler =
            tool::first_line(Path::new(RUSTC)).with_context(|| format!("{RUSTC} does not start"))?;
        let versions = format!("{compiler}, LLVM {LLVM}, bpf-linker {LINKER}");
        Ok(Toolchain { rustc: Some(RUSTC.into()), linker: Some(linker), versions })
    }

    /// rustup's nightly and a bpf-linker that somebody installed.
    pub(super) fn nightly() -> Result<Toolchain> {
        let sysroot = process::output(process::command("rustc").args(["+nightly", "--print", "sysroot"]))
            .context("rustup has no nightly")?;
        let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
        if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            bail!("rustup's nightly lacks rust-src");
        }
        let linker = process::find("bpf-linker").context("there is no bpf-linker in PATH")?;
        let parts = [tool::first_line(&sysroot.join("bin/rustc")), tool::first_line(&linker)]
            .map(Option::unwrap_or_default);
        Ok(Toolchain { rustc: None, linker: None, versions: parts.join(", ") })
    }

    /// A cargo that compiles with this toolchain.
    pub(super) fn cargo(&self) -> Result<Command> {
        let mut cargo = match &self.rustc {
            None => {
                let mut cargo = process::command("cargo");
                cargo.arg("+nightly");
                cargo
            }
            Some(rustc) => {
                let mut cargo = process::cargo();
                // The stable compiler with its unstable options: Debian's is a release.
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
        };
        // Of the compiler that builds the workspace: its libraries are none of this one's.
        for variable in ["LD_LIBRARY_PATH", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"]
        {
            cargo.env_remove(variable);
        }
        if let Some(dir) = &self.linker {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let dirs = std::iter::once(dir.clone()).chain(std::env::split_paths(&path));
            cargo.env("PATH", std::env::join_paths(dirs).context("PATH cannot take the linker's directory")?);
        }
        Ok(cargo)
    }
}

/// Whether Debian's compiler is there and has the LLVM that the linker gets.
pub(crate) fn has_compiler() -> bool {
    let out = process::command(RUSTC).arg("-vV").output();
    out.is_ok_and(|out| has_llvm(&String::from_utf8_lossy(&out.stdout), LLVM))
}

/// Whether the output of `rustc -vV` names this LLVM.
fn has_llvm(verbose_version: &str, llvm: &str) -> bool {
    let version = verbose_version.lines().find_map(|l| l.strip_prefix("LLVM version: "));
    version.and_then(|v| v.split('.').next()) == Some(llvm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_with_another_llvm_does_not_fit() {
        assert!(has_llvm("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n", "22"));
        assert!(!has_llvm("rustc 1.63.0\nrelease: 1.63.0\nLLVM version: 14.0.6\n", "22"));
        assert!(!has_llvm("", "22"));
    }
}
