//! Answers what the kernel misses (`l2miss`, `l3miss`) from the configured directory, in bounded memory.
//!
//! The kernel does not limit its notifications: every frame for an unknown MAC and every ARP request for an
//! unknown address makes one (`vxlan_fdb_miss` and `vxlan_ip_miss`, `drivers/net/vxlan/vxlan_core.c`).
//! So an address that was just answered, or that nobody knows, is held down for a while.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vxdp_dataplane::wire::MacAddr;

use crate::config::Overlay;
use crate::kernel::desired::Row;
use crate::segment::Segment;

/// Slots of the hold-down table, a power of two.
///
/// It bounds the memory (about 200 KiB) whatever the kernel asks for.
/// Fewer make unrelated addresses push each other out more often, which costs a second look into the
/// directory and nothing else; more only cost memory.
const HOLDS: usize = 4096;

/// How long an address that was answered is not answered again.
///
/// Longer than an installation takes, so that a burst of frames is answered once; and short, so that a row
/// which somebody deletes right after it was written is missed only briefly.
pub const ANSWERED_HOLD: Duration = Duration::from_millis(200);

/// How long an address that nobody knows is not looked up again.
pub const UNKNOWN_HOLD: Duration = Duration::from_secs(10);

/// What the kernel looked for and did not find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Missed {
    /// l2miss: no FDB row for this MAC.
    Mac(MacAddr),
    /// l3miss: no ARP or ND row for this address.
    Address(IpAddr),
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The FDB rows of a MAC: where it is.
    Station {
        /// MAC of the remote container.
        mac: MacAddr,
        /// Underlay address of its host.
        vtep: IpAddr,
    },
    /// The ARP or ND row of an address: whose it is.
    Neighbour {
        /// Address of the remote container.
        address: IpAddr,
        /// Its MAC.
        mac: MacAddr,
    },
}

impl Answer {
    /// The miss this answers.
    pub fn missed(&self) -> Missed {
        match self {
            Self::Station { mac, .. } => Missed::Mac(*mac),
            Self::Neighbour { address, .. } => Missed::Address(*address),
        }
    }

    /// The rows that carry it.
    pub fn rows(&self) -> impl Iterator<Item = Row> + use<> {
        let (first, second) = match *self {
            Self::Station { mac, vtep } => (Row::Fdb { mac, vtep }, Some(Row::Bridge { mac })),
            Self::Neighbour { address, mac } => (Row::Neighbour { address, mac }, None),
        };
        std::iter::once(first).chain(second)
    }
}

/// What became of one miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// In the directory: write this.
    Answer(Answer),
    /// In no directory; it is held down from now on.
    Unknown,
    /// Asked again within its hold-down.
    HeldDown,
}

/// Counts since the start, for `status` and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Notifications read.
    pub asked: u64,
    /// Answers that went to the kernel.
    pub answered: u64,
    /// Notifications for addresses in no directory.
    pub unknown: u64,
    /// Notifications within a hold-down.
    pub held_down: u64,
    /// Answers given up because too many were under way.
    pub dropped: u64,
    /// Answers the kernel refused.
    pub failed: u64,
    /// Times the kernel's queue overflowed and it dropped notifications.
    pub overflows: u64,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    key: (Segment, Missed),
    until: Duration,
}

/// Directory, hold-downs and counters. Times are since the daemon's start.
#[derive(Debug)]
pub struct Misses {
    directory: HashMap<(Segment, Missed), Answer>,
    /// The directory's keys in any segment.
    keys: HashSet<Missed>,
    holds: Box<[Option<Hold>]>,
    hasher: RandomState,
    /// What happened so far.
    pub counters: Counters,
}

impl Misses {
    /// The directory is what the remotes of `overlays` say, the ones installed at the start included: a
    /// miss for one of those means that somebody deleted its row.
    pub fn new(overlays: &[Overlay]) -> Self {
        let mut misses = Self {
            directory: HashMap::new(),
            keys: HashSet::new(),
            holds: vec![None; HOLDS].into_boxed_slice(),
            hasher: RandomState::new(),
            counters: Counters::default(),
        };
        misses.set_directory(overlays);
        misses
    }

    /// Replaces the directory; what was unknown may be known now.
    pub fn set_directory(&mut self, overlays: &[Overlay]) {
        self.holds.fill(None);
        self.directory.clear();
        self.keys.clear();
        for spec in overlays {
            let segment = Segment::of(spec);
            for remote in &spec.remotes {
                let mac = remote.mac;
                self.learn(segment, Answer::Station { mac, vtep: remote.vtep });
                for address in &remote.addresses {
                    self.learn(segment, Answer::Neighbour { address: *address, mac });
                }
            }
        }
    }

    fn learn(&mut self, segment: Segment, answer: Answer) {
        self.keys.insert(answer.missed());
        self.directory.insert((segment, answer.missed()), answer);
    }

    /// Whether some overlay has it.
    pub fn knows(&self, key: Missed) -> bool {
        self.keys.contains(&key)
    }

    /// Judges one notification.
    pub fn ask(&mut self, now: Duration, segment: Segment, missed: Missed) -> Verdict {
        self.counters.asked += 1;
        let key = (segment, missed);
        let slot = self.hasher.hash_one(key) as usize % HOLDS;
        if self.holds[slot].is_some_and(|hold| hold.key == key && now < hold.until) {
            self.counters.held_down += 1;
            return Verdict::HeldDown;
        }
        let (verdict, hold) = match self.directory.get(&key) {
            Some(answer) => (Verdict::Answer(*answer), ANSWERED_HOLD),
            None => (Verdict::Unknown, UNKNOWN_HOLD),
        };
        if verdict == Verdict::Unknown {
            self.counters.unknown += 1;
        }
        self.holds[slot] = Some(Hold { key, until: now + hold });
        verdict
    }

    /// Lets an address be asked again at once, because its answer did not reach the kernel.
    pub fn release(&mut self, segment: Segment, missed: Missed) {
        let key = (segment, missed);
        let slot = self.hasher.hash_one(key) as usize % HOLDS;
        if self.holds[slot].is_some_and(|hold| hold.key == key) {
            self.holds[slot] = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vxdp_dataplane::wire::Vni;

    use crate::model::tests::overlay;

    const START: Duration = Duration::from_secs(1);

    fn known() -> MacAddr {
        MacAddr::new([2, 0x42, 10, 0, 0, 3])
    }

    fn segment() -> Segment {
        Segment::of(&overlay(42))
    }

    fn number(n: u32) -> MacAddr {
        let [a, b, c, d] = n.to_be_bytes();
        MacAddr::new([6, 0, a, b, c, d])
    }

    #[test]
    fn a_known_mac_is_answered_once_per_hold() {
        let mut misses = Misses::new(&[overlay(42)]);
        let asked = Missed::Mac(known());
        assert!(matches!(misses.ask(START, segment(), asked), Verdict::Answer(Answer::Station { .. })));
        assert_eq!(misses.ask(START, segment(), asked), Verdict::HeldDown);
        assert!(matches!(misses.ask(START + ANSWERED_HOLD, segment(), asked), Verdict::Answer(_)));
        assert_eq!(misses.counters, Counters { asked: 3, held_down: 1, ..Counters::default() });
    }

    #[test]
    fn an_address_is_answered_with_its_mac() {
        let mut misses = Misses::new(&[overlay(42)]);
        let address = "10.0.0.3".parse().expect("an address");
        let expected = Verdict::Answer(Answer::Neighbour { address, mac: known() });
        assert_eq!(misses.ask(START, segment(), Missed::Address(address)), expected);
    }

    #[test]
    fn an_unknown_address_is_held_down() {
        let mut misses = Misses::new(&[overlay(42)]);
        let asked = Missed::Mac(number(1));
        assert_eq!(misses.ask(START, segment(), asked), Verdict::Unknown);
        assert_eq!(misses.ask(START, segment(), asked), Verdict::HeldDown);
        assert_eq!(misses.ask(START + UNKNOWN_HOLD, segment(), asked), Verdict::Unknown);
    }

    #[test]
    fn a_failed_answer_may_be_asked_again() {
        let mut misses = Misses::new(&[overlay(42)]);
        let asked = Missed::Mac(known());
        assert!(matches!(misses.ask(START, segment(), asked), Verdict::Answer(_)));
        misses.release(segment(), asked);
        assert!(matches!(misses.ask(START, segment(), asked), Verdict::Answer(_)));
    }

    #[test]
    fn overlays_do_not_answer_for_each_other() {
        let mut empty = overlay(43);
        empty.remotes.clear();
        let mut misses = Misses::new(&[overlay(42), empty]);
        assert_eq!(
            misses.ask(
                START,
                Segment { vni: Vni::new(43).expect("a VNI"), port: 4789 },
                Missed::Mac(known())
            ),
            Verdict::Unknown
        );
    }

    #[test]
    fn a_storm_of_unknown_addresses_takes_no_memory_and_leaves_the_known_ones_alone() {
        let mut misses = Misses::new(&[overlay(42)]);
        let directory = misses.directory.capacity();
        for n in 0..100_000 {
            assert_eq!(misses.ask(START, segment(), Missed::Mac(number(n))), Verdict::Unknown);
            if n % 1000 == 0 {
                let now = START + ANSWERED_HOLD * (n / 1000 + 1);
                assert!(matches!(misses.ask(now, segment(), Missed::Mac(known())), Verdict::Answer(_)));
            }
        }
        assert_eq!(misses.holds.len(), HOLDS);
        assert_eq!(misses.directory.capacity(), directory);
        assert_eq!(misses.counters.unknown, 100_000);
    }
}
