//! The tarball, for systems without dpkg.

use super::{VERSION, stage};
use crate::process;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Makes the archive with `program` in `directory`, its files dated `time`.
///
/// Below one directory it has the files as they will lie on the system: unpacked at `/` without that
/// directory (`tar --strip-components=1`), they are installed.
pub(super) fn build(program: &Path, directory: &Path, time: &str) -> Result<PathBuf> {
    let tree = directory.join("tarball");
    stage::fill(program, &tree)?;
    let name = format!("vxdp-{VERSION}-{}-linux-static", std::env::consts::ARCH);
    let archive = directory.join(format!("{name}.tar.gz"));
    let mut tar = process::command("tar");
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    tar.arg(format!("--mtime=@{time}")).arg(format!("--transform=s,^\\.,{name},"));
    tar.args(["--use-compress-program", "gzip --best --no-name"]);
    process::run(tar.arg("--file").arg(&archive).arg("--directory").arg(&tree).arg("."))?;
    std::fs::remove_dir_all(&tree)?;
    Ok(archive)
}
