//! A made-up social network, the same for the same seed: who follows whom, who posts what, when.
//! Pure; the demo command stores it, and the benchmark's world has the same habits.

mod follows;
mod posts;
mod text;

use rand::SeedableRng;
use rand::rngs::StdRng;

pub(crate) use self::follows::follows;
pub(crate) use self::posts::{activity, burst, delay_ms, demo_post_id, posts};

/// How large the network is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetworkSize {
    /// Users have the ids from 1 to this.
    pub(crate) users: u32,
    /// Posts of all of them.
    pub(crate) posts: u32,
    /// Number of shards; each post id contains the index of its shard.
    pub(crate) shards: u16,
}

/// Independent streams of chance, so that one part can change without the others.
#[derive(Clone, Copy)]
enum RandomStream {
    Follows = 1,
    Posts = 2,
    Text = 3,
}

const SEED: u64 = 7_878;

fn random(stream: RandomStream) -> StdRng {
    StdRng::seed_from_u64(SEED + ((stream as u64) << 32))
}
