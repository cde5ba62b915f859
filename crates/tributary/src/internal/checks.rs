//! The checks of `tributary check`, which the server makes too.

pub use crate::shard::{check_fleet, find_tables, stray_findings, survey, unknown_placement};
