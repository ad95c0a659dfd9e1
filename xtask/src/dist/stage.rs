//! The files of the package and of the tarball, in a directory as they will lie on the system.

use crate::process;
use anyhow::{Context, Result};
use std::path::Path;

/// Files and directories of the workspace, and the directory they go to.
///
/// Links from one document to another, to an example or to the unit hold on the system, too.
const FILES: [(&str, &str); 8] = [
    ("packaging/vxdp@.service", "usr/lib/systemd/system"),
    ("packaging/copyright", "usr/share/doc/vxdp"),
    ("packaging/vxdp@.service", "usr/share/doc/vxdp/packaging"),
    ("packaging/grafana-dashboard.json", "usr/share/doc/vxdp/packaging"),
    ("README.md", "usr/share/doc/vxdp"),
    ("CHANGELOG.md", "usr/share/doc/vxdp"),
    ("docs", "usr/share/doc/vxdp"),
    ("examples", "usr/share/doc/vxdp"),
];

/// What the program writes, by its arguments, and where that goes.
const WRITTEN: [(&[&str], &str); 4] = [
    (&["completions", "bash"], "usr/share/bash-completion/completions/vxdp"),
    (&["completions", "zsh"], "usr/share/zsh/vendor-completions/_vxdp"),
    (&["completions", "fish"], "usr/share/fish/vendor_completions.d/vxdp.fish"),
    (&["man"], MANUAL),
];

const MANUAL: &str = "usr/share/man/man8/vxdp.8";

/// Puts `program` and everything else into `stage`, made anew.
pub(super) fn fill(program: &Path, stage: &Path) -> Result<()> {
    if stage.exists() {
        std::fs::remove_dir_all(stage).with_context(|| format!("cannot empty {}", stage.display()))?;
    }
    let binary = stage.join("usr/bin/vxdp");
    directory_of(&binary)?;
    // The build ID is made of the debug information as well, which names the directory of the build; without both,
    // every checkout gives a package of the same bytes.
    let bare = "--remove-section=.note.gnu.build-id";
    process::run(process::command("strip").arg(bare).arg("-o").arg(&binary).arg(program))?;
    for (file, directory) in FILES {
        let directory = stage.join(directory);
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        process::run(process::command("cp").arg("-R").arg(file).arg(&directory))?;
    }
    // Configurations are the administrator's; the package brings their place.
    std::fs::create_dir_all(stage.join("etc/vxdp"))?;
    for (arguments, file) in WRITTEN {
        let file = stage.join(file);
        directory_of(&file)?;
        std::fs::write(&file, process::output(process::command(program).args(arguments))?)
            .with_context(|| file.display().to_string())?;
    }
    // Without name and time, which would differ each time.
    process::run(process::command("gzip").args(["--best", "--no-name"]).arg(stage.join(MANUAL)))?;
    // Whatever the umask of who builds.
    process::run(process::command("chmod").args(["-R", "u=rwX,go=rX"]).arg(stage))
}

/// Makes the directory that `file` lies in.
fn directory_of(file: &Path) -> Result<()> {
    let directory = file.parent().context("a file without a directory")?;
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())
}
