//! Network namespaces: opening them, and netlink sockets inside them.
//!
//! A netlink socket belongs for life to the namespace of the thread that opened it, so a short-lived
//! thread enters the namespace and opens it there; no thread of the runtime ever changes namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netlink_sys::AsyncSocket;
use nix::sched::{CloneFlags, setns};

/// Directory of the named namespaces (`ip-netns(8)`).
pub const NETNS_DIR: &str = "/run/netns";

/// An open network namespace; it lives at least as long as this value.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    inode: u64,
    label: Arc<str>,
    path: Arc<Path>,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"), "host")
    }

    /// The named namespace `/run/netns/NAME`.
    pub fn named(name: &str) -> io::Result<Self> {
        Self::open(&Self::path_of(name), name)
    }

    /// The namespace of process `pid`.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")), &format!("pid {pid}"))
    }

    /// Where the named namespace `name` is mounted.
    pub fn path_of(name: &str) -> PathBuf {
        Path::new(NETNS_DIR).join(name)
    }

    /// The namespace mounted at `path` (or a `/proc/PID/ns/net`); `label` names it in messages.
    pub fn open(path: &Path, label: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { file: Arc::new(file), inode, label: label.into(), path: path.into() })
    }

    /// The namespace's identity: equal for two openings of one namespace.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// What was opened; another namespace may stand there by now, so compare [`Netns::inode`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A name for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `work` on a thread of its own inside the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Opens an rtnetlink connection inside the namespace and drives it on the current runtime.
    pub fn netlink(&self) -> io::Result<rtnetlink::Handle> {
        let runtime = tokio::runtime::Handle::current();
        let (mut connection, handle, _) = self.run(|| {
            let _guard = runtime.enter();
            rtnetlink::new_connection()
        })?;
        // Extended acknowledgements carry the kernel's own words beside the errno. Capped ones leave
        // out the echo of the request, so that many outstanding answers fit in the receive buffer.
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        runtime.spawn(connection);
        Ok(handle)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

impl Eq for Netns {}
