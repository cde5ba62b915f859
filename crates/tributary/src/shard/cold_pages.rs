//! Counts what pages cost the databases, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// The pages that were read from the databases, since the start.
#[derive(Debug, Default)]
pub struct ColdPages {
    pages: AtomicU64,
    waves: AtomicU64,
    rows: AtomicU64,
}

impl ColdPages {
    /// Counts a page, its waves without the one for the follow list, and the rows that the
    /// databases returned for it.
    pub(crate) fn count(&self, waves: u32, rows: u64) {
        self.pages.fetch_add(1, Ordering::Relaxed);
        self.waves.fetch_add(waves.into(), Ordering::Relaxed);
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// The number of pages.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// The waves of all these pages.
    pub fn waves(&self) -> u64 {
        self.waves.load(Ordering::Relaxed)
    }

    /// The rows of all these pages.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}
