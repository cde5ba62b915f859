//! The cached keys, from which the writer chooses the next eviction. Pure.

use std::collections::HashMap;

use super::entry::CacheKey;

/// Keys compared per eviction. The least recently used of eight is nearly the least recently used
/// of all, and readers need not maintain a list.
const SAMPLE: usize = 8;

/// The keys whose values readers can see.
#[derive(Debug, Default)]
pub(super) struct Residents {
    keys: Vec<CacheKey>,
    indexes: HashMap<CacheKey, usize>,
    /// Index of the next sample.
    hand: usize,
}

impl Residents {
    pub(super) fn add(&mut self, key: CacheKey) {
        if !self.indexes.contains_key(&key) {
            self.indexes.insert(key, self.keys.len());
            self.keys.push(key);
        }
    }

    pub(super) fn remove(&mut self, key: CacheKey) {
        let Some(index) = self.indexes.remove(&key) else { return };
        self.keys.swap_remove(index);
        if let Some(moved) = self.keys.get(index) {
            self.indexes.insert(*moved, index);
        }
    }

    /// A key that was not used for long, where `used` gives the tick of the last use.
    pub(super) fn oldest(&mut self, used: impl Fn(CacheKey) -> u32) -> Option<CacheKey> {
        let len = self.keys.len();
        let sample = (0..SAMPLE.min(len)).map(|step| self.keys[(self.hand + step * 97) % len]);
        let oldest = sample.min_by_key(|key| used(*key));
        self.hand = (self.hand + 1).checked_rem(len).unwrap_or(0);
        oldest
    }

    /// The next key, in a cycle through all of them.
    pub(super) fn next(&mut self) -> Option<CacheKey> {
        let len = self.keys.len();
        self.hand = (self.hand + 1).checked_rem(len)?;
        self.keys.get(self.hand).copied()
    }

    /// All keys, in no particular order.
    pub(super) fn keys(&self) -> &[CacheKey] {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_key_is_chosen_first() {
        let mut residents = Residents::default();
        assert_eq!(residents.oldest(|_| 0), None);
        for slot in 0..100 {
            residents.add(CacheKey::Tail(slot));
            residents.add(CacheKey::Tail(slot));
        }
        let mut evicted = Vec::new();
        for _ in 0..50 {
            let oldest = residents.oldest(CacheKey::slot).unwrap();
            residents.remove(oldest);
            residents.remove(oldest);
            evicted.push(oldest.slot());
        }
        assert_eq!(residents.keys().len(), 50);
        let young = evicted.iter().filter(|slot| **slot >= 70).count();
        assert!(young <= 10, "{young} of 50 were used recently: {evicted:?}");
    }
}
