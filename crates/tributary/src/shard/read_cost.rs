//! The cost of the reads of one page on each shard. Measured only for a page that is explained.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ShardError;
use crate::model::ShardId;

/// The cost of the reads of one shard in one wave.
#[derive(Clone, Debug)]
pub(crate) struct ShardCost {
    pub(crate) shard: ShardId,
    /// The wait for a connection.
    pub(crate) waited: Duration,
    /// The time from the end of that wait to the last answer.
    pub(crate) took: Duration,
    pub(crate) counts: ReadCounts,
    pub(crate) error: Option<ShardError>,
}

/// Counts of some reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadCounts {
    /// Statements that the database has answered.
    pub(crate) statements: u64,
    /// Rows that it returned.
    pub(crate) rows: u64,
    /// Rows that its storage engine read, by its own counters.
    pub(crate) examined: Option<u64>,
}

/// Counts the reads of one shard in one wave.
#[derive(Debug, Default)]
pub(super) struct ReadMeter(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    counts: ReadCounts,
    /// The time that measuring took.
    overhead: Duration,
}

impl ReadMeter {
    pub(super) fn add(&self, statements: u64, rows: u64) {
        self.with(|measured| {
            measured.counts.statements += statements;
            measured.counts.rows += rows;
        });
    }

    pub(super) fn add_examined(&self, rows: u64) {
        self.with(|measured| *measured.counts.examined.get_or_insert_default() += rows);
    }

    pub(super) fn add_overhead(&self, since: Instant) {
        self.with(|measured| measured.overhead += since.elapsed());
    }

    fn with<T>(&self, act: impl FnOnce(&mut Measured) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The costs of one wave.
#[derive(Debug)]
pub(crate) struct CostLog {
    begun: Instant,
    costs: Mutex<Vec<ShardCost>>,
}

impl CostLog {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), costs: Mutex::default() }
    }

    pub(crate) fn into_costs(self) -> Vec<ShardCost> {
        let mut costs = self.costs.into_inner().unwrap_or_else(PoisonError::into_inner);
        costs.sort_unstable_by_key(|cost| cost.shard);
        costs
    }

    /// Adds a shard that failed before its reads began.
    pub(super) fn note_missing(&self, shard: ShardId, error: ShardError) {
        let mut costs = self.costs();
        if !costs.iter().any(|cost| cost.shard == shard) {
            let (waited, took) = (self.begun.elapsed(), Duration::ZERO);
            let counts = ReadCounts::default();
            costs.push(ShardCost { shard, waited, took, counts, error: Some(error) });
        }
    }

    fn costs(&self) -> MutexGuard<'_, Vec<ShardCost>> {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to measure the reads of a shard.
    pub(super) fn begin(&self, shard: ShardId) -> Measurement<'_> {
        Measurement { log: self, shard, begun: Instant::now(), meter: Arc::default() }
    }
}

/// The reads of one shard while they run.
pub(super) struct Measurement<'a> {
    log: &'a CostLog,
    shard: ShardId,
    begun: Instant,
    pub(super) meter: Arc<ReadMeter>,
}

impl Measurement<'_> {
    /// Adds the cost to the log, with the error if the reads have failed.
    pub(super) fn end(self, error: Option<&ShardError>) {
        let (counts, overhead) = self.meter.with(|of| (of.counts, of.overhead));
        let cost = ShardCost {
            shard: self.shard,
            waited: self.begun - self.log.begun,
            took: self.begun.elapsed().saturating_sub(overhead),
            counts,
            error: error.cloned(),
        };
        self.log.costs().push(cost);
    }
}
