//! Memory alone, measured in one thread: filled from a world without databases, then read as a
//! request reads it, and written as a log writes it. No page may need a database.

mod applied;
mod filled;
mod report;

use anyhow::{Result, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::filled::{EngineRequest, FilledMemory};
pub(crate) use self::report::EngineReport;
use super::mix::Readers;
use super::world::World;
use crate::shard::Fleet;

/// Requests that are chosen before they are measured, again and again.
const REQUESTS: usize = 50_000;
/// Readers of deep pages; each has to be read down to there first.
const DEEP_READERS: usize = 100;
/// Pages of each kind that are compared with the world.
const CHECKED: usize = 300;
/// Readers who follow about so many.
const FOLLOWEES: [usize; 3] = [50, 500, 5_000];

/// What is measured.
#[derive(Debug)]
pub(crate) struct EnginePlan {
    pub(crate) seed: u64,
    /// For each kind of page.
    pub(crate) seconds: f64,
    /// A file of a server's log, and the database in it whose rows count.
    pub(crate) log: Option<(Vec<u8>, String)>,
}

/// Fills a memory from the world and measures it. `fleet` has one shard, and is never asked.
pub(crate) fn engine(world: World, fleet: &Fleet, plan: &EnginePlan) -> Result<EngineReport> {
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

/// The kinds of page that are measured, with whom they are read for.
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
        bail!("nobody reads in this world");
    }
    Ok(kinds)
}
