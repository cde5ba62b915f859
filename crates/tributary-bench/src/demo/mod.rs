//! Generator of an artificial social network: follows, posts and names of users. The same arguments
//! always give the same network. Pure: the demo command stores the rows, and the benchmark uses
//! the same distributions.

mod follows;
mod handles;
mod posts;
mod text;

use rand::SeedableRng;
use rand::rngs::StdRng;

pub use self::follows::follows;
pub use self::handles::names;
pub use self::posts::posts;
pub(crate) use self::posts::{activity, burst, delay_ms, demo_post_id};

/// The size of the network.
#[derive(Clone, Copy, Debug)]
pub struct NetworkSize {
    /// Number of users; their ids are 1 to this number.
    pub users: u32,
    /// Number of posts of all users together.
    pub posts: u32,
    /// Number of shards; each post id contains the index of its shard.
    pub shards: u16,
}

/// Independent random streams, so that a change of one part leaves the others unchanged.
#[derive(Clone, Copy)]
enum RandomStream {
    Follows = 1,
    Posts = 2,
    Text = 3,
    References = 4,
}

const SEED: u64 = 7_878;

/// The random generator of one stream; always in the same state.
fn random(stream: RandomStream) -> StdRng {
    StdRng::seed_from_u64(SEED + ((stream as u64) << 32))
}
