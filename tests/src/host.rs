//! One host of a lab: a process that holds its namespaces, its underlay NIC, and what runs in it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::docker::Engine;
use crate::place::{LAB_VARIABLE, Place};

/// What the holder runs inside its fresh namespaces (`$1` host name, `$2` the lab's directory).
///
/// It lives as long as its standard input: when the lab's owner dies, whatever way, the pipe closes and the
/// holder ends every process of the host. Ctrl-C must not reach it before its owner has tidied up.
/// `/run` itself stays the machine's, so that `/run/docker.sock` is visible. sysfs shows the network
/// namespace it was mounted in, so it is mounted anew; so is bpffs, for pinned maps and links of one host.
const HOLDER: &str = r#"
trap '' INT TERM HUP
mkdir -p /run/netns /run/vxdp
mount -t tmpfs -o mode=755 vxdp-lab /run/netns
mount -t tmpfs -o mode=755 vxdp-lab /run/vxdp
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
hostname "$1"
ip link set lo up
echo ready
set +e
while read -r line; do
    if [ "$line" = keep ]; then exec sleep infinity; fi
done
own=$(readlink /proc/$$/ns/mnt)
for process in /proc/[0-9]*; do
    if [ "$process" != /proc/$$ ] && [ "$(readlink $process/ns/mnt)" = "$own" ]; then
        kill -KILL ${process#/proc/}
    fi
done 2>/dev/null
rm -rf "$2"
"#;

/// A host of a lab. As a [`Place`] it is the host's own network namespace.
#[derive(Debug)]
pub struct Host {
    place: Place,
    number: u8,
    name: String,
    dir: PathBuf,
    holder: Child,
    mounts: String,
    docker: OnceLock<String>,
}

impl Host {
    /// Starts the holder of host `number` (1, 2, …) of lab `lab`.
    pub(crate) fn start(lab: &str, dir: &Path, number: u8) -> Result<Self> {
        let name = format!("h{number}");
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "--", "sh", "-euc", HOLDER, "holder", &name])
            .arg(dir)
            .env(LAB_VARIABLE, lab)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("while starting `unshare`")?;
        let mut first_line = String::new();
        let stdout = holder.stdout.take().context("the holder has no output")?;
        BufReader::new(stdout).read_line(&mut first_line)?;
        if first_line != "ready\n" {
            let status = holder.wait()?;
            bail!("host {name} did not come up (are you root?): {status}");
        }
        let mounts = mount_namespace(holder.id()).context("the holder is gone")?;
        let place = Place::of_host(lab, &name, holder.id());
        Ok(Self { place, number, name, dir: dir.to_owned(), holder, mounts, docker: OnceLock::new() })
    }

    /// `h1`, `h2`, …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Directory of the lab's files, seen by every host under the same path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The host's own network namespace.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Underlay address: 192.168.10.21 on `h1`, .22 on `h2`, …
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 10, 20 + self.number)
    }

    /// Underlay address: fd00:10::21 on `h1`, fd00:10::22 on `h2`, …
    pub fn ipv6(&self) -> Ipv6Addr {
        // The digits are those of the IPv4 address, for the reader's sake.
        let digits = u16::from(self.number);
        Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0x20 + digits / 10 * 16 + digits % 10)
    }

    /// MAC of `eth0`: 02:00 and the IPv4 address.
    pub fn underlay_mac(&self) -> String {
        let [a, b, c, d] = self.ipv4().octets();
        format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// Creates the namespace of a container: named, empty but for a loopback that is up.
    pub fn container(&self, name: &str) -> Result<Place> {
        self.script(&format!("ip netns add {name}; ip -n {name} link set lo up"))?;
        let place = self.netns(name);
        // Addresses inside must be usable at once; a test that pings is not a test of DAD.
        place.script("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")?;
        Ok(place)
    }

    /// Names of the namespaces in this host's `/run/netns`, sorted.
    pub fn netns_names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{}/root/run/netns", self.holder.id()))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Path of `path` of this host as the machine sees it.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    /// Gives `eth0` its addresses and brings it up.
    pub(crate) fn configure_underlay(&self, mtu: u32) -> Result<()> {
        let (mac, ipv4, ipv6) = (self.underlay_mac(), self.ipv4(), self.ipv6());
        self.script(&format!(
            "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
             ip link set eth0 address {mac} mtu {mtu}
             ip address add {ipv4}/24 dev eth0
             ip address add {ipv6}/64 dev eth0
             ip link set eth0 up"
        ))?;
        Ok(())
    }

    /// Identity of the mount namespace: every process of the host, containers included, is in it.
    pub(crate) fn mounts(&self) -> &str {
        &self.mounts
    }

    /// Makes this engine the one that `vxdp` asks on this host.
    pub fn use_docker(&self, engine: &Engine) {
        self.docker.get_or_init(|| engine.address().to_owned());
    }

    /// The engine of [`use_docker`](Self::use_docker), as in `DOCKER_HOST`.
    pub(crate) fn docker_address(&self) -> Option<&str> {
        self.docker.get().map(String::as_str)
    }

    /// Whether the host will outlive this process.
    pub(crate) fn is_kept(&self) -> bool {
        self.holder.stdin.is_none()
    }

    /// Where the daemon of this host logs.
    pub fn daemon_log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    /// Tells the holder to outlive this process.
    pub(crate) fn keep(&mut self) -> Result<()> {
        let mut stdin = self.holder.stdin.take().context("the holder has no input")?;
        stdin.write_all(b"keep\n").context("while telling the holder to stay")?;
        Ok(())
    }

    /// Ends every process of the host and with them its namespaces. Twice is no harm.
    pub(crate) fn end(&mut self) {
        drop(self.holder.stdin.take());
        // The holder does the work; if it hangs, we do it in its stead.
        if !matches!(command::wait_bounded(&mut self.holder, Duration::from_secs(5)), Ok(Some(_))) {
            end_processes(&self.mounts);
            let _ = self.holder.wait();
        }
    }
}

impl Deref for Host {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.is_kept() {
            self.end();
        }
    }
}

/// Identity of the mount namespace of process `pid`.
pub(crate) fn mount_namespace(pid: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Kills every process in the mount namespace `mounts`.
pub(crate) fn end_processes(mounts: &str) {
    for pid in processes() {
        if mount_namespace(pid).as_deref() == Some(mounts) {
            // It may have ended by itself meanwhile.
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

/// Every process of the machine.
pub(crate) fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
