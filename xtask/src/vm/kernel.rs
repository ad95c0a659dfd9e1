//! The kernels: Debian's packages, fetched and unpacked into the target directory, never installed.

use super::vmlinux;
use crate::process;
use crate::setup;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What of a package's modules is unpacked: where those of [`MODULES`] and what they need can lie.
const MEMBERS: [&str; 7] = [
    "./boot/vmlinuz-*",
    "*/modules.*",
    "*/kernel/net/*",
    "*/kernel/drivers/net/*",
    "*/kernel/drivers/virtio/*",
    "*/kernel/lib/*",
    "*/kernel/crypto/*",
];

/// The modules that the jobs need; what these need in turn comes along.
const MODULES: [&str; 15] = [
    "8021q",
    "br_netfilter",
    "bridge",
    "cls_bpf",
    "dummy",
    "inet_diag",
    "netlink_diag",
    "pktgen",
    "sch_ingress",
    "tun",
    "udp_diag",
    "veth",
    "virtio_net",
    "virtio_pci",
    "vxlan",
];

/// A kernel that is ready to be started.
pub(super) struct Kernel {
    /// As `uname -r` says it, which is also the name of the directory of its modules.
    pub(super) release: String,
    /// The uncompressed kernel.
    pub(super) image: PathBuf,
    /// The directory in which `lib/modules/RELEASE` lies.
    tree: PathBuf,
}

impl Kernel {
    /// The newest kernel of the series `series` (as in `6.1`) that this system's package sources have.
    pub(super) fn fetch(series: &str) -> Result<Self> {
        let package = setup::newest_package(|name| version(name, series)).with_context(|| {
            format!("the package sources of this system have no Linux {series}; Debian 12 has it")
        })?;
        let directory = process::target_dir().join("vm/kernels");
        let tree = directory.join(&package);
        let release = package.trim_start_matches("linux-image-").to_owned();
        let kernel = Self { image: tree.join("vmlinux"), release, tree };
        // Written last, so it says that everything is there.
        if !kernel.image.exists() {
            eprintln!("fetching {package}");
            let archive = setup::download_package(&package, &directory)?;
            kernel.unpack(&archive)?;
            std::fs::remove_file(&archive)?;
        }
        Ok(kernel)
    }

    /// Unpacks what is needed of the package `archive`.
    fn unpack(&self, archive: &Path) -> Result<()> {
        // An unpacking that was interrupted leaves things behind.
        let _ = std::fs::remove_dir_all(&self.tree);
        std::fs::create_dir_all(&self.tree)?;
        let script = r#"dpkg-deb --fsys-tarfile "$1" | tar --extract --directory "$2" --wildcards "#;
        let members = MEMBERS.map(|member| format!("'{member}'")).join(" ");
        let mut shell = process::command("sh");
        shell.args(["-c", &format!("{script}{members}"), "sh"]).arg(archive).arg(&self.tree);
        process::run(&mut shell)?;
        if !self.tree.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", self.tree.join("lib"))?;
        }
        self.depmod(&self.tree)?;
        let image = self.tree.join("boot").join(format!("vmlinuz-{}", self.release));
        let unfinished = self.tree.join("vmlinux.unfinished");
        vmlinux::extract(&image, &unfinished)?;
        Ok(std::fs::rename(unfinished, &self.image)?)
    }

    /// Copies [`MODULES`] and what they need into `root`, unpacked, for its `modprobe`.
    pub(super) fn copy_modules(&self, root: &Path) -> Result<()> {
        let (from, to) = (self.modules(&self.tree), self.modules(root));
        let index = std::fs::read_to_string(from.join("modules.dep")).context("while reading modules.dep")?;
        for file in needed(&index) {
            let (source, target) = (from.join(file), to.join(file.trim_end_matches(".xz")));
            std::fs::create_dir_all(target.parent().context("a module without a directory")?)?;
            let mut module = std::fs::read(&source).with_context(|| source.display().to_string())?;
            if file.ends_with(".xz") {
                module = vmlinux::unpack("xz", &module).with_context(|| source.display().to_string())?;
            }
            std::fs::write(&target, module).with_context(|| target.display().to_string())?;
        }
        for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            std::fs::copy(from.join(list), to.join(list)).with_context(|| list.to_owned())?;
        }
        self.depmod(root)
    }

    fn modules(&self, root: &Path) -> PathBuf {
        root.join("lib/modules").join(&self.release)
    }

    /// Writes the index of the modules below `root`, which the package does not bring along.
    fn depmod(&self, root: &Path) -> Result<()> {
        let depmod = process::find("depmod").context("no depmod; it is in the package kmod")?;
        let mut depmod = process::command(depmod);
        // Silent about the symbols of modules that were left out.
        process::run(depmod.arg("-b").arg(root).arg(&self.release).stderr(std::process::Stdio::null()))
    }
}

/// The version in the name of a package with a kernel of `series` for ordinary machines, for comparison.
///
/// `linux-image-6.1.0-56-amd64` and `linux-image-6.12.117+deb12-amd64` are such names; the ones of debug
/// symbols, of unsigned images and of other flavours (`-cloud-amd64`, `-rt-amd64`) are not.
fn version(name: &str, series: &str) -> Option<Vec<u32>> {
    let release = name.strip_prefix("linux-image-")?.strip_suffix("-amd64")?;
    let rest = release.strip_prefix(series)?.strip_prefix('.')?;
    let rest = rest.split(['.', '-']).map(|part| part.split_once("+deb").map_or(part, |(number, _)| number));
    rest.map(|number| number.parse().ok()).collect()
}

/// The files of [`MODULES`] and of what they need, according to `modules.dep`.
fn needed(index: &str) -> BTreeSet<&str> {
    let mut files = BTreeSet::new();
    for line in index.lines() {
        let Some((file, needs)) = line.split_once(':') else { continue };
        let name = file.rsplit('/').next().and_then(|name| name.split('.').next());
        if name.is_some_and(|name| MODULES.contains(&name)) {
            files.insert(file);
            files.extend(needs.split_ascii_whitespace());
        }
    }
    files
}

/// Makes sure that a series is spelt as Linux does: two numbers.
pub(super) fn parse_series(text: &str) -> Result<String> {
    let numbers: Vec<_> = text.split('.').map(str::parse::<u32>).collect();
    ensure!(numbers.len() == 2 && numbers.iter().all(Result::is_ok), "expected a series like 6.1, or `all`");
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_from_their_flavours_and_ordered_by_number() {
        assert_eq!(version("linux-image-6.1.0-9-amd64", "6.1"), Some(vec![0, 9]));
        assert!(version("linux-image-6.1.0-9-amd64", "6.1") < version("linux-image-6.1.0-56-amd64", "6.1"));
        assert_eq!(version("linux-image-6.12.117+deb12-amd64", "6.12"), Some(vec![117]));
        assert_eq!(version("linux-image-6.12.9+deb13-amd64", "6.12"), Some(vec![9]));
        for other in [
            "linux-image-6.12.9+deb13-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-9-amd64-dbg",
            "linux-image-6.1.0-9-amd64-unsigned",
            "linux-image-6.1-amd64",
            "linux-image-amd64",
        ] {
            assert_eq!(version(other, "6.1"), None, "{other}");
        }
    }

    #[test]
    fn what_a_module_needs_comes_along() {
        let index = "kernel/net/llc/llc.ko:\n\
                     kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n\
                     kernel/drivers/net/veth.ko.xz:\nkernel/net/sctp/sctp.ko: kernel/lib/libcrc32c.ko\n";
        assert_eq!(
            needed(index).into_iter().collect::<Vec<_>>(),
            [
                "kernel/drivers/net/veth.ko.xz",
                "kernel/net/802/stp.ko",
                "kernel/net/bridge/bridge.ko",
                "kernel/net/llc/llc.ko"
            ]
        );
    }

    #[test]
    fn a_series_is_two_numbers() {
        assert_eq!(parse_series("6.12").unwrap(), "6.12");
        for wrong in ["6", "6.1.0", "6.x", "", "latest"] {
            assert!(parse_series(wrong).is_err(), "{wrong}");
        }
    }
}
