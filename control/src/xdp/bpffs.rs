//! The BPF file system: where maps pass from one program to the next, and where links outlive the process.
//!
//! A mount of our own beside the API socket, not `/sys/fs/bpf`: that one need not be mounted, and is shared
//! by all daemons of a machine, while the socket's directory already tells them apart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::owner::Owner;

/// A mounted BPF file system; it stays mounted when the value is gone.
#[derive(Debug, Clone)]
pub struct BpfFs {
    root: PathBuf,
}

impl BpfFs {
    /// The BPF file system at `root`, mounted now unless it is already.
    ///
    /// The directory is created; others cannot look into it.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        if statfs(root)?.filesystem_type() != BPF_FS_MAGIC {
            mount(Some("bpf"), root, Some("bpf"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Whoever uses it: each daemon has its own.
    pub fn owner(&self) -> Owner {
        Owner::of(&self.root)
    }

    /// Where the link of a device is pinned. `name` is up to the caller, but must not contain dots: the
    /// kernel refuses them in this file system.
    pub fn link(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Unmounts and removes `root`, unless a link is pinned there, which a later process will take over.
    pub fn release(root: &Path) -> io::Result<()> {
        if root.exists() && fs::read_dir(root)?.next().is_some() {
            return Ok(());
        }
        Self::remove(root)
    }

    /// Unmounts and removes `root`: whatever is pinned there and nobody holds otherwise is detached.
    ///
    /// Nothing there is success.
    pub fn remove(root: &Path) -> io::Result<()> {
        if root.exists() && statfs(root)?.filesystem_type() == BPF_FS_MAGIC {
            umount2(root, MntFlags::MNT_DETACH)?;
        }
        match fs::remove_dir(root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A directory for the time of one loading, removed with everything in it when dropped.
    pub(super) fn scratch(&self) -> io::Result<Scratch> {
        // The daemon loads one program after the other, but an old and a new daemon may load at once.
        let path = self.root.join(format!("load-{}-{}", std::process::id(), thread_number()));
        if path.exists() {
            drop(Scratch { path: path.clone() });
        }
        fs::create_dir(&path)?;
        Ok(Scratch { path })
    }
}

/// A number that tells the threads of this process apart.
fn thread_number() -> i32 {
    nix::unistd::gettid().as_raw()
}

/// See [`BpfFs::scratch`].
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover costs the memory of the maps pinned in it until the next start; nothing else.
        let _ = fs::remove_dir_all(&self.path);
    }
}
