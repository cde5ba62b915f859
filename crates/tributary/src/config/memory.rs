//! The sizes of memory.

use serde::Deserialize;

use super::memory_limit::machine_memory;
use super::source::bytes;
use super::{ConfigError, fail};
use crate::model::NEWS_SHARE_DEFAULT;

/// Upper bound for the default of `memory.budget`: 4 GiB.
pub const MEMORY_BUDGET_DEFAULT_MAX: usize = 4 << 30;

/// `[memory]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// Upper bound for the copies in memory, in bytes; 0 turns memory off. If absent, a quarter of
    /// the memory of the machine or of the process's cgroup, at most
    /// [`MEMORY_BUDGET_DEFAULT_MAX`].
    #[serde(deserialize_with = "bytes")]
    pub budget: Option<usize>,
    /// The part of the budget for the newest changes of all logs, in bytes, at most half of it. If
    /// absent, a sixteenth.
    #[serde(deserialize_with = "bytes")]
    pub news: Option<usize>,
}

impl MemoryConfig {
    /// The budget in bytes; the default if none is configured.
    pub fn bytes(&self) -> usize {
        self.budget.unwrap_or_else(|| (machine_memory() / 4).min(MEMORY_BUDGET_DEFAULT_MAX))
    }

    /// The part for the newest changes in bytes; the default if none is configured.
    pub fn news_bytes(&self) -> usize {
        self.news.unwrap_or_else(|| self.bytes() / NEWS_SHARE_DEFAULT)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.bytes() {
            0 => Ok(()),
            budget if self.news_bytes() > budget / 2 => {
                fail("memory.news must be at most half of memory.budget")
            }
            _ => Ok(()),
        }
    }
}
