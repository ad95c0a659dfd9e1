//! Named network namespaces, made and removed as `ip netns` does, so that both see each other's.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{FsType, statfs};

use crate::netns::{NETNS_DIR, Netns};

/// `NSFS_MAGIC` of `linux/magic.h`: the file system of namespaces.
const NSFS: FsType = FsType(0x6e73_6673);

/// Makes a new network namespace and mounts it at `/run/netns/NAME`. A plain file of that name, left by an
/// interrupted attempt, is used; `AlreadyExists` if a namespace is mounted there.
pub(super) fn create(name: &str) -> io::Result<()> {
    let path = Netns::path_of(name);
    if path.exists() && is_namespace(&path)? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    share_directory()?;
    OpenOptions::new().read(true).create(true).append(true).mode(0o000).open(&path)?;
    // A thread of its own, for it ends up in the new namespace; the process is never forked.
    let outcome = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            bind(Path::new("/proc/thread-self/ns/net"), &path, MsFlags::empty())
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    if let Err(error) = outcome {
        // The name was not there before this call, and nothing is mounted on it.
        let _ = fs::remove_file(&path);
        return Err(error.into());
    }
    Ok(())
}

/// Unmounts and removes `/run/netns/NAME`. The namespace itself lives on while somebody uses it.
pub(super) fn remove(name: &str) -> io::Result<()> {
    let path = Netns::path_of(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a plain file, nothing is mounted there.
        Ok(()) | Err(Errno::EINVAL) => fs::remove_file(&path),
        Err(error) => Err(error.into()),
    }
}

/// Whether a namespace is mounted at `path`.
pub(super) fn is_namespace(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == NSFS)
}

/// Makes `/run/netns` a shared mount, as `ip netns add` does: so a namespace removed in one mount
/// namespace disappears in all, instead of being kept alive by the copies of its mount.
fn share_directory() -> io::Result<()> {
    let directory = Path::new(NETNS_DIR);
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    // `ip netns` takes the same lock; without it two of us would stack two mounts.
    let handle = fs::File::open(directory)?;
    let _lock = Flock::lock(handle, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let share =
        || mount(None::<&str>, directory, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // Not a mount point yet: make it one.
        Err(Errno::EINVAL) => {
            bind(directory, directory, MsFlags::MS_REC)?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

fn bind(from: &Path, to: &Path, more: MsFlags) -> nix::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | more, None::<&str>)
}
