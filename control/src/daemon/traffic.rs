//! What each overlay carries on each path, and how fast: the counters of engines and of the kernel's devices.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use netlink_packet_route::link::LinkAttribute;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::api::status::{OverlayStatus, PathStatus};
use crate::config::Overlay;
use crate::engine::pilot::Pilot;
use crate::engine::{Carried, Frames};
use crate::netns::Netns;

/// Between two samples that rates are compared with. Shorter makes rates follow faster and costs a netlink request
/// per overlay; longer makes `status` show what has long passed.
const SAMPLE: Duration = Duration::from_secs(5);

/// The youngest sample that a rate is compared with, where there is one; too young, and bursts look like a rate.
const SPAN: Duration = Duration::from_secs(4);

/// An Ethernet header: the kernel's vxlan device counts bytes without it (`iptunnel_xmit`, `vxlan_rcv`).
const ETHERNET: u64 = 14;

/// The kernel's path in reports.
const KERNEL: &str = "kernel";

/// An overlay, by VNI and UDP port, and a path.
type Key = (u32, u16, &'static str);

struct Sample {
    at: Instant,
    carried: BTreeMap<Key, Carried>,
}

/// Adds up what overlays carry, and remembers some seconds of it.
pub(super) struct Meter {
    pilot: Arc<Pilot>,
    samples: Mutex<VecDeque<Sample>>,
}

impl Meter {
    pub(super) fn new(pilot: Arc<Pilot>) -> Arc<Self> {
        Arc::new(Self { pilot, samples: Mutex::default() })
    }

    /// Takes samples for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let mut tick = interval(SAMPLE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let sample = self.take().await;
            let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.push_back(sample);
            if samples.len() > 3 {
                samples.pop_front();
            }
        }
    }

    /// Tells the paths of each overlay.
    pub(super) async fn fill(&self, overlays: &mut [OverlayStatus]) {
        let now = self.take().await;
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |sample: &Sample| now.at.duration_since(sample.at);
        let old = samples.iter().rev().find(|sample| age(sample) >= SPAN);
        let old = old.or(samples.front()).filter(|sample| age(sample) >= SPAN / 4);
        for overlay in overlays {
            let key = (overlay.vni, overlay.port);
            for ((vni, port, path), carried) in &now.carried {
                if key != (*vni, *port) {
                    continue;
                }
                let before =
                    old.map(|old| old.carried.get(&(*vni, *port, *path)).copied().unwrap_or_default());
                let rate = old.zip(before).map(|(old, before)| per_second(carried.since(before), age(old)));
                overlay.paths.push(PathStatus { path: (*path).to_owned(), carried: *carried, rate });
            }
        }
    }

    async fn take(&self) -> Sample {
        let config = self.pilot.config();
        let mut carried = of_kernel(&config.overlays).await;
        let at = Instant::now();
        for count in tokio::task::block_in_place(|| self.pilot.carried()) {
            carried.insert((count.vni, count.port, count.engine.as_str()), count.carried);
        }
        Sample { at, carried }
    }
}

fn per_second(carried: Carried, time: Duration) -> Carried {
    let per_second = |count: u64| (count as f64 / time.as_secs_f64()).round() as u64;
    let rate = |frames: Frames| Frames { frames: per_second(frames.frames), bytes: per_second(frames.bytes) };
    Carried { encap: rate(carried.encap), decap: rate(carried.decap) }
}

/// What the kernel's vxlan devices have carried; devices that cannot be asked are left out.
async fn of_kernel(overlays: &[Overlay]) -> BTreeMap<Key, Carried> {
    let mut carried = BTreeMap::new();
    let mut spaces: BTreeMap<&str, Vec<&Overlay>> = BTreeMap::new();
    for overlay in overlays {
        spaces.entry(overlay.netns.as_str()).or_default().push(overlay);
    }
    for (name, overlays) in spaces {
        // Opened each time: a socket that stays would keep a deleted namespace alive.
        let Ok(handle) = Netns::named(name).and_then(|netns| netns.netlink()) else { continue };
        for overlay in overlays {
            let mut links = handle.link().get().match_name(overlay.vxlan.to_string()).execute();
            let Ok(Some(link)) = links.try_next().await else { continue };
            let counted = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Stats64(stats) => Some(Carried {
                    encap: with_headers(stats.tx_packets, stats.tx_bytes),
                    decap: with_headers(stats.rx_packets, stats.rx_bytes),
                }),
                _ => None,
            });
            if let Some(counted) = counted {
                carried.insert((overlay.vni.get(), overlay.port, KERNEL), counted);
            }
        }
    }
    carried
}

fn with_headers(frames: u64, bytes: u64) -> Frames {
    Frames { frames, bytes: bytes + ETHERNET * frames }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_came_in_a_second() {
        let frames = |frames, bytes| Frames { frames, bytes };
        let carried = Carried { encap: frames(1000, 98_000), decap: frames(1, 98) };
        let rate = per_second(carried, Duration::from_secs(4));
        assert_eq!(rate, Carried { encap: frames(250, 24_500), decap: frames(0, 25) });
    }
}
