//! The first attempt at a page: from memory alone, without waiting for anything.

use std::collections::BTreeSet;

use super::draft::{Draft, DraftPost, Ends};
use super::explain::StepKind;
use super::view::View;
use super::warm::{FoundPost, Older, Span};
use super::{PageRequest, Timeline};
use crate::model::Direction;

/// The page, if memory has all of it. `None` if a database must be queried.
pub(super) fn page(
    view: &mut View<'_>,
    timeline: Timeline,
    request: &PageRequest,
) -> Option<Draft> {
    let (frees, horizon) = (view.frees(), view.horizon_of(timeline));
    let cursor = &request.cursor.within(horizon);
    let plan = match timeline {
        Timeline::Home(home) => view.plan_from_memory(home, cursor)?,
        Timeline::Author(author) => view.plan(&[author], cursor),
    };
    if !plan.from_databases.is_empty() {
        return None;
    }
    view.end_step(StepKind::Plan);
    let span = Span::of(request, cursor, plan.reader);
    let found = view.memory_posts(&plan, cursor.direction, span);
    if !found.incomplete.is_empty() {
        return None;
    }
    let mut posts = found.posts;
    let mut until = if span.is_newest { found.above } else { i64::MAX };
    if let (Direction::Newer, Some(horizon)) = (cursor.direction, horizon) {
        let shown = posts.partition_point(|post| post.key <= horizon);
        until = posts.get(shown).map_or(i64::MAX, |hidden| hidden.key.time);
        posts.truncate(shown);
    }
    let more = posts.len() > request.limit.get();
    posts.truncate(request.limit.get());
    posts.iter().for_each(FoundPost::prefetch);
    let mut draft = match cursor.direction {
        Direction::Older => {
            Draft::older(&request.cursor, from_memory(posts), more, BTreeSet::new())
        }
        Direction::Newer => {
            posts.reverse();
            let (posts, ends) = from_memory(posts);
            let older = match view.any_older(&plan, ends.bottom(cursor).within(horizon)) {
                Older::Some => true,
                Older::None => false,
                Older::Unknown(_) => return None,
            };
            Draft::newer(cursor, (posts, ends), older, BTreeSet::new())
        }
    };
    if view.frees() != frees {
        // Slots that the page was read from may have got other users.
        return None;
    }
    draft.until = until;
    draft.authors = plan.authors();
    draft.stale = plan.stale;
    view.finish_from_memory(&mut draft);
    view.end_step(StepKind::Merge);
    Some(draft)
}

fn from_memory(posts: Vec<FoundPost>) -> (Vec<DraftPost>, Ends) {
    let posts: Vec<DraftPost> = posts.into_iter().map(DraftPost::FromMemory).collect();
    let ends = Ends::of_posts(&posts);
    (posts, ends)
}
