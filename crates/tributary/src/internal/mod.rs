//! Items for the project's own crates and tests, beyond the public names. They may change in any
//! release: nothing here is part of the library's stable interface.

mod engine;
mod log_source;
mod new_folder;
mod recorded_log;
mod requests;
mod stats;

pub use self::engine::{EngineMemory, Miss};
pub use self::log_source::{TestLog, log_sources};
pub use self::new_folder::{FolderRows, build_folder};
pub use self::recorded_log::RecordedLog;
pub use self::requests::{
    author_draft, cache_page, cached_page, content_bytes_max, fleet, home_draft,
};
pub use self::stats::{LogStats, MemoryStats, memory_stats};
pub use crate::changes::{
    Bounds, Change, Commit, FeedEvent, LogIdentity, LogPosition, file_number,
};
pub use crate::clock::{now_ms, rfc3339_ms};
pub use crate::cursor::{AuthorEdge, Edge, FollowingCursor};
pub use crate::fit::{Fit, fit, strays};
pub use crate::memory::SentPage;
pub use crate::model::{Direction, FOLLOWEES_MAX, Follow, ID_MAX, parse_id};
pub use crate::moment::{CalendarTime, PostTimes};
pub use crate::post_json::PostJson;
pub use crate::shard::{
    Access, Changes, Deadline, FillAnswer, FillBatch, FillRequest, FillTarget, Finding, Fleet,
    HeadBatch, Level, Loaded, Migrated, ShardError, TailQuery, find_tables, migrate, mysql_tables,
    mysql_writes_table, strays as stray_rows, survey,
};
pub use crate::timeline::{Draft, DraftPost};
