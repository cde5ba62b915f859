//! Measures memory alone, in one thread and without databases.
//!
//! It fills a memory from a world, then reads pages by the server's read path and applies a
//! recorded log by the server's writer. A page that needs a database ends the measurement.

mod applied;
mod filled;
mod report;

use anyhow::{Result, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tributary::internal::Fleet;

use self::filled::{EngineRequest, FilledMemory};
pub(crate) use self::report::EngineReport;
use super::mix::Readers;
use super::world::World;

/// Requests that are drawn before the measurement; it repeats them.
const REQUESTS: usize = 50_000;
/// Readers of deep pages. All pages above the deep one are read first, before the measurement.
const DEEP_READERS: usize = 100;
/// Pages of each kind that are compared with the world.
const CHECKED: usize = 300;
/// Pages are also measured for readers with about this many followees.
const FOLLOWEES: [usize; 3] = [50, 500, 5_000];

/// The parameters of a measurement.
#[derive(Debug)]
pub struct EnginePlan {
    /// The seed of the requests.
    pub seed: u64,
    /// Measured seconds for each kind of page.
    pub seconds: f64,
    /// The bytes of a server's log file, and the database whose rows are applied.
    pub log: Option<(Vec<u8>, String)>,
}

/// Fills a memory from the world and measures it. `fleet` has one shard, which is never queried.
///
/// # Errors
/// If the world does not fit into memory, or if a page is wrong or needs a database. If the log
/// cannot be applied; see `applied::measure`.
pub fn engine(world: World, fleet: &Fleet, plan: &EnginePlan) -> Result<EngineReport> {
    let mut filled = FilledMemory::new(world, fleet)?;
    let mut timed = Vec::new();
    for (name, requests) in requests(&mut filled, plan.seed)? {
        let checked = requests.iter().take(CHECKED);
        for request in checked {
            filled.check(request)?;
        }
        timed.push(filled.time(name, &requests, plan.seconds)?);
    }
    let applied = match &plan.log {
        Some((bytes, database)) => {
            Some(applied::measure(&mut filled, bytes, database, plan.seconds)?)
        }
        None => None,
    };
    Ok(EngineReport { seed: plan.seed, size: filled.size(), room: filled.room(), timed, applied })
}

/// The measured kinds of pages, each with its requests.
fn requests(filled: &mut FilledMemory<'_>, seed: u64) -> Result<Vec<(String, Vec<EngineRequest>)>> {
    let readers = Readers::new(filled.size().users, seed);
    let mut random = StdRng::seed_from_u64(seed);
    let newest: Vec<EngineRequest> =
        (0..REQUESTS).map(|_| EngineRequest::newest(readers.choose(&mut random))).collect();
    let mut polls = Vec::new();
    for request in &newest {
        polls.push(filled.poll_after(request)?);
    }
    let mut kinds = vec![("newest page".to_owned(), newest.clone()), ("empty poll".into(), polls)];
    for number in [10, 100] {
        let mut deep = Vec::new();
        for request in newest.iter().take(100 * DEEP_READERS) {
            deep.extend(filled.page_number(request, number)?);
            if deep.len() == DEEP_READERS {
                break;
            }
        }
        kinds.push((format!("page {number}"), deep));
    }
    for followees in FOLLOWEES {
        let about = filled.readers_of(followees);
        kinds.push((
            format!("{followees} followees"),
            about.into_iter().map(EngineRequest::newest).collect(),
        ));
    }
    kinds.retain(|(_, requests)| !requests.is_empty());
    if kinds.is_empty() {
        bail!("the world has no readers");
    }
    Ok(kinds)
}
