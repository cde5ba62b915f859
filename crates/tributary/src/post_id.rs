//! Generates post ids that are unique without asking a database. Pure.
//!
//! An id has 41 bits of milliseconds since 1970, 12 bits of the shard and 10 bits of a sequence.
//! Ids rise with time, which helps indexes, but no order of posts is derived from them. The 41
//! bits overflow in September 2039 and then restart with the numbers of 1970, which are unused.

use std::sync::{Mutex, PoisonError};

use crate::model::{PostId, ShardId};

const SHARD_BITS: u32 = 12;
const SEQUENCE_BITS: u32 = 10;
const MS_BITS: u32 = 41;
const SEQUENCE_MAX: u16 = (1 << SEQUENCE_BITS) - 1;
/// The sequence of a millisecond starts at or below this, so that at least half of it is free.
const START_MAX: u16 = SEQUENCE_MAX / 2;

/// Generates ids. Within one process it never repeats an id, and the ids of a shard always rise.
#[derive(Debug)]
pub(crate) struct IdGenerator {
    /// Time and sequence of each shard's last id.
    last: Vec<Mutex<LastId>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct LastId {
    ms: u64,
    sequence: u16,
}

impl IdGenerator {
    pub(crate) fn new(shards: usize) -> Self {
        Self { last: (0..shards).map(|_| Mutex::default()).collect() }
    }

    /// A new id. `chance` is any random number; it makes equal ids from several processes
    /// unlikely.
    pub(crate) fn next(&self, shard: ShardId, now_ms: i64, chance: u16) -> PostId {
        let mut last = self.last[shard.index()].lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.next(u64::try_from(now_ms).unwrap_or(0), chance % (START_MAX + 1));
        compose(last.ms, shard, last.sequence)
    }
}

impl LastId {
    /// A new millisecond starts its sequence at `start`. If the clock has not advanced, the
    /// sequence continues; if the sequence is used up, the next millisecond is used ahead of the
    /// clock.
    fn next(self, now_ms: u64, start: u16) -> Self {
        if now_ms > self.ms {
            return Self { ms: now_ms, sequence: start };
        }
        match self.sequence {
            SEQUENCE_MAX => Self { ms: self.ms + 1, sequence: start },
            sequence => Self { ms: self.ms, sequence: sequence + 1 },
        }
    }
}

/// Puts the parts of an id together.
pub(crate) fn compose(ms: u64, shard: ShardId, sequence: u16) -> PostId {
    let ms = ms & ((1 << MS_BITS) - 1);
    let shard = u64::from(shard.0) & ((1 << SHARD_BITS) - 1);
    let sequence = u64::from(sequence & SEQUENCE_MAX);
    PostId((ms << (SHARD_BITS + SEQUENCE_BITS)) | (shard << SEQUENCE_BITS) | sequence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ID_MAX;

    proptest! {
        /// For any clock: one that stops, jumps ahead or steps back.
        #[test]
        fn ids_rise_on_a_shard_and_stay_in_range(
            clock in prop::collection::vec((-5i64..2_000_000_000_000, 0u16..=u16::MAX), 1..60),
            repeats in 1usize..1_500,
        ) {
            let ids = IdGenerator::new(2);
            let mut last = None;
            for (now, chance) in clock {
                for _ in 0..repeats {
                    let id = ids.next(ShardId(1), now, chance);
                    prop_assert!(id.0 <= ID_MAX && Some(id) > last);
                    prop_assert_eq!((id.0 >> SEQUENCE_BITS) & 0xfff, 1);
                    last = Some(id);
                }
            }
        }
    }

    #[test]
    fn the_parts_are_at_their_bit_positions() {
        let id = compose(1_795_365_879_515, ShardId(3), 1_023);
        assert_eq!(id, PostId(1_795_365_879_515 * (1 << 22) + 3 * 1_024 + 1_023));
        assert!(compose((1 << 41) - 1, ShardId(4_095), SEQUENCE_MAX).0 == ID_MAX);
        assert_eq!(compose(1 << 41, ShardId(0), 5), PostId(5), "it begins again");
    }

    #[test]
    fn two_processes_seldom_generate_the_same_id() {
        let (one, other) = (IdGenerator::new(1), IdGenerator::new(1));
        let ids =
            |ids: &IdGenerator, chance| (0..20).map(|_| ids.next(ShardId(0), 5, chance)).collect();
        let (one, other): (Vec<PostId>, Vec<PostId>) = (ids(&one, 40_000), ids(&other, 300));
        assert!(one.iter().all(|id| !other.contains(id)));
    }
}
