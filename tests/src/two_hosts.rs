//! The scenario the project was born from: two hosts with a container each, and the real daemon on both.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::daemon::{Daemon, Mode};
use crate::docker::{DockerContainer, Engine, KeptEngine, Lifetime};
use crate::frames::Frames;
use crate::host::Host;
use crate::lab::{Kept, Lab};
use crate::place::Place;

/// The scenario's VXLAN network identifier.
pub const VNI: u32 = 42;
/// The scenario's UDP port, IANA's for VXLAN.
pub const VXLAN_PORT: u16 = 4789;

/// What the containers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// Named network namespaces `c1` and `c2`.
    Netns,
    /// Docker containers `test-overlay-1` and `test-overlay-2`. Both live in one engine here, so their names
    /// differ, which on two machines they would not have to.
    Docker,
}

/// A lab that runs `examples/host1.toml` and `examples/host2.toml`, or their Docker counterparts.
#[derive(Debug)]
pub struct TwoHosts {
    // In the order in which they have to go.
    daemons: Vec<Daemon>,
    docker: Vec<DockerContainer>,
    engine: Option<Engine>,
    lab: Lab,
}

/// [`TwoHosts`] that outlived the process that made them.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptTwoHosts {
    /// The hosts.
    pub lab: Kept,
    /// The engine of the containers, if they are Docker's.
    pub engine: Option<KeptEngine>,
}

impl TwoHosts {
    /// Builds the lab, the containers, and starts a daemon on each host.
    pub fn build(name: &str, attachment: Attachment, mode: Mode, lifetime: Lifetime) -> Result<Self> {
        let configs = Self::configs(attachment).map(str::to_owned);
        Self::build_each(name, attachment, [mode; 2], configs, lifetime)
    }

    /// As [`build`](Self::build), with a mode and a configuration for each host.
    pub fn build_each(
        name: &str,
        attachment: Attachment,
        modes: [Mode; 2],
        configs: [String; 2],
        lifetime: Lifetime,
    ) -> Result<Self> {
        let builder = Lab::builder(name);
        let lab = if modes == [Mode::Kernel; 2] { builder } else { builder.switched() }.build()?;
        let mut scenario = Self { daemons: Vec::new(), docker: Vec::new(), engine: None, lab };
        match attachment {
            Attachment::Netns => {
                scenario.lab.h1().container("c1")?;
                scenario.lab.h2().container("c2")?;
            }
            Attachment::Docker => scenario.run_docker(lifetime)?,
        }
        for ((host, config), mode) in scenario.lab.hosts().iter().zip(&configs).zip(modes) {
            let path = host.write_config(config)?;
            scenario.daemons.push(host.start_vxdp(&path, mode)?);
        }
        for (host, mode) in scenario.lab.hosts().iter().zip(modes) {
            if mode.is_fast() {
                host.wait_for_fast_path()?;
            }
        }
        Ok(scenario)
    }

    /// The files in `examples/`, for `h1` and `h2`.
    pub fn configs(attachment: Attachment) -> [&'static str; 2] {
        match attachment {
            Attachment::Netns => {
                [include_str!("../../examples/host1.toml"), include_str!("../../examples/host2.toml")]
            }
            Attachment::Docker => [
                include_str!("../../examples/docker-host1.toml"),
                include_str!("../../examples/docker-host2.toml"),
            ],
        }
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The containers with their addresses in the overlay.
    pub fn containers(&self) -> Result<[(Place, Ipv4Addr); 2]> {
        Ok([self.container(0, self.lab.h1())?, self.container(1, self.lab.h2())?])
    }

    fn container(&self, index: usize, host: &Host) -> Result<(Place, Ipv4Addr)> {
        let place = match self.docker.get(index) {
            Some(container) => host.of_pid(container.pid()?),
            None => host.netns(["c1", "c2"][index]),
        };
        Ok((place, [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)][index]))
    }

    /// What each path of each host has carried so far.
    pub fn frames(&self) -> Result<[Frames; 2]> {
        Ok([self.lab.h1().frames()?, self.lab.h2().frames()?])
    }

    /// The Docker container on `h1` (0) or `h2` (1).
    pub fn docker(&self, index: usize) -> Result<&DockerContainer> {
        self.docker.get(index).context("the containers are not Docker's")
    }

    /// The daemon on `h1` (0) or `h2` (1).
    pub fn daemon(&self, index: usize) -> Result<&Daemon> {
        self.daemons.get(index).context("no such daemon")
    }

    /// Stops both daemons; their overlays stay.
    pub fn stop_daemons(&mut self) -> Result<()> {
        self.daemons.drain(..).try_for_each(Daemon::stop)
    }

    /// Runs `vxdp down` on both hosts.
    pub fn down(&self) -> Result<()> {
        for host in self.lab.hosts() {
            let config = host.config_path();
            let config = config.to_str().context("the lab's directory is not UTF-8")?;
            host.vxdp(&["down", "--config", config])?.success()?;
        }
        Ok(())
    }

    /// Leaves everything standing and running after the end of this process, and writes down what it is.
    pub fn keep(self) -> Result<KeptTwoHosts> {
        let lab = self.lab.keep()?;
        self.daemons.into_iter().for_each(Daemon::keep);
        let kept = KeptTwoHosts { lab, engine: self.engine.map(Engine::keep) };
        if let Err(error) = kept.write_state() {
            // Nobody would find it.
            kept.remove()?;
            return Err(error);
        }
        Ok(kept)
    }

    fn run_docker(&mut self, lifetime: Lifetime) -> Result<()> {
        let engine = self.engine.insert(Engine::find_or_start(&self.lab, lifetime)?);
        for (host, name) in self.lab.hosts().iter().zip(["test-overlay-1", "test-overlay-2"]) {
            host.use_docker(engine);
            self.docker.push(engine.run_container(name)?);
        }
        Ok(())
    }
}

impl KeptTwoHosts {
    /// Where the one kept lab of a machine is written down.
    pub fn state_file() -> &'static Path {
        Path::new("/run/vxdp-lab/state.json")
    }

    fn write_state(&self) -> Result<()> {
        let path = Self::state_file();
        let write = || {
            std::fs::create_dir_all(path.parent().context("no directory")?)?;
            anyhow::Ok(std::fs::write(path, serde_json::to_string_pretty(self)?)?)
        };
        write().with_context(|| format!("while writing {}", path.display()))
    }

    /// The lab that stands.
    pub fn read_state() -> Result<Self> {
        let path = Self::state_file();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(serde_json::from_str(&text).with_context(|| path.display().to_string())?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("no lab stands; build one: cargo xtask lab up")
            }
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Removes everything.
    pub fn remove(&self) -> Result<()> {
        if let Some(engine) = &self.engine {
            engine.remove()?;
        }
        self.lab.remove()?;
        match std::fs::remove_file(Self::state_file()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        // Only when nothing else is in it.
        let _ = Self::state_file().parent().map(std::fs::remove_dir);
        Ok(())
    }
}
