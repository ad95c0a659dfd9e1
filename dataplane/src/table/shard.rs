//! A large map from keys to small numbers that is cheap to look up and cheap to change a copy of.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A key that no row has: it marks a free place.
pub(super) const FREE: u64 = u64::MAX;

/// One place of a shard: four of them fill a cache line.
struct Row {
    key: u64,
    value: u32,
    /// When traffic last used the row, in seconds; 0 = never.
    used: AtomicU32,
}

impl Row {
    fn free() -> Self {
        Self { key: FREE, value: 0, used: AtomicU32::new(0) }
    }

    fn copy(&self) -> Self {
        Self { key: self.key, value: self.value, used: AtomicU32::new(self.used.load(Ordering::Relaxed)) }
    }
}

/// What a lookup found.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) value: u32,
    used: &'a AtomicU32,
}

impl Found<'_> {
    /// Notes that traffic used the row at this second.
    ///
    /// Workers share the row's cache line, so it is written once per second at most.
    pub(super) fn mark(self, second: u32) {
        if self.used.load(Ordering::Relaxed) != second {
            self.used.store(second, Ordering::Relaxed);
        }
    }

    /// The second at which traffic last used the row; 0 = never.
    pub(super) fn used(self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A hash that nobody foresees who does not know the seeds: the halves of one long product, folded.
#[derive(Clone, Copy)]
struct Seeds([u64; 2]);

impl Seeds {
    fn random() -> Self {
        let random = RandomState::new();
        Self([random.hash_one(0), random.hash_one(1) | 1])
    }

    #[inline]
    fn hash(self, key: u64) -> u64 {
        let product = u128::from(key ^ self.0[0]) * u128::from(self.0[1]);
        (product as u64) ^ (product >> 64) as u64
    }
}

/// A map in shards. Each shard is an immutable open-addressed table behind an `Arc`; a changed copy of the map
/// shares every shard that the change does not touch.
///
/// A lookup touches two cache lines: the shard's pointer and the row. Keys are chosen by tenants, so their hash
/// is seeded at random for each map.
#[derive(Clone)]
pub(super) struct ShardedMap {
    shards: Arc<[Arc<[Row]>]>,
    seeds: Seeds,
    len: usize,
}

impl ShardedMap {
    /// An empty map of `2^bits` shards.
    pub(super) fn new(bits: u32) -> Self {
        let empty: Arc<[Row]> = Arc::new([Row::free()]);
        let shards = (0..1usize << bits).map(|_| Arc::clone(&empty)).collect();
        Self { shards, seeds: Seeds::random(), len: 0 }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, key: u64) -> Option<Found<'_>> {
        let hash = self.seeds.hash(key);
        let rows = self.shards.get(self.shard_of(hash))?;
        // At least half of the places are free, so the walk ends early; `take` bounds it whatever happens.
        for place in places(hash, rows.len()).take(rows.len()) {
            let row = rows.get(place)?;
            if row.key == FREE {
                return None;
            }
            if row.key == key {
                return Some(Found { value: row.value, used: &row.used });
            }
        }
        None
    }

    /// Reads the first place where a key may be, to have its cache line on the way before [`Self::get`] needs
    /// it. The number read means nothing.
    #[inline]
    pub(super) fn touch(&self, key: u64) -> u64 {
        let hash = self.seeds.hash(key);
        let place =
            |rows: &Arc<[Row]>| places(hash, rows.len()).next().and_then(|at| Some(rows.get(at)?.key));
        self.shards.get(self.shard_of(hash)).and_then(place).unwrap_or(0)
    }

    fn shard_of(&self, hash: u64) -> usize {
        // The high half chooses the shard, the low half the place in it.
        (hash >> 32) as usize & (self.shards.len() - 1)
    }

    /// Sets or removes rows; later changes win over earlier ones of the same key. Where all is as it was already, a
    /// copy goes on sharing everything.
    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = (u64, Option<u32>)>) {
        let mut by_shard: HashMap<usize, HashMap<u64, Option<u32>>> = HashMap::new();
        for (key, value) in changes.into_iter().filter(|(key, _)| *key != FREE) {
            let shard = self.shard_of(self.seeds.hash(key));
            by_shard.entry(shard).or_default().insert(key, value);
        }
        for (index, mut changes) in by_shard {
            changes.retain(|key, value| self.get(*key).map(|found| found.value) != *value);
            if changes.is_empty() {
                continue;
            }
            if let Some(shard) = Arc::make_mut(&mut self.shards).get_mut(index) {
                let before = occupied(shard).count();
                *shard = rebuilt(shard, changes, self.seeds);
                self.len = self.len - before + occupied(shard).count();
            }
        }
    }

    /// Removes every row whose key does not satisfy `keep`.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let gone: Vec<_> = self.iter().map(|(key, _)| key).filter(|key| !keep(*key)).collect();
        self.apply(gone.into_iter().map(|key| (key, None)));
    }

    /// Every row, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Found<'_>)> {
        let rows = self.shards.iter().flat_map(|shard| occupied(shard));
        rows.map(|row| (row.key, Found { value: row.value, used: &row.used }))
    }
}

/// The places to look at for a hash, one after the other. `capacity` is a power of two.
fn places(hash: u64, capacity: usize) -> impl Iterator<Item = usize> {
    let first = hash as usize;
    (0..).map(move |step: usize| first.wrapping_add(step) & (capacity - 1))
}

fn occupied(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.key != FREE)
}

fn rebuilt(old: &[Row], mut changes: HashMap<u64, Option<u32>>, seeds: Seeds) -> Arc<[Row]> {
    let mut rows = Vec::with_capacity(old.len() + changes.len());
    for row in occupied(old) {
        match changes.remove(&row.key) {
            None => rows.push(row.copy()),
            // A row that moved elsewhere has not been used there yet.
            Some(Some(value)) if value != row.value => rows.push(Row { value, ..Row::free_at(row.key) }),
            Some(Some(_)) => rows.push(row.copy()),
            Some(None) => {}
        }
    }
    let added = changes.into_iter().filter_map(|(key, value)| Some((key, value?)));
    rows.extend(added.map(|(key, value)| Row { value, ..Row::free_at(key) }));

    let capacity = (rows.len() * 2).next_power_of_two();
    let mut table: Vec<Row> = (0..capacity).map(|_| Row::free()).collect();
    for row in rows {
        let free = places(seeds.hash(row.key), capacity)
            .find(|place| table.get(*place).is_none_or(|row| row.key == FREE));
        if let Some(place) = free.and_then(|place| table.get_mut(place)) {
            *place = row;
        }
    }
    table.into()
}

impl Row {
    fn free_at(key: u64) -> Self {
        Self { key, ..Self::free() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_map_holds_what_the_last_changes_say(
            rounds in prop::collection::vec(
                prop::collection::vec((0u64..200, prop::option::of(any::<u32>())), 0..50), 0..20),
        ) {
            let mut map = ShardedMap::new(2);
            let mut model = std::collections::BTreeMap::new();
            for changes in rounds {
                map.apply(changes.iter().copied());
                for (key, value) in changes {
                    match value {
                        Some(value) => model.insert(key, value),
                        None => model.remove(&key),
                    };
                }
                let rows: std::collections::BTreeMap<_, _> =
                    map.iter().map(|(key, found)| (key, found.value)).collect();
                prop_assert_eq!(&rows, &model);
                prop_assert_eq!(map.len(), model.len());
                for key in 0..200 {
                    prop_assert_eq!(map.get(key).map(|found| found.value), model.get(&key).copied());
                }
            }
        }
    }

    #[test]
    fn the_key_that_marks_free_places_is_never_found() {
        let mut map = ShardedMap::new(0);
        map.apply([(FREE, Some(1)), (3, Some(2))]);
        assert!(map.get(FREE).is_none());
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn a_mark_survives_changes_of_other_rows_and_goes_with_a_move() {
        let mut map = ShardedMap::new(0);
        map.apply([(1, Some(10)), (2, Some(20))]);
        map.get(1).expect("was added").mark(77);
        map.apply([(2, Some(21)), (3, Some(30))]);
        assert_eq!(map.get(1).map(Found::used), Some(77));
        map.apply([(1, Some(11))]);
        assert_eq!(map.get(1).map(Found::used), Some(0));
    }

    #[test]
    fn a_copy_shares_the_shards_that_a_change_does_not_touch() {
        let mut map = ShardedMap::new(6);
        map.apply((0..1000).map(|key| (key, Some(1))));
        let before = map.clone();
        map.apply([(5, Some(2))]);
        let same = before.shards.iter().zip(map.shards.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(same, 63);
        let before = map.clone();
        map.apply([(5, Some(1)), (5, Some(2)), (2000, None)]);
        assert!(Arc::ptr_eq(&before.shards, &map.shards), "nothing is other than before");
    }
}
