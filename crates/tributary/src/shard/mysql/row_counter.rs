//! Counts the rows that the storage engine reads for one read, for pages that are explained.

use std::time::Instant;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};

use super::field;
use crate::shard::read_cost::ReadMeter;

/// Reads of rows, by any way to find them.
const COUNTERS: [&str; 7] = ["first", "key", "last", "next", "prev", "rnd", "rnd_next"];

/// The counters of a connection before a read.
pub(super) struct RowCounter {
    before: u64,
    /// Rows that a query of the counters reads itself.
    own: u64,
}

impl RowCounter {
    /// `None` without a meter, or if the server does not provide the counters.
    pub(super) async fn start(
        connection: &mut Conn,
        meter: Option<&ReadMeter>,
    ) -> Result<Option<Self>, Error> {
        let Some(meter) = meter else { return Ok(None) };
        let begun = Instant::now();
        let Some(first) = rows_read(connection).await? else { return Ok(None) };
        let Some(before) = rows_read(connection).await? else { return Ok(None) };
        meter.add_overhead(begun);
        Ok(Some(Self { before, own: before.saturating_sub(first) }))
    }

    /// Adds the rows since the start to the meter.
    pub(super) async fn stop(
        counter: Option<Self>,
        connection: &mut Conn,
        meter: Option<&ReadMeter>,
    ) -> Result<(), Error> {
        let (Some(Self { before, own }), Some(meter)) = (counter, meter) else { return Ok(()) };
        let begun = Instant::now();
        if let Some(after) = rows_read(connection).await? {
            meter.add_examined(after.saturating_sub(before).saturating_sub(own));
        }
        meter.add_overhead(begun);
        Ok(())
    }
}

/// The rows that were read on this connection so far; `None` if the server does not say.
async fn rows_read(connection: &mut Conn) -> Result<Option<u64>, Error> {
    let rows: Result<Vec<Row>, Error> =
        connection.query("SHOW SESSION STATUS LIKE 'Handler\\_read\\_%'").await;
    let rows = match rows {
        Ok(rows) => rows,
        Err(Error::Server(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut total = None;
    for row in &rows {
        let (name, count): (String, String) = (field(row, 0)?, field(row, 1)?);
        let counter = name.strip_prefix("Handler_read_");
        if counter.is_some_and(|counter| COUNTERS.contains(&counter)) {
            *total.get_or_insert(0) += count.parse::<u64>().unwrap_or_default();
        }
    }
    Ok(total)
}
