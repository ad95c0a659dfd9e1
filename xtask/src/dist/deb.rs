//! The Debian package, by `dpkg-deb`, with the dependencies that `dpkg-shlibdeps` finds.

use super::{VERSION, stage};
use crate::process;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// What is done on the system, by dpkg's name for when.
const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", include_str!("../../../packaging/postinst")),
    ("prerm", include_str!("../../../packaging/prerm")),
    ("postrm", include_str!("../../../packaging/postrm")),
];

/// How well the package is packed, from 0 to 9: its size against the time it takes.
#[derive(Clone, Copy)]
pub(super) enum Packing {
    /// As Debian does it.
    Well = 6,
    /// A tenth of the time, for trying.
    Fast = 0,
}

/// Makes the package with `program` in `directory`, its files dated `time`; the package, and what it depends on.
pub(super) fn build(
    program: &Path,
    directory: &Path,
    time: &str,
    packing: Packing,
) -> Result<(PathBuf, String)> {
    let tree = directory.join("deb");
    stage::fill(program, &tree)?;
    let depends = depends(program, &directory.join("shlibdeps"))?;
    let architecture = process::output(process::command("dpkg").arg("--print-architecture"))?;
    let architecture = String::from_utf8_lossy(&architecture).trim().to_owned();
    let text = description(&architecture, size(&tree)?, &depends);
    let control = tree.join("DEBIAN");
    std::fs::create_dir(&control).with_context(|| control.display().to_string())?;
    std::fs::write(control.join("control"), text)?;
    for (name, script) in SCRIPTS {
        std::fs::write(control.join(name), script)?;
    }
    process::run(process::command("chmod").args(["-R", "u=rwX,go=rX"]).arg(&control))?;
    process::run(process::command("chmod").arg("755").args(SCRIPTS.map(|(name, _)| control.join(name))))?;
    let package = directory.join(format!("vxdp_{VERSION}-1_{architecture}.deb"));
    let mut dpkg = process::command("dpkg-deb");
    dpkg.env("SOURCE_DATE_EPOCH", time).args(["--root-owner-group", "-Zxz"]);
    dpkg.arg(format!("-z{}", packing as u8)).arg("--build").arg(&tree).arg(&package);
    process::run(dpkg.stdout(std::io::stderr()))?;
    std::fs::remove_dir_all(&tree)?;
    Ok((package, depends))
}

/// The packages, with their versions, of the shared libraries that `program` needs. Works in `directory`.
fn depends(program: &Path, directory: &Path) -> Result<String> {
    std::fs::create_dir_all(directory.join("debian"))?;
    // dpkg-shlibdeps wants to know whose dependencies they are.
    std::fs::write(directory.join("debian/control"), "Source: vxdp\n\nPackage: vxdp\nArchitecture: any\n")?;
    let mut command = process::command("dpkg-shlibdeps");
    let out = process::output(command.current_dir(directory).arg("-O").arg("-e").arg(program))?;
    std::fs::remove_dir_all(directory)?;
    let out = String::from_utf8(out)?;
    let list = out.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(list.context("dpkg-shlibdeps found no dependency")?.to_owned())
}

/// The package's description, for files of `kibibytes` together.
fn description(architecture: &str, kibibytes: u64, depends: &str) -> String {
    format!(
        "Package: vxdp\n\
         Version: {VERSION}-1\n\
         Architecture: {architecture}\n\
         Maintainer: The vxdp authors <vxdp@localhost>\n\
         Installed-Size: {kibibytes}\n\
         Depends: {depends}\n\
         Suggests: iproute2, docker.io, wireshark\n\
         Section: net\n\
         Priority: optional\n\
         Homepage: {}\n\
         Description: userspace VXLAN dataplane with an AF_XDP fast path\n \
         Builds a container overlay of bridge, vxlan device and static rows from one\n \
         configuration file, and carries known unicast in userspace: XDP programs pick\n \
         the frames off the network card and off the containers' veths. Everything else\n \
         stays with the kernel, which is the reference and the fallback at once.\n",
        env!("CARGO_PKG_REPOSITORY")
    )
}

/// What the files below `directory` take, in KiB.
fn size(directory: &Path) -> Result<u64> {
    let out = process::output(process::command("du").args(["--apparent-size", "-sk"]).arg(directory))?;
    let text = String::from_utf8_lossy(&out);
    text.split_whitespace().next().and_then(|n| n.parse().ok()).context("du said no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_as_debian_wants_it() {
        let text = description("amd64", 5, "libc6 (>= 2.34), libelf1 (>= 0.131)");
        assert!(text.ends_with('\n') && !text.contains("\n\n"));
        for line in text.lines() {
            assert!(line.starts_with(' ') || line.split_once(": ").is_some(), "{line}");
            assert!(line.len() <= 80, "{line}");
        }
    }

    #[test]
    fn scripts_stop_at_the_first_error() {
        for (name, script) in SCRIPTS {
            assert!(script.starts_with("#!/bin/sh\n") && script.contains("\nset -e\n"), "{name}");
        }
    }
}
