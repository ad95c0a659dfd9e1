//! Finds the network namespace of a container: by name, by process, or by asking the Docker engine.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as DockerError;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions};

use crate::config::Attach;
use crate::netns::{NETNS_DIR, Netns};

/// How long the Docker engine may take to answer; it answers within milliseconds when it is well.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(5);

/// Smallest likeness (Jaro-Winkler, 0 to 1) at which another container's name is offered as a correction.
const SIMILAR: f64 = 0.75;

/// A container's namespace, found.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The namespace.
    pub netns: Netns,
    /// Something an operator should know about it.
    pub warning: Option<Warning>,
}

/// What is odd about a container that can be attached nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The engine connects it to a network of its own.
    #[error(
        "container `{container}` has Docker's network `{network}` besides the overlay; \
         create it with --net=none to have the overlay alone"
    )]
    OwnNetwork {
        /// Name or id as configured.
        container: String,
        /// The engine's network mode.
        network: String,
    },
}

/// Why a container's namespace was not found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `/run/netns/NAME`.
    #[error("there is no network namespace `{name}`{}", known(.similar, "; there is"))]
    NoNamespace {
        /// The configured name.
        name: String,
        /// Names that look like it.
        similar: Vec<String>,
    },
    /// No such process.
    #[error("there is no process {pid}")]
    NoProcess {
        /// The configured process id.
        pid: u32,
    },
    /// The namespace is there and cannot be opened.
    #[error("cannot open the network namespace of {what}")]
    Open {
        /// Whose namespace.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Nothing listens where the Docker engine should.
    #[error(
        "the Docker engine does not answer at {host} (container `{container}`); is it running, and is \
         DOCKER_HOST right?"
    )]
    Engine {
        /// Where it was sought.
        host: String,
        /// Name or id as configured.
        container: String,
        /// What went wrong.
        source: Box<DockerError>,
    },
    /// The engine has no such container.
    #[error("Docker has no container `{container}`{}", known(.similar, "; it has"))]
    NoContainer {
        /// Name or id as configured.
        container: String,
        /// Names that look like it.
        similar: Vec<String>,
    },
    /// The container has no process, so it has no namespace.
    #[error(
        "Docker container `{container}` is not running (it is {state}); start it with: docker start {container}"
    )]
    NotRunning {
        /// Name or id as configured.
        container: String,
        /// The engine's word for its state.
        state: String,
    },
}

fn known(names: &[String], introduction: &str) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!("{introduction} {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
}

/// Finds the namespace that `attach` names, as it is now.
pub async fn resolve(attach: &Attach) -> Result<Resolved, Error> {
    match attach {
        Attach::Netns(name) => {
            let netns = Netns::named(name.as_str()).map_err(|source| not_opened(name.as_str(), source))?;
            Ok(Resolved { netns, warning: None })
        }
        Attach::Pid(pid) => Ok(Resolved { netns: of_process(*pid)?, warning: None }),
        Attach::Docker(container) => of_docker(container).await,
    }
}

fn of_process(pid: u32) -> Result<Netns, Error> {
    Netns::of_pid(pid).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::NoProcess { pid },
        _ => Error::Open { what: format!("process {pid}"), source },
    })
}

fn not_opened(name: &str, source: io::Error) -> Error {
    if source.kind() != io::ErrorKind::NotFound {
        return Error::Open { what: format!("`{name}`"), source };
    }
    let names = std::fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    Error::NoNamespace { name: name.to_owned(), similar: similar(name, names) }
}

/// Up to three of `names` that look like `name`, the likeliest first.
fn similar(name: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let mut scored: Vec<(f64, String)> = names
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|other| (strsim::jaro_winkler(name, &other), other))
        .filter(|(likeness, _)| *likeness >= SIMILAR)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

async fn of_docker(container: &str) -> Result<Resolved, Error> {
    let unreachable = |source| Error::Engine {
        host: std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned()),
        container: container.to_owned(),
        source: Box::new(source),
    };
    let docker = Docker::connect_with_defaults().map_err(unreachable)?.with_timeout(ENGINE_TIMEOUT);
    let found = match docker.inspect_container(container, None::<InspectContainerOptions>).await {
        Ok(found) => found,
        Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => {
            let similar = similar(container, containers(&docker).await.into_iter());
            return Err(Error::NoContainer { container: container.to_owned(), similar });
        }
        Err(source) => return Err(unreachable(source)),
    };
    let state = found.state.unwrap_or_default();
    let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    let Some(pid) = pid.filter(|_| state.running == Some(true)) else {
        let state = state.status.map_or_else(|| "stopped".to_owned(), |status| status.to_string());
        return Err(Error::NotRunning { container: container.to_owned(), state });
    };
    let network = found.host_config.and_then(|host| host.network_mode).filter(|network| network != "none");
    let warning = network.map(|network| Warning::OwnNetwork { container: container.to_owned(), network });
    Ok(Resolved { netns: of_process(pid)?, warning })
}

/// Names of all containers; empty when the engine does not say.
async fn containers(docker: &Docker) -> Vec<String> {
    let options = ListContainersOptions { all: true, ..Default::default() };
    let listed = docker.list_containers(Some(options)).await.unwrap_or_default();
    let names = listed.into_iter().flat_map(|container| container.names.unwrap_or_default());
    names.map(|name| name.trim_start_matches('/').to_owned()).collect()
}

/// How an operator names the container.
pub fn describe(attach: &Attach) -> String {
    match attach {
        Attach::Netns(name) => format!("netns {name}"),
        Attach::Pid(pid) => format!("pid {pid}"),
        Attach::Docker(name) => format!("docker {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NsName;

    #[test]
    fn the_likeliest_names_are_offered_first() {
        let names = ["overlay", "test-overlay", "test-overlay2", "web"].map(str::to_owned);
        let offered = similar("test-overlai", names.into_iter());
        assert_eq!(offered.first().map(String::as_str), Some("test-overlay"));
        assert!(!offered.contains(&"web".to_owned()));
    }

    #[tokio::test]
    async fn a_process_is_resolved_to_its_namespace() {
        let resolved = resolve(&Attach::Pid(std::process::id())).await.expect("our own namespace");
        assert_eq!(resolved.netns, Netns::current().expect("our own namespace"));
    }

    #[tokio::test]
    async fn a_missing_namespace_is_named() {
        let name = NsName::new("no-such-namespace-here").expect("a name");
        let error = resolve(&Attach::Netns(name)).await.expect_err("there is none");
        assert!(error.to_string().contains("no-such-namespace-here"), "{error}");
    }

    #[tokio::test]
    async fn a_process_that_is_gone_is_named() {
        // Above the kernel's limit of 2^22 (`PID_MAX_LIMIT`, `include/linux/threads.h`).
        let error = resolve(&Attach::Pid(u32::MAX)).await.expect_err("there is none");
        assert!(matches!(error, Error::NoProcess { .. }), "{error}");
    }
}
