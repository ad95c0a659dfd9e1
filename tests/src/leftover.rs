//! What a lab left behind on the machine: nothing, if all is well.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::host::processes;
use crate::lab::Lab;
use crate::place::LAB_VARIABLE;
use crate::wait::POLL_INTERVAL;

/// The machine before a lab, and what the lab was made of.
#[derive(Debug)]
pub struct Before {
    seen: BTreeSet<String>,
    lab: String,
    dir: PathBuf,
    namespaces: BTreeSet<u64>,
}

impl Before {
    /// Looks at the machine, before the lab is built.
    pub fn look() -> Result<Self> {
        Ok(Self { seen: machine()?, lab: String::new(), dir: PathBuf::new(), namespaces: BTreeSet::new() })
    }

    /// Notes what `lab` consists of, before it is removed.
    pub fn remember(&mut self, lab: &Lab) -> Result<()> {
        self.lab = lab.name().to_owned();
        self.dir = lab.dir().to_owned();
        for host in lab.hosts() {
            self.namespaces.insert(host.inode()?);
            for name in host.netns_names()? {
                // Half-made namespaces cannot be opened; their names go with the host.
                self.namespaces.extend(host.netns(&name).inode());
            }
        }
        Ok(())
    }

    /// Lists what is on the machine now and was not before: links, mounts, files in `/run`, the lab's
    /// directory, its processes, and processes that live in its network namespaces.
    ///
    /// `patience` is given to the kernel and to dying processes, which finish in the background.
    pub fn left_behind(&self, patience: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + patience;
        loop {
            let mut found = machine()?.difference(&self.seen).cloned().collect::<Vec<_>>();
            found.extend(self.processes());
            if self.dir.exists() {
                found.push(format!("directory {}", self.dir.display()));
            }
            if found.is_empty() || Instant::now() > deadline {
                return Ok(found);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn processes(&self) -> Vec<String> {
        let variable = format!("{LAB_VARIABLE}=");
        let mut found = Vec::new();
        for pid in processes() {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let lab = environment
                .split(|byte| *byte == 0)
                .find_map(|entry| entry.strip_prefix(variable.as_bytes()))
                .map(String::from_utf8_lossy);
            // Numbers of namespaces are soon given anew, so one that another lab uses is not a leftover.
            let inside = || {
                let inode = fs::metadata(format!("/proc/{pid}/ns/net")).map(|file| file.ino());
                inode.is_ok_and(|inode| self.namespaces.contains(&inode))
            };
            if lab.as_ref().map_or_else(inside, |lab| *lab == self.lab) {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                found.push(format!("process {pid} ({})", name.trim()));
            }
        }
        found
    }
}

/// Links, mounts and files that a careless lab would leave on the machine.
fn machine() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let mut words = line.split(' ');
        if let (Some(root), Some(target)) = (words.nth(3), words.next()) {
            found.insert(format!("mount {target} ({root})"));
        }
    }
    for dir in ["/sys/class/net", "/run/netns", "/run/vxdp"] {
        // A fresh machine has no /run/netns and no /run/vxdp.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            found.insert(format!("{}", entry.path().display()));
        }
    }
    Ok(found)
}
