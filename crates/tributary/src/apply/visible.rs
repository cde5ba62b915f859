//! The part of memory that one writer maintains and readers see. Values that readers do not see yet
//! keep the bytes that were reserved for them.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::{CacheKey, CachedEntry};
use super::listing::Listing;
use super::residents::Residents;
use crate::memory::{Memory, Reservation};

/// The visible values of one log, and the reservations of its other values.
#[derive(Debug)]
pub(super) struct Visible {
    memory: Arc<Memory>,
    pub(super) residents: Residents,
    pub(super) listing: Listing,
    /// The bytes of values that wait for the log, and of the auditor's copies.
    pub(super) reserved: HashMap<CacheKey, Reservation>,
    /// Deeper tails that can be read now and replace the shallow ones.
    pub(super) deeper: Vec<CacheKey>,
    /// Follow lists that must not become visible, because slots were freed while they were read.
    pub(super) outdated: Vec<CacheKey>,
}

impl Visible {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        let (residents, listing) = (Residents::default(), Listing::default());
        let [deeper, outdated] = Default::default();
        Self { memory, residents, listing, reserved: HashMap::new(), deeper, outdated }
    }

    /// Keeps the bytes of a value that no reader sees yet, until it is shown or dropped.
    pub(super) fn reserve(&mut self, key: CacheKey, bytes: Reservation) {
        self.reserved.insert(key, bytes);
    }

    /// Makes the value of a key visible to readers, or removes it. The auditor's copies are never
    /// visible.
    pub(super) fn show(&mut self, key: CacheKey, value: Option<&CachedEntry>) {
        match (key, value) {
            (CacheKey::Tail(slot), Some(CachedEntry::Tail(tail))) => {
                if self.memory.show_tail(slot, Some(Arc::clone(tail))) {
                    self.listing.add_tail(slot);
                }
            }
            (CacheKey::Tail(slot), _) => {
                self.memory.show_tail(slot, None);
            }
            (CacheKey::Follows(slot), Some(CachedEntry::Follows(list)))
                if list.is_outdated(self.memory.frees()) && !self.memory.shows_follows(slot) =>
            {
                return self.outdated.push(key);
            }
            (CacheKey::Follows(slot), Some(CachedEntry::Follows(list))) => {
                self.memory.show_follows(slot, Some(Arc::clone(list)));
            }
            (CacheKey::Follows(slot), _) => self.memory.show_follows(slot, None),
            (CacheKey::DeeperTail(_), Some(_)) => return self.deeper.push(key),
            // A copy that is still compared stays reserved.
            (CacheKey::TailAudit(_) | CacheKey::FollowsAudit(_), Some(_)) => return,
            (_, None) => {}
        }
        self.reserved.remove(&key);
        if value.is_some() {
            self.residents.add(key);
        } else {
            self.residents.remove(key);
        }
    }
}
