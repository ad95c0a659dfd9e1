//! A lab: its hosts, the underlay between them, and how all of it goes away.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::daemon::Mode;
use crate::host::{self, Host};
use crate::place::Place;
use crate::report;
use crate::wait::{self, POLL_INTERVAL, wait_until};

/// Labs of this process so far; with the process id it makes their names unique.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Hosts joined by an underlay; everything goes when it is dropped.
///
/// Dropped by a panic, it first prints what a reader needs for understanding the failure: links, addresses,
/// neighbours, forwarding tables and counters of each host, and the log of its daemon.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    // The namespace of the bridge that joins the hosts, unless a veth does.
    switch: Option<Host>,
    name: String,
    dataplane: String,
    dir: TempDir,
}

/// How a lab shall look.
#[derive(Debug, Clone)]
pub struct LabBuilder {
    name: String,
    hosts: u8,
    mtu: u32,
    switched: bool,
    queues: u16,
    dataplane: String,
}

impl LabBuilder {
    /// Number of hosts; default 2.
    pub fn hosts(mut self, hosts: u8) -> Self {
        self.hosts = hosts;
        self
    }

    /// MTU of the underlay in bytes; default 1500.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Joins the hosts by a bridge even if there are two. In xdp mode frames pass a host's own device unseen
    /// by packet sockets; on the bridge's ports they can be captured.
    pub fn switched(mut self) -> Self {
        self.switched = true;
        self
    }

    /// Number of queues of every device of the underlay; default 1.
    pub fn queues(mut self, queues: u16) -> Self {
        self.queues = queues;
        self
    }

    /// Adds a line to `[dataplane]` of every host's configuration ([`config_of`](crate::config_of)).
    pub fn dataplane(mut self, line: &str) -> Self {
        self.dataplane += &format!("{line}\n");
        self
    }

    /// Builds the lab and runs `steps` in it, as [`scenario`] does.
    pub fn run(self, steps: impl FnOnce(&Lab) -> Result<()>) {
        let name = self.name.clone();
        let lab = self.build().unwrap_or_else(|error| panic!("no lab: {error:#}"));
        if let Err(error) = steps(&lab) {
            panic!("{name}: {error:#}");
        }
    }

    /// Builds the lab.
    pub fn build(self) -> Result<Lab> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vxdp-{}-{}-{number}", self.name, std::process::id());
        let dir = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir()?;
        let dataplane = self.dataplane;
        let mut lab = Lab { hosts: Vec::new(), switch: None, name, dataplane, dir };
        for number in 1..=self.hosts {
            lab.hosts.push(Host::start(&lab.name, lab.dir.path(), number)?);
        }
        lab.join_hosts(self.mtu, self.queues, self.switched).context("while building the underlay")?;
        Ok(lab)
    }
}

impl Lab {
    /// A lab of two hosts whose files and processes carry `name`.
    pub fn builder(name: &str) -> LabBuilder {
        let (name, dataplane) = (name.to_owned(), String::new());
        LabBuilder { name, hosts: 2, mtu: 1500, switched: false, queues: 1, dataplane }
    }

    /// The lab's unique name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Directory of the lab's files; it goes with the lab.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The lines of `[dataplane]` in every host's configuration.
    pub(crate) fn dataplane(&self) -> &str {
        &self.dataplane
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Host `h1`.
    pub fn h1(&self) -> &Host {
        &self.hosts[0]
    }

    /// Host `h2`.
    pub fn h2(&self) -> &Host {
        &self.hosts[1]
    }

    /// Where to capture what the first host sends: the place and its device.
    pub fn wire(&self) -> (&Place, &str) {
        match &self.switch {
            Some(switch) => (switch, self.h1().name()),
            None => (self.h1(), "eth0"),
        }
    }

    /// Makes the underlay take the frames that hosts redirect at XDP (`hook = "xdp"`): a veth does only if its other
    /// end has NAPI, which `gro` switches on.
    pub fn take_xdp_frames(&self) -> Result<()> {
        for host in &self.hosts {
            match &self.switch {
                Some(switch) => switch.exec(["ethtool", "-K", host.name(), "gro", "on"])?,
                None => host.exec(["ethtool", "-K", "eth0", "gro", "on"])?,
            };
        }
        Ok(())
    }

    /// Prints the state of every host to standard error.
    pub fn report(&self) {
        for host in &self.hosts {
            eprintln!("{}", report::of_host(host));
        }
    }

    /// Leaves the lab standing after the end of this process.
    pub fn keep(mut self) -> Result<Kept> {
        let mut hosts = Vec::new();
        for host in self.hosts.iter_mut().chain(&mut self.switch) {
            host.keep()?;
            hosts.push(KeptHost {
                name: host.name().to_owned(),
                holder: host.holder(),
                mounts: host.mounts().to_owned(),
            });
        }
        self.dir.disable_cleanup(true);
        Ok(Kept { name: self.name.clone(), dir: self.dir.path().to_owned(), hosts })
    }

    /// Two hosts share one veth pair; more, or `switched` ones, are ports of a bridge in a namespace of its own.
    fn join_hosts(&mut self, mtu: u32, queues: u16, switched: bool) -> Result<()> {
        let veth = format!("numtxqueues {queues} numrxqueues {queues} type veth peer");
        let far = format!("numtxqueues {queues} numrxqueues {queues}");
        match self.hosts.as_slice() {
            [] => bail!("a lab needs a host"),
            [only] => {
                only.script(&format!("ip link add eth0 {veth} name wire {far}; ip link set wire up"))?;
            }
            [h1, h2] if !switched => {
                h1.script(&format!("ip link add eth0 {veth} name eth0 netns {} {far}", h2.holder()))?;
            }
            hosts => {
                let switch = Host::start(&self.name, self.dir.path(), 0)?;
                switch.exec(["ip", "link", "add", "br0", "mtu", &mtu.to_string(), "up", "type", "bridge"])?;
                for host in hosts {
                    let (name, holder) = (host.name(), host.holder());
                    switch.script(&format!(
                        "ip link add {name} mtu {mtu} {veth} name eth0 netns {holder} {far}
                         ip link set {name} master br0 up"
                    ))?;
                }
                self.switch = Some(switch);
            }
        }
        for host in &self.hosts {
            host.configure_underlay(mtu)?;
        }
        for host in &self.hosts {
            wait_until("eth0 has its carrier", Duration::from_secs(5), || {
                Ok(host.exec(["ip", "link", "show", "eth0", "up"])?.contains("LOWER_UP"))
            })?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
        let _removal = wait::Removal::begin();
        for host in self.hosts.iter_mut().chain(&mut self.switch) {
            if !host.is_kept() {
                host.end();
            }
        }
    }
}

/// Runs `steps` in a lab of two hosts; an error is a panic that happens while the lab still stands, so that
/// the lab reports its state.
pub fn scenario(name: &str, steps: impl FnOnce(&Lab) -> Result<()>) {
    Lab::builder(name).run(steps);
}

/// Runs `steps` as [`scenario`] does without a fast path, with each kind of one, and with one on the first host
/// alone: in a lab of its own each time. The wire ([`Lab::wire`]) can be captured in all.
pub fn in_each_mode(name: &str, steps: impl Fn(&Lab, [Mode; 2]) -> Result<()>) {
    let [kernel, xdp, inkernel] = Mode::ALL;
    for modes in [[kernel; 2], [xdp; 2], [inkernel; 2], [xdp, kernel]] {
        let steps = |lab: &Lab| steps(lab, modes).with_context(|| format!("in modes {modes:?}"));
        Lab::builder(name).switched().run(steps);
    }
}

/// A lab that outlived the process that made it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// The lab's unique name.
    pub name: String,
    /// Directory of the lab's files.
    pub dir: PathBuf,
    /// Its hosts.
    pub hosts: Vec<KeptHost>,
}

/// A host of a [`Kept`] lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptHost {
    /// `h1`, `h2`, …
    pub name: String,
    /// Process that keeps the namespaces.
    pub holder: u32,
    /// Identity of the host's mount namespace.
    pub mounts: String,
}

impl Kept {
    /// The host `name`, while it is there.
    pub fn place(&self, name: &str) -> Result<Place> {
        let Some(host) = self.hosts.iter().find(|host| host.name == name) else {
            let known = self.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>();
            bail!("no host `{name}` in this lab; there are {}", known.join(", "));
        };
        if host::mount_namespace(host.holder).as_deref() != Some(host.mounts.as_str()) {
            bail!("host `{name}` is gone");
        }
        Ok(Place::of_host(&self.name, name, host.holder))
    }

    /// Ends every process of the lab, and with them the namespaces, and removes its files.
    pub fn remove(&self) -> Result<()> {
        for host in &self.hosts {
            // A number that was given anew to a stranger is not ours.
            if host::mount_namespace(host.holder).as_deref() == Some(host.mounts.as_str()) {
                host::end_processes(&host.mounts);
            }
        }
        let gone = |host: &KeptHost| host::mount_namespace(host.holder).as_deref() != Some(&host.mounts);
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while !self.hosts.iter().all(gone) {
            if std::time::Instant::now() > deadline {
                bail!("a process of lab {} does not end", self.name);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}
