//! What is kept now, to choose from what has to go. Pure.

use std::collections::HashMap;

use super::entry::CacheKey;

/// So many are looked at for each that goes: the least recently used of eight is nearly the least
/// recently used of all, and costs no list that every reader would have to write.
const SAMPLE: usize = 8;

/// The keys that readers are shown something under.
#[derive(Debug, Default)]
pub(super) struct Residents {
    keys: Vec<CacheKey>,
    places: HashMap<CacheKey, usize>,
    /// Where the next sample begins.
    hand: usize,
}

impl Residents {
    pub(super) fn add(&mut self, key: CacheKey) {
        if !self.places.contains_key(&key) {
            self.places.insert(key, self.keys.len());
            self.keys.push(key);
        }
    }

    pub(super) fn remove(&mut self, key: CacheKey) {
        let Some(place) = self.places.remove(&key) else { return };
        self.keys.swap_remove(place);
        if let Some(moved) = self.keys.get(place) {
            self.places.insert(*moved, place);
        }
    }

    /// One that was not used for long, by the clock `used`.
    pub(super) fn oldest(&mut self, used: impl Fn(CacheKey) -> u32) -> Option<CacheKey> {
        let len = self.keys.len();
        let sample = (0..SAMPLE.min(len)).map(|step| self.keys[(self.hand + step * 97) % len]);
        let oldest = sample.min_by_key(|key| used(*key));
        self.hand = (self.hand + 1).checked_rem(len).unwrap_or(0);
        oldest
    }

    /// One after the other, round and round.
    pub(super) fn next(&mut self) -> Option<CacheKey> {
        let len = self.keys.len();
        self.hand = (self.hand + 1).checked_rem(len)?;
        self.keys.get(self.hand).copied()
    }

    /// All of them.
    pub(super) fn keys(&self) -> &[CacheKey] {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_long_ago_goes_first() {
        let mut residents = Residents::default();
        assert_eq!(residents.oldest(|_| 0), None);
        for slot in 0..100 {
            residents.add(CacheKey::Tail(slot));
            residents.add(CacheKey::Tail(slot));
        }
        let mut gone = Vec::new();
        for _ in 0..50 {
            let oldest = residents.oldest(CacheKey::slot).unwrap();
            residents.remove(oldest);
            residents.remove(oldest);
            gone.push(oldest.slot());
        }
        assert_eq!(residents.keys().len(), 50);
        let young = gone.iter().filter(|slot| **slot >= 70).count();
        assert!(young <= 10, "{young} of 50 were used lately: {gone:?}");
    }
}
