//! The program that is packed: with shared libraries for the package, without for the tarball.

use super::deb::Packing;
use crate::process;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// How the program is built.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Profile {
    /// Optimised
    Release,
    /// Quickly
    Dev,
}

impl Profile {
    /// As cargo calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Dev => "dev",
        }
    }

    /// How the package is packed.
    pub(super) fn packing(self) -> Packing {
        match self {
            Profile::Release => Packing::Well,
            Profile::Dev => Packing::Fast,
        }
    }

    /// The directory that cargo builds into.
    fn directory(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Dev => "debug",
        }
    }
}

/// `cargo build` of the daemon.
fn cargo_build(profile: Profile) -> std::process::Command {
    let mut cargo = process::cargo();
    cargo.args(["build", "--locked", "--package", "vxdp-control", "--bin", "vxdp", "--profile"]);
    cargo.arg(profile.name());
    cargo
}

/// Builds the program with shared libraries: the same as `cargo xtask run` starts.
pub(super) fn shared(profile: Profile) -> Result<PathBuf> {
    process::run(&mut cargo_build(profile))?;
    Ok(process::target_dir().join(profile.directory()).join("vxdp"))
}

/// What libdbus calls of libsystemd, of which Debian has no archive: only when a program *serves* D-Bus on a
/// socket of systemd's. libpcap is a client, and one only for D-Bus devices, so nothing gets there.
const LEFT_OUT: [&str; 2] = ["sd_listen_fds", "sd_is_socket"];

/// Builds the program without shared libraries: glibc, libpcap, libelf and what those need come from archives.
///
/// glibc, because for musl the archives of libpcap and libelf would have to be built, too.
/// Works in `directory`.
pub(super) fn fixed(profile: Profile, directory: &Path) -> Result<PathBuf> {
    let archives = directory.join("archives");
    let names = collect_archives(&archives)?;
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    // rustc asks the linker for shared libraries where a build script does not say which kind it wants. Where
    // a directory that comes first has archives only, the linker takes those.
    flags.push(format!("-Lnative={}", archives.display()));
    flags.extend(names.iter().map(|name| format!("-Clink-arg=-l{name}")));
    flags.extend(LEFT_OUT.map(|symbol| format!("-Clink-arg=-Wl,--defsym={symbol}=abort")));
    // With a target, cargo keeps the flags away from build scripts and macros.
    let target = process::host()?;
    let mut cargo = cargo_build(profile);
    cargo.args(["--target", &target]).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    process::run(&mut cargo)?;
    std::fs::remove_dir_all(&archives)?;
    let program = process::target_dir().join(target).join(profile.directory()).join("vxdp");
    let headers = process::output(
        process::command("readelf").args(["--wide", "--program-headers", "--dynamic"]).arg(&program),
    )?;
    let headers = String::from_utf8_lossy(&headers);
    ensure!(
        !headers.contains("INTERP") && !headers.contains("(NEEDED)"),
        "{} was linked against shared libraries; readelf says:\n{headers}",
        program.display()
    );
    Ok(program)
}

/// Links the archives that libelf and libpcap need, themselves included, into `directory`; their names.
fn collect_archives(directory: &Path) -> Result<Vec<String>> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let mut pkg_config = process::command("pkg-config");
    let out = process::output(pkg_config.args(["--static", "--libs-only-l", "libelf", "libpcap"]))?;
    let mut names = Vec::new();
    for name in String::from_utf8(out)?.split_whitespace().filter_map(|word| word.strip_prefix("-l")) {
        if name == "systemd" {
            continue;
        }
        let file = format!("lib{name}.a");
        let out = process::output(process::command("cc").arg(format!("-print-file-name={file}")))?;
        let archive = PathBuf::from(String::from_utf8(out)?.trim());
        // Without a directory, the compiler has not found it.
        ensure!(
            archive.is_absolute(),
            "there is no {file}, which a static program needs; --only deb does without"
        );
        let link = directory.join(&file);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&archive, &link).with_context(|| link.display().to_string())?;
        names.push(name.to_owned());
    }
    Ok(names)
}
