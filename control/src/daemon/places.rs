//! Notices namespaces that come, go or are replaced, which netlink does not tell.
//!
//! Deleting `/run/netns/NAME` only removes the name: the namespace lives on while a process or a socket is
//! in it, ours included. And a container that is started again has a new namespace without anything having
//! happened in the old one that we could rely on. So their identities are compared every second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::config::{Attach, Config};
use crate::container;
use crate::model::Event;
use crate::netns::Netns;

/// Time between two looks. A look costs a few system calls per namespace, and a question to the Docker
/// engine per Docker container.
const INTERVAL: Duration = Duration::from_secs(1);

/// Which namespace stands where: inodes, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fingerprint(BTreeMap<String, Option<u64>>);

impl Fingerprint {
    /// Notes the namespace of a container.
    pub(crate) fn note(&mut self, attach: &Attach, netns: Option<&Netns>) {
        self.0.insert(container::describe(attach), netns.map(Netns::inode));
    }

    /// Notes the namespaces of the overlays as they are now.
    pub(crate) fn note_overlays(&mut self, config: &Config) {
        for overlay in &config.overlays {
            let inode = Netns::named(overlay.netns.as_str()).ok().map(|netns| netns.inode());
            self.0.insert(format!("overlay {}", overlay.netns), inode);
        }
    }

    /// Looks at everything.
    async fn now(config: &Config) -> Self {
        let mut places = Self::default();
        for container in config.overlays.iter().flat_map(|overlay| &overlay.containers) {
            let resolved = container::resolve(&container.attach).await.ok();
            places.note(&container.attach, resolved.map(|resolved| resolved.netns).as_ref());
        }
        places.note_overlays(config);
        places
    }
}

/// What the last reconciliation worked with.
pub(crate) type Worked = (Arc<Config>, Fingerprint);

/// Reports differences between what the last reconciliation found and what is there, until the receiver of
/// the events is gone.
pub(crate) async fn compare(worked: watch::Receiver<Worked>, events: mpsc::Sender<Event>) {
    let mut reported = None;
    while !events.is_closed() {
        tokio::time::sleep(INTERVAL).await;
        let (config, known) = worked.borrow().clone();
        let now = Fingerprint::now(&config).await;
        if now == known {
            reported = None;
        } else if reported.as_ref() != Some(&now) {
            // Once per difference: a reconciliation that fails has its own schedule for trying again.
            if events.send(Event::PlacesChanged).await.is_err() {
                return;
            }
            reported = Some(now);
        }
    }
}
