//! A Docker engine for labs: the machine's own where one runs, otherwise one that is started and removed.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::command::{self, DEFAULT_TIMEOUT};
use crate::host::{end_processes, mount_namespace};
use crate::lab::Lab;
use crate::place::LAB_VARIABLE;
use crate::wait::{self, wait_until};

/// Time given to an engine for starting and for stopping: a second here, more on a cold disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where Docker listens when nobody says otherwise.
const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";

/// Label of everything that a lab creates in an engine.
const LABEL: &str = "vxdp.lab";

/// Starts `dockerd` (`$1` the directory of all its files, `$2` what to start it with) in a mount namespace whose `/run` is its own: it
/// leaves nothing there. It touches no firewall, no bridge and no sysctl; vfs works on every file system.
const DOCKERD: &str = r#"
mount -t tmpfs -o mode=755 vxdp-lab /run
exec $2 dockerd --host "unix://$1/docker.sock" --data-root "$1/data" --exec-root "$1/exec" \
    --pidfile "$1/docker.pid" --storage-driver vfs --iptables=false --ip6tables=false --ip-forward=false \
    --bridge none --userland-proxy=false
"#;

/// A Docker engine that answers, and an image in it that was made on the spot.
#[derive(Debug)]
pub struct Engine {
    address: String,
    label: String,
    image: String,
    own: Option<OwnEngine>,
    kept: bool,
}

#[derive(Debug)]
struct OwnEngine {
    child: Child,
    mounts: String,
}

/// Whether an engine that has to be started ends together with this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// It ends even if this process is killed. Tied to the calling thread.
    Bound,
    /// It may be kept.
    Independent,
}

/// An engine that outlived the process that made it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptEngine {
    /// For `DOCKER_HOST`.
    pub address: String,
    label: String,
    image: String,
    mounts: Option<String>,
}

impl Engine {
    /// The machine's engine, or a new one whose files are in the lab's directory.
    pub fn find_or_start(lab: &Lab, lifetime: Lifetime) -> Result<Self> {
        let dir = lab.dir().join("docker");
        std::fs::create_dir_all(&dir)?;
        let running = std::env::var("DOCKER_HOST").unwrap_or_else(|_| DEFAULT_ADDRESS.to_owned());
        let (address, own) = if answers(&running)? {
            (running, None)
        } else {
            let address = format!("unix://{}/docker.sock", dir.display());
            (address, Some(OwnEngine::start(lab.name(), &dir, lifetime)?))
        };
        let label = format!("{LABEL}={}", lab.name());
        let mut engine = Self { address, label, image: String::new(), own, kept: false };
        wait_until("the Docker engine answers", PATIENCE, || engine.alive()).with_context(|| log_of(&dir))?;
        engine.image = engine.import_image(lab.name(), &dir)?;
        Ok(engine)
    }

    /// Where it listens, as in `DOCKER_HOST`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What stands for an image in a `docker run` that is removed together with the engine.
    pub fn image_words(&self) -> String {
        format!("--label {} {}", self.label, self.image)
    }

    /// Runs `docker` with these words; it must succeed.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        docker(&self.address, words)
    }

    /// Creates and starts a container without network that does nothing.
    pub fn run_container(&self, name: &str) -> Result<DockerContainer> {
        self.docker(&[
            "run",
            "--detach",
            "--net=none",
            "--name",
            name,
            "--label",
            &self.label,
            &self.image,
            "sleep",
            "86400",
        ])?;
        Ok(DockerContainer { address: self.address.clone(), name: name.to_owned() })
    }

    /// Leaves the engine and its containers running after the end of this process.
    pub fn keep(mut self) -> KeptEngine {
        self.kept = true;
        KeptEngine {
            address: self.address.clone(),
            label: self.label.clone(),
            image: self.image.clone(),
            mounts: self.own.as_ref().map(|own| own.mounts.clone()),
        }
    }

    fn alive(&mut self) -> Result<bool> {
        if let Some(own) = &mut self.own
            && let Some(status) = own.child.try_wait()?
        {
            bail!("dockerd ended with {status}");
        }
        answers(&self.address)
    }

    /// An image of nothing but a static busybox: no registry is asked.
    fn import_image(&self, lab: &str, dir: &Path) -> Result<String> {
        let bin = dir.join("image/bin");
        std::fs::create_dir_all(&bin)?;
        let busybox = Path::new("/bin/busybox");
        std::fs::copy(busybox, bin.join("busybox")).context("busybox (Debian: busybox-static) is missing")?;
        for applet in ["sh", "sleep", "ping", "ip"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        let (tar, image) = (dir.join("image.tar"), format!("{lab}:busybox"));
        let mut pack = Command::new("tar");
        pack.arg("-cf").arg(&tar).arg("-C").arg(dir.join("image")).arg(".");
        command::run(pack, DEFAULT_TIMEOUT)?.success()?;
        let path = tar.to_str().context("the lab's directory is not UTF-8")?;
        self.docker(&["import", path, &image])?;
        Ok(image)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let _removal = wait::Removal::begin();
        let cleaned = clean(&self.address, &self.label, &self.image);
        if let (Err(error), None) = (cleaned, &self.own) {
            // The machine's engine goes on, with what we could not remove.
            eprintln!("{error:#}");
        }
        if let Some(own) = &mut self.own {
            own.stop();
        }
    }
}

impl OwnEngine {
    fn start(lab: &str, dir: &Path, lifetime: Lifetime) -> Result<Self> {
        let log = std::fs::File::create(dir.join("log"))?;
        let prefix = match lifetime {
            Lifetime::Bound => "setpriv --pdeathsig TERM",
            Lifetime::Independent => "",
        };
        let child = Command::new("unshare")
            .args(["--mount", "--", "sh", "-euc", DOCKERD, "dockerd"])
            .arg(dir)
            .arg(prefix)
            .env(LAB_VARIABLE, lab)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("while starting dockerd")?;
        let own = mount_namespace(std::process::id());
        let mut mounts = None;
        wait_until("dockerd has its mount namespace", PATIENCE, || {
            mounts = mount_namespace(child.id());
            Ok(mounts != own)
        })?;
        Ok(Self { child, mounts: mounts.context("dockerd is gone")? })
    }

    fn stop(&mut self) {
        // Errors mean that it is gone already.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        if !matches!(command::wait_bounded(&mut self.child, PATIENCE), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        end_processes(&self.mounts);
    }
}

impl KeptEngine {
    /// Removes the containers and the image, and stops the engine if it was started for the lab.
    pub fn remove(&self) -> Result<()> {
        let cleaned = clean(&self.address, &self.label, &self.image);
        match &self.mounts {
            Some(mounts) => end_processes(mounts),
            None => cleaned?,
        }
        Ok(())
    }
}

/// A running container of an [`Engine`], removed together with it.
#[derive(Debug)]
pub struct DockerContainer {
    address: String,
    name: String,
}

impl DockerContainer {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id of its first process.
    pub fn pid(&self) -> Result<u32> {
        let text = self.docker(&["inspect", "--format", "{{.State.Pid}}", &self.name])?;
        let pid = text.trim().parse().with_context(|| format!("a strange pid: {text}"))?;
        ensure!(pid != 0, "container {} does not run", self.name);
        Ok(pid)
    }

    /// Restarts it: another process, another network namespace.
    pub fn restart(&self) -> Result<()> {
        self.docker(&["restart", "--time", "0", &self.name])?;
        Ok(())
    }

    /// Runs a program inside; it must succeed.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        self.docker(&[&["exec", &self.name], words].concat())
    }

    fn docker(&self, words: &[&str]) -> Result<String> {
        docker(&self.address, words)
    }
}

fn docker(address: &str, words: &[&str]) -> Result<String> {
    let mut command = Command::new("docker");
    command.args(["--host", address]).args(words);
    command::run(command, PATIENCE)?.success()
}

/// What an engine that does not start has to say.
fn log_of(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    format!("no Docker engine; dockerd logged:\n{log}")
}

/// Whether an engine listens at `address`.
fn answers(address: &str) -> Result<bool> {
    let mut command = Command::new("docker");
    command.args(["--host", address, "version", "--format", "{{.Server.Version}}"]);
    let outcome = command::run(command, DEFAULT_TIMEOUT)
        .context("while asking for a Docker engine (Debian package docker.io)")?;
    Ok(outcome.status.success())
}

/// Removes what the label marks, and the image.
fn clean(address: &str, label: &str, image: &str) -> Result<()> {
    let listed = docker(address, &["ps", "--all", "--quiet", "--filter", &format!("label={label}")])?;
    let ids = listed.split_whitespace().collect::<Vec<_>>();
    if !ids.is_empty() {
        docker(address, &[&["rm", "--force", "--volumes"], ids.as_slice()].concat())?;
    }
    docker(address, &["image", "rm", "--force", image])?;
    Ok(())
}
