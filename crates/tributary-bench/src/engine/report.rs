//! The report of `bench engine`, as text and as JSON.

use std::fmt::{self, Display};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::world::WorldSize;

/// A finished measurement.
#[derive(Debug)]
pub struct EngineReport {
    pub(super) seed: u64,
    pub(super) size: WorldSize,
    pub(super) room: Footprint,
    pub(super) timed: Vec<PageTimings>,
    pub(super) applied: Option<LogTimings>,
}

/// The content of memory and its size: as the budget counts it, and as the process grew.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Footprint {
    pub(super) users: usize,
    pub(super) index_bytes: usize,
    pub(super) index_resident: f64,
    pub(super) follows: usize,
    pub(super) follow_bytes: usize,
    pub(super) follow_resident: f64,
    pub(super) authors: usize,
    pub(super) posts: usize,
    pub(super) tail_bytes: usize,
    pub(super) tail_resident: f64,
}

impl Footprint {
    /// For each kind of item: its name, the number of items, and the bytes per item, as the budget
    /// counts them and as the process grew.
    fn each(self) -> [(&'static str, usize, f64, f64); 3] {
        let of = |bytes: usize, resident: f64, count: usize| {
            let count = count.max(1) as f64;
            (bytes as f64 / count, resident / count)
        };
        let (user, user_resident) = of(self.index_bytes, self.index_resident, self.users);
        let (follow, follow_resident) = of(self.follow_bytes, self.follow_resident, self.follows);
        let (post, post_resident) = of(self.tail_bytes, self.tail_resident, self.posts);
        [
            ("author", self.users, user, user_resident),
            ("follow", self.follows, follow, follow_resident),
            ("post", self.posts, post, post_resident),
        ]
    }
}

/// The measured pages of one kind.
#[derive(Debug)]
pub(super) struct PageTimings {
    pub(super) name: String,
    /// The sum, over all pages, of the reader's number of followees.
    pub(super) followees: usize,
    /// Posts on all of these pages.
    pub(super) posts: usize,
    pub(super) seconds: f64,
    pub(super) nanos: Histogram<u64>,
}

impl PageTimings {
    fn micros(&self, percentile: f64) -> f64 {
        self.nanos.value_at_percentile(percentile) as f64 / 1_000.0
    }

    fn pages(&self) -> f64 {
        self.nanos.len() as f64
    }

    /// Pages per second.
    fn rate(&self) -> f64 {
        self.pages() / self.seconds
    }

    fn followees_mean(&self) -> f64 {
        self.followees as f64 / self.pages()
    }

    fn posts_mean(&self) -> f64 {
        self.posts as f64 / self.pages()
    }

    fn followees_per_second(&self) -> f64 {
        self.followees as f64 / self.seconds
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "pages": self.nanos.len(),
            "pages_per_second": self.rate(),
            "p50_us": self.micros(50.0),
            "p99_us": self.micros(99.0),
            "followees_mean": self.followees_mean(),
            "posts_mean": self.posts_mean(),
            "followees_per_second": self.followees_per_second(),
        })
    }
}

/// The measurements of a recorded log.
#[derive(Debug)]
pub(super) struct LogTimings {
    pub(super) transactions: usize,
    pub(super) events: u64,
    pub(super) bytes: usize,
    pub(super) passes: usize,
    /// Changes to cached values.
    pub(super) changes_per_transaction: f64,
    pub(super) decoded_per_second: f64,
    /// Transactions per second, decoded and applied.
    pub(super) applied_per_second: f64,
}

impl EngineReport {
    /// Everything as JSON.
    pub fn json(&self) -> Value {
        let room = self.room.each().map(|(name, count, counted, resident)| {
            json!({ "of": name, "count": count, "bytes": counted, "resident_bytes": resident })
        });
        let applied = self.applied.as_ref().map(|applied| {
            json!({
                "transactions": applied.transactions,
                "events": applied.events,
                "bytes": applied.bytes,
                "passes": applied.passes,
                "changes_per_transaction": applied.changes_per_transaction,
                "decoded_per_second": applied.decoded_per_second,
                "applied_per_second": applied.applied_per_second,
            })
        });
        json!({
            "users": self.size.users,
            "seed": self.seed,
            "version": env!("CARGO_PKG_VERSION"),
            "authors": self.room.authors,
            "room": room,
            "pages": self.timed.iter().map(PageTimings::json).collect::<Vec<_>>(),
            "log": applied,
        })
    }
}

impl Display for EngineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Footprint { users, follows, posts, .. } = self.room;
        writeln!(f, "memory alone, one thread: {users} users, {follows} follows, {posts} posts")?;
        writeln!(
            f,
            "\n{:<16} {:>9} {:>9} {:>9}",
            "bytes per item", "number", "counted", "resident"
        )?;
        for (name, count, counted, resident) in self.room.each() {
            writeln!(f, "{name:<16} {count:>9} {counted:>9.1} {resident:>9.1}")?;
        }
        writeln!(
            f,
            "\n{:<16} {:>9} {:>9} {:>9} {:>9} {:>9} {:>12}",
            "microseconds", "p50", "p99", "pages/s", "followees", "posts", "followees/s"
        )?;
        for timed in &self.timed {
            writeln!(
                f,
                "{:<16} {:>9.2} {:>9.2} {:>9.0} {:>9.1} {:>9.1} {:>12.0}",
                timed.name,
                timed.micros(50.0),
                timed.micros(99.0),
                timed.rate(),
                timed.followees_mean(),
                timed.posts_mean(),
                timed.followees_per_second()
            )?;
        }
        if let Some(applied) = &self.applied {
            let LogTimings { transactions, events, passes, changes_per_transaction, .. } = applied;
            writeln!(
                f,
                "\nlog: {transactions} transactions of {events} events, {changes_per_transaction:.2} \
                 changes each, median of {passes} passes\n\
                 {:.0} transactions/s decoded, {:.0} transactions/s decoded and applied",
                applied.decoded_per_second, applied.applied_per_second
            )?;
        }
        write!(f, "pages were compared with the data and all are correct; none needed a database")
    }
}
