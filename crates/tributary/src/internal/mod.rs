//! Items for the project's own crates and tests, beyond the public names. They may change in any
//! release: nothing here is part of the library's stable interface. At most 40 items.

#[cfg(feature = "mysql")]
pub mod checks;
pub mod decoders;
#[cfg(test)]
#[cfg(feature = "sqlite")]
mod delivery;
mod engine;
#[cfg(feature = "sqlite")]
pub mod folders;
mod log_source;
#[cfg(feature = "mysql")]
mod recorded_log;
mod requests;
pub mod stats;
pub mod tasks;

pub use self::engine::EngineMemory;
pub use self::log_source::TestLog;
#[cfg(feature = "mysql")]
pub use self::recorded_log::RecordedLog;
pub use self::requests::fleet;
pub use crate::changes::{Bounds, Change, Commit, FeedEvent, LogIdentity, LogPosition};
pub use crate::clock::{now_ms, rfc3339_ms};
pub use crate::cursor::{Edge, FollowingCursor};
pub use crate::fit::Fit;
pub use crate::memory::SentPage;
pub use crate::model::{Direction, Follow};
pub use crate::moment::{CalendarTime, PostTimes};
pub use crate::post_json::PostJson;
pub use crate::shard::{
    Changes, FillAnswer, FillRequest, Finding, Fleet, Loaded, ShardError, migrate, mysql_tables,
    mysql_writes_table,
};
pub use crate::timeline::{Draft, DraftPost};
