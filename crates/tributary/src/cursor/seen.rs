//! The posts that the pages before a cursor have shown, in a bounded number of bytes.

use super::{BadCursor, take};
use crate::model::PostAddress;

/// The most addresses that a cursor holds: 256, which take 1.5 KiB.
const ADDRESSES_MAX: usize = 256;
/// The bytes of an address. Two of 256 addresses are equal by chance once in 10^12 posts.
pub(super) const ADDRESS_BYTES: usize = 6;

/// The newest addresses that were shown, each as a hash, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen(Vec<SeenHash>);

/// The hash of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SeenHash([u8; ADDRESS_BYTES]);

impl Seen {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn hashes(&self) -> impl Iterator<Item = SeenHash> {
        self.0.iter().copied()
    }

    /// Adds a post. If there are too many, the one that was added first is dropped.
    pub(crate) fn add(&mut self, address: PostAddress) {
        let added = SeenHash::of(address);
        self.0.retain(|known| *known != added);
        self.0.push(added);
        if self.0.len() > ADDRESSES_MAX {
            self.0.remove(0);
        }
    }

    /// Whether an address fits into `room` bytes.
    pub(super) fn fits(room: usize) -> bool {
        room >= 2 + ADDRESS_BYTES
    }

    /// The number of addresses and the newest of them, as many as fit into `room` bytes.
    pub(super) fn put(&self, bytes: &mut Vec<u8>, room: usize) {
        let count = self.0.len().min(room.saturating_sub(2) / ADDRESS_BYTES);
        let newest = &self.0[self.0.len() - count..];
        bytes.extend(u16::try_from(count).unwrap_or(0).to_be_bytes());
        bytes.extend(newest.iter().flat_map(|hash| hash.0));
    }

    pub(super) fn take(rest: &mut &[u8]) -> Result<Self, BadCursor> {
        let count = usize::from(u16::from_be_bytes(take(rest)?));
        if count > ADDRESSES_MAX {
            return Err(BadCursor);
        }
        (0..count).map(|_| take(rest).map(SeenHash)).collect::<Result<_, _>>().map(Self)
    }
}

impl SeenHash {
    /// The first bytes of a hash. All bits of both ids decide each of them.
    pub(crate) fn of(PostAddress { author, post }: PostAddress) -> Self {
        // The constants and shifts are those of the generator SplitMix64.
        let mixed = |number: u64| {
            let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            number ^ (number >> 31)
        };
        let [a, b, c, d, e, f, ..] = mixed(mixed(author.0) ^ post.0).to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PostId, UserId};

    fn address(author: u64, post: u64) -> PostAddress {
        PostAddress { author: UserId(author), post: PostId(post) }
    }

    fn contains(seen: &Seen, author: u64, post: u64) -> bool {
        seen.hashes().any(|hash| hash == SeenHash::of(address(author, post)))
    }

    #[test]
    fn the_newest_addresses_are_kept() {
        let mut seen = Seen::default();
        for post in 0..300 {
            seen.add(address(1, post));
            seen.add(address(1, 0));
        }
        assert!(contains(&seen, 1, 0), "an address that is added again is a new one");
        let kept = (1..300).filter(|post| contains(&seen, 1, *post));
        assert!(kept.eq(45..300));
        let mut bytes = Vec::new();
        seen.put(&mut bytes, 2 + 3 * ADDRESS_BYTES + 5);
        let few = Seen::take(&mut bytes.as_slice()).unwrap();
        assert!([(1, 0), (1, 299), (1, 298)].into_iter().all(|(a, p)| contains(&few, a, p)));
        assert!(!contains(&few, 1, 297));
    }

    #[test]
    fn addresses_have_hashes_of_their_own() {
        let all = (0..300)
            .flat_map(|author| (0..300).map(move |post| SeenHash::of(address(author, post))));
        let distinct: std::collections::HashSet<_> = all.collect();
        assert_eq!(distinct.len(), 90_000);
    }
}
