//! What the configuration asks of the host, looked at before anything is changed.

mod port;
mod privilege;
mod processor;
mod underlay;

use std::io;

use futures::future::join_all;

use crate::config::{Attach, ConfigError, IPV6_MIN_MTU, KeyPath, Loaded, Overlay, Problem, Problems};
use crate::container;
use crate::kernel::desired::UnderlayFacts;
use crate::netns::Netns;

/// Why the host cannot carry this configuration.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The host is not as the configuration says, or may not be changed by us.
    #[error(transparent)]
    Unfit(#[from] ConfigError),
    /// The kernel did not tell.
    #[error("cannot look at the host's network")]
    Netlink(#[from] rtnetlink::Error),
    /// The system did not tell.
    #[error("cannot look at the host")]
    Host(#[from] io::Error),
}

/// Checks that the host has what the configuration needs; changes nothing.
///
/// # Errors
/// [`PreflightError::Unfit`] with every problem there is, the others when the host cannot be looked at.
pub async fn check(loaded: &Loaded, host: &Netns) -> Result<UnderlayFacts, PreflightError> {
    if let Some(message) = privilege::missing()? {
        // Nothing else can be looked at: entering a namespace takes the same privileges.
        fit(vec![loaded.source.general_problem(message)])?;
    }
    let mut problems = Vec::new();
    let facts = underlay::look(loaded, host, &mut problems).await?;
    for (index, cpu) in loaded.config.dataplane.cpus.iter().enumerate() {
        let path = KeyPath::root().key("dataplane").key("cpus").index(index);
        problems.extend(processor::problem(*cpu)?.map(|message| loaded.source.problem(&path, message)));
    }
    for (index, overlay) in loaded.config.overlays.iter().enumerate() {
        let path = KeyPath::overlay(index);
        if let Some(facts) = &facts {
            problems.extend(mtu(loaded, &path, overlay, facts));
        }
        if let Some(holder) = port::holder(host, loaded.config.underlay.local, overlay.port)? {
            let message = format!("UDP port {} is taken by {holder}", overlay.port);
            problems.push(loaded.source.problem(&path.key("port"), message));
        }
        problems.extend(containers(loaded, &path, overlay, host).await);
    }
    fit(problems)?;
    Ok(facts.expect("missing facts are a problem"))
}

fn fit(problems: Vec<Problem>) -> Result<(), ConfigError> {
    Problems::new(problems).map_or(Ok(()), |problems| Err(ConfigError::Invalid(problems)))
}

/// The inner packets have to fit into the underlay's.
fn mtu(loaded: &Loaded, path: &KeyPath, overlay: &Overlay, facts: &UnderlayFacts) -> Option<Problem> {
    let device = &loaded.config.underlay.device;
    let (inner, room) = (facts.inner_mtu(), facts.overhead());
    let has = format!("{device} has MTU {}, of which the encapsulation takes {room}", facts.mtu);
    let message = match overlay.mtu {
        Some(mtu) if mtu > inner => format!("{mtu} is too large: {has}; expected at most {inner}"),
        None if inner < overlay.min_mtu() => {
            let least = overlay.min_mtu();
            let why = if least == IPV6_MIN_MTU { "IPv6 inside" } else { "an overlay" };
            format!("{inner} is too small for {why}: {has}; expected at least {least}")
        }
        _ => return None,
    };
    Some(loaded.source.problem(&path.key("mtu"), message))
}

/// Each container has to be there, with a namespace of its own.
async fn containers(loaded: &Loaded, path: &KeyPath, overlay: &Overlay, host: &Netns) -> Vec<Problem> {
    let found = join_all(overlay.containers.iter().map(|c| container::resolve(&c.attach))).await;
    let problem = |(index, found): (usize, Result<container::Resolved, container::Error>)| {
        let message = match found {
            Ok(found) if found.netns == *host => {
                "it has the host's own network namespace; expected another".into()
            }
            Ok(_) => return None,
            Err(error) => format!("{:#}", anyhow::Error::new(error)),
        };
        let kind = match overlay.containers[index].attach {
            Attach::Docker(_) => "docker",
            Attach::Netns(_) => "netns",
            Attach::Pid(_) => "pid",
        };
        let path = path.key("container").index(index).key("attach").key(kind);
        Some(loaded.source.problem(&path, message))
    };
    found.into_iter().enumerate().filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn loaded(overlay: &str) -> Loaded {
        let text =
            format!("[underlay]\ndevice = 'eth0'\nlocal = '192.0.2.1'\n[[overlay]]\nvni = 1\n{overlay}");
        crate::config::parse(Path::new("f"), text.as_bytes()).expect("valid")
    }

    fn facts(mtu: u32) -> UnderlayFacts {
        UnderlayFacts { ifindex: 2, mtu, local: [192, 0, 2, 1].into() }
    }

    fn mtu_problem(overlay: &str, underlay: u32) -> Option<String> {
        let loaded = loaded(overlay);
        let overlay = &loaded.config.overlays[0];
        mtu(&loaded, &KeyPath::overlay(0), overlay, &facts(underlay)).map(|problem| problem.to_string())
    }

    #[test]
    fn an_mtu_without_room_for_the_encapsulation_is_told() {
        assert_eq!(mtu_problem("mtu = 1450", 1500), None);
        assert_eq!(
            mtu_problem("mtu = 1451", 1500).as_deref(),
            Some(
                "f:6: overlay[0].mtu: 1451 is too large: eth0 has MTU 1500, of which the encapsulation takes 50; \
                 expected at most 1450"
            )
        );
        assert_eq!(
            mtu_problem("gateway = 'fd42::1/64'", 1300).as_deref(),
            Some(
                "f:4: overlay[0].mtu: 1250 is too small for IPv6 inside: eth0 has MTU 1300, of which the \
                 encapsulation takes 50; expected at least 1280"
            )
        );
    }
}
