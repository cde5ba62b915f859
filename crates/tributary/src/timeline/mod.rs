//! The read path: one page of a home timeline or of an author timeline.
//!
//! This module makes all decisions of a read; `shard` fetches rows, `memory` holds copies of them:
//! 1. `View` decides which parts of memory may be used, and `required` waits for the request's
//!    token. The `Plan` of a page says which of its authors are read from memory.
//! 2. The first attempt, `from_memory`, waits for nothing: `warm` and `recent` collect posts.
//! 3. If memory does not have all of the page, `from_databases` reads the rest. `merge` decides
//!    which authors are queried, in waves over the shards that own them.
//! 4. `flight` lets requests for the same page share these queries.
//!
//! `around` joins two pages, and `collapse` shows each post of several pages once. `news` reads
//! what has changed since a token, and `live` waits for it.

mod around;
mod collapse;
mod draft;
mod due;
mod events;
pub mod explain;
mod flight;
mod from_databases;
mod from_memory;
mod hidden;
pub(crate) mod live;
mod merge;
mod names;
pub mod news;
mod page;
mod plan;
mod recent;
mod recorder;
mod required;
mod view;
mod warm;

use thiserror::Error;

use self::explain::{Explanation, MemoryUse, StepKind};
use self::recorder::Recorder;

pub use self::around::AroundError;
pub(crate) use self::around::home_timeline_around;
pub use self::draft::{Draft, DraftPost};
use self::flight::Flights;
pub(crate) use self::names::names;
pub use self::page::{Limit, Page, PageRequest};
pub(crate) use self::view::View;
use crate::cursor::Cursor;
use crate::model::{FOLLOWEES_MAX, UserId};

/// Why a timeline cannot be read at all. A shard that does not answer is not an error; it makes
/// the page incomplete.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The reader follows more than [`crate::Tributary::FOLLOWEES_MAX`] users.
    #[error(
        "the user follows more than {FOLLOWEES_MAX} users, the limit for reading a home timeline"
    )]
    TooManyFollowees,
}

/// The timeline that a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Timeline {
    Home(Home),
    /// The posts of this author.
    Author(UserId),
}

/// The home timeline of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Home {
    reader: UserId,
    /// Whether it has the reader's own posts, as if the reader followed itself.
    includes_self: bool,
}

impl Home {
    fn of(reader: UserId, request: &PageRequest) -> Self {
        Self { reader, includes_self: request.include_self }
    }
}

/// The page that requests must have in common to share a read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    timeline: Timeline,
    cursor: Cursor,
    limit: Limit,
}

/// The parts that an attempt at a page may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// Shards that would have to be queried are missing from the page.
    MemoryOnly,
    WithDatabases,
}

/// The shared reads of timeline pages that are in flight.
pub(crate) type TimelineFlights = Flights<FlightKey, Result<Draft, ReadError>>;

/// One page of `reader`'s home timeline: posts by everyone the reader follows, except by users that
/// the reader mutes or blocks, and by users that block the reader.
///
/// Cost from memory: the head of every followee, and the tails of the few that can be on the page.
/// Cost of what memory does not have: one query for the follow list on the reader's shard, then at
/// most six waves. A wave queries all shards that own a followee still in question, at the same
/// time. All waves together read at most `4 x followees + 16 x limit` rows. A page towards newer
/// posts whose anchor was deleted may need a seventh wave, and so may followees with hidden posts.
/// If the shards store blocks, one query of each shard before these waves reads those of its
/// authors, at most one row for each. An unknown reader has an empty timeline.
pub(crate) async fn home_timeline(
    view: &mut View<'_>,
    reader: UserId,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    let timeline = Timeline::Home(Home::of(reader, request));
    match request.collapse_reposts {
        false => read(view, timeline, request).await,
        true => Box::pin(collapse::page(view, timeline, request)).await,
    }
}

/// One page of the posts of `author`, at the same cost with one followee.
pub(crate) async fn author_timeline(
    view: &mut View<'_>,
    author: UserId,
    request: &PageRequest,
) -> Draft {
    let draft = read(view, Timeline::Author(author), request).await;
    draft.expect("one author is not too many")
}

/// One page of `reader`'s home timeline, with an explanation of how it was read.
pub(crate) async fn explained_home_timeline(
    view: View<'_>,
    reader: UserId,
    request: &PageRequest,
    memory: MemoryUse,
) -> (Result<Draft, ReadError>, Explanation) {
    let recorder = Recorder::new();
    let mut view = view.explained_by(&recorder, memory);
    let outcome = read(&mut view, Timeline::Home(Home::of(reader, request)), request).await;
    let explanation = {
        let outcome = outcome.as_ref().map_err(|error| *error);
        recorder.explain(&view, (reader, &request.cursor), outcome)
    };
    (outcome, explanation)
}

/// Reads the page from memory alone; if memory does not have it all, reads the databases as well.
async fn read(
    view: &mut View<'_>,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    if !view.has_reached(&request.at_least) {
        view.wait_until_fresh().await;
        view.end_step(StepKind::Token);
    }
    match from_memory::page(view, timeline, request) {
        Some(page) => Ok(page),
        // Boxed, so that the many pages from memory do not carry the size of this future.
        None => Box::pin(read_cold(view, timeline, request)).await,
    }
}

/// One page of `reader`'s home timeline, if all of it is in fresh memory that has reached the
/// token of the request. Does not wait and starts nothing.
pub(crate) fn warm_home_timeline(
    view: &mut View<'_>,
    reader: UserId,
    request: &PageRequest,
) -> Option<Draft> {
    let reached = view.has_reached(&request.at_least);
    let timeline = Timeline::Home(Home::of(reader, request));
    reached.then(|| from_memory::page(view, timeline, request))?
}

/// Reads a page that needs the databases, together with other requests for it where possible.
async fn read_cold(
    view: &mut View<'_>,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    view.wait_until_visible().await;
    view.end_step(StepKind::Visible);
    // A shared read may not reach this request's token, in memory or in its horizon. A late request
    // must not read for others, since the page would be incomplete for those that have more time.
    // The figures of an explained page are those of its own read.
    let is_alone = view.memory_lags() || view.is_late() || view.is_ahead() || view.is_explained();
    if is_alone {
        return read_whole(view, Attempt::WithDatabases, timeline, request).await;
    }
    let flight = FlightKey { timeline, cursor: request.cursor.clone(), limit: request.limit };
    let read = || read_shared(view, &flight);
    match view.flights().share(&flight, view.deadline(), read).await {
        Some(answer) => answer.map(|draft| view.adapt_shared(draft)),
        // The deadline has passed: the page has only what memory holds.
        None => read_whole(view, Attempt::MemoryOnly, timeline, request).await,
    }
}

/// Reads a page for several requests; the result does not depend on the request that reads it.
async fn read_shared(view: &View<'_>, flight: &FlightKey) -> Result<Draft, ReadError> {
    let mut view = view.renewed();
    let FlightKey { timeline, cursor, limit } = flight.clone();
    let include_self = matches!(timeline, Timeline::Home(Home { includes_self: true, .. }));
    let request = PageRequest { cursor, limit, include_self, ..PageRequest::default() };
    read_whole(&mut view, Attempt::WithDatabases, timeline, &request).await
}

/// Reads the page, if necessary again with stale memory, and sets how fresh it is.
async fn read_whole(
    view: &mut View<'_>,
    attempt: Attempt,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    let mut draft = from_databases::page(view, attempt, timeline, request).await?;
    // A server was found unreachable during the read; stale memory is better than a missing shard.
    if view.use_stale_memory(&draft.missing) {
        draft = Box::pin(from_databases::page(view, attempt, timeline, request)).await?;
    }
    view.end_step(StepKind::Merge);
    view.finish(&mut draft).await;
    view.end_step(StepKind::LogEnds);
    Ok(draft)
}
