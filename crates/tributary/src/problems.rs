//! Problems that an operator should know about. Each occurrence is counted, and each cause is
//! logged at most once an hour. Pure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Minimum time between two log lines about one cause.
const REPEAT_LOG_AFTER: Duration = Duration::from_secs(3_600);

/// The causes. [`ProblemCause::name`] is the `cause` label of `tributary_memory_problems_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProblemCause {
    /// A statement in the log may have changed rows of a served table.
    Statement,
    /// Row images in the log lack columns, so it is not known which author or reader changed.
    RowImage,
    /// The columns of a table in the log differ from those of the table.
    Columns,
    /// An event of the log cannot be decoded.
    Event,
    /// The triggers, routines and views of the server cannot be read.
    Definitions,
    /// The newest times of all authors do not fit into memory.
    HeadsTooMany,
    /// The newest times of all authors cannot be read.
    HeadsFailed,
    /// Cached values cannot be read.
    FillsFailed,
    /// Memory differs from the database.
    Mismatch,
    /// A value of memory could not be compared with the database.
    Unverified,
    /// A row cannot be read.
    UnreadableRow,
    /// The server is read-only.
    ReadOnly,
    /// A request was rejected because too many wait for the server.
    Overloaded,
    /// The server refuses connections because of a limit.
    ConnectionsRefused,
    /// A shard file cannot be written.
    WriteFailed,
    /// Another program wrote to a shard file.
    ForeignWrite,
}

impl ProblemCause {
    /// All causes.
    pub(crate) const ALL: [Self; 16] = [
        Self::Statement,
        Self::RowImage,
        Self::Columns,
        Self::Event,
        Self::Definitions,
        Self::HeadsTooMany,
        Self::HeadsFailed,
        Self::FillsFailed,
        Self::Mismatch,
        Self::Unverified,
        Self::UnreadableRow,
        Self::ReadOnly,
        Self::Overloaded,
        Self::ConnectionsRefused,
        Self::WriteFailed,
        Self::ForeignWrite,
    ];

    /// The name in the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Statement => "statement",
            Self::RowImage => "row_image",
            Self::Columns => "columns",
            Self::Event => "event",
            Self::Definitions => "definitions",
            Self::HeadsTooMany => "heads_too_many",
            Self::HeadsFailed => "heads_failed",
            Self::FillsFailed => "fills_failed",
            Self::Mismatch => "mismatch",
            Self::Unverified => "unverified",
            Self::UnreadableRow => "unreadable_row",
            Self::ReadOnly => "read_only",
            Self::Overloaded => "overloaded",
            Self::ConnectionsRefused => "connections_refused",
            Self::WriteFailed => "write_failed",
            Self::ForeignWrite => "foreign_write",
        }
    }
}

/// The problems of one server, database or file.
#[derive(Debug, Default)]
pub(crate) struct Problems([Occurrences; ProblemCause::ALL.len()]);

/// The occurrences of one problem.
#[derive(Debug)]
pub struct Occurrences {
    started: Instant,
    count: AtomicU64,
    /// When the problem was logged last, in milliseconds after `started`, plus one. 0 if never.
    logged_ms: AtomicU64,
}

impl Default for Occurrences {
    fn default() -> Self {
        Self { started: Instant::now(), count: AtomicU64::new(0), logged_ms: AtomicU64::new(0) }
    }
}

impl Occurrences {
    /// Counts an occurrence. Returns true if the caller must log it now.
    #[must_use]
    pub fn note(&self) -> bool {
        self.note_at(self.started.elapsed())
    }

    fn note_at(&self, elapsed: Duration) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1);
        let (now, pause) = (ms(elapsed) + 1, ms(REPEAT_LOG_AFTER));
        let due = |last: u64| (last == 0 || now.saturating_sub(last) >= pause).then_some(now);
        self.logged_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }

    /// The number of occurrences since the start.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Problems {
    /// Counts an occurrence. Returns true if the caller must log it now.
    #[must_use]
    pub(crate) fn note(&self, cause: ProblemCause) -> bool {
        self.0[cause as usize].note()
    }

    /// The number of occurrences since the start.
    pub(crate) fn count(&self, cause: ProblemCause) -> u64 {
        self.0[cause as usize].count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_an_hour_and_always_counted() {
        let occurrences = Occurrences::default();
        let at = |minutes: u64| occurrences.note_at(Duration::from_secs(60 * minutes));
        let logged = [0, 1, 59, 60, 61, 119, 120].map(at);
        assert_eq!(logged, [true, false, false, true, false, false, true]);
        assert_eq!(occurrences.count(), 7);
        let problems = Problems::default();
        assert!(problems.note(ProblemCause::Statement) && !problems.note(ProblemCause::Statement));
        assert!(problems.note(ProblemCause::Event), "causes are independent");
        assert_eq!(problems.count(ProblemCause::Statement), 2);
        assert_eq!(problems.count(ProblemCause::Event), 1);
        let indexes = ProblemCause::ALL.map(|cause| cause as usize);
        assert!(indexes.iter().copied().eq(0..indexes.len()));
    }
}
