//! A page around one post of a home timeline: the posts nearest above it, the post, and posts below
//! it. It is two ordinary pages, which meet at the edge above the post.

use thiserror::Error;

use super::{Draft, Limit, PageRequest, ReadError, View, home_timeline};
use crate::cursor::{Cursor, Edge};
use crate::model::{PostAddress, ShardId, UserId};
use crate::shard::NotStored;

/// Why there is no page around a post.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AroundError {
    /// The timeline cannot be read at all.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A shard has no index for reading a post by its address.
    #[error(transparent)]
    NotStored(#[from] NotStored),
    /// The shard of the post's author does not answer.
    #[error("the shard of the author is not available; try again")]
    Unavailable(ShardId),
}

/// The page of `reader`'s home timeline around a post. `None` if there is no such post. The post
/// need not be in the timeline: then its place is shown without it. The cursor of the request is
/// not used.
pub(crate) async fn home_timeline_around(
    view: &mut View<'_>,
    reader: UserId,
    PostAddress { author, post }: PostAddress,
    request: &PageRequest,
) -> Result<Option<Draft>, AroundError> {
    view.fleet().require_address_index()?;
    let found = view.fleet().post(author, post, view.deadline().half()).await;
    let Some(post) = found.map_err(AroundError::Unavailable)? else { return Ok(None) };
    let edge = Edge::above(post.key);
    let above = request.limit.get() / 2;
    let (above, below) = (limit(above), limit(request.limit.get() - above));
    let from = Cursor::older(edge);
    let request = PageRequest { collapse_reposts: false, ..request.clone() };
    let lower = request.clone().from(from.clone()).limit(below.unwrap_or_default());
    let mut lower = home_timeline(view, reader, &lower).await?;
    lower.queried.insert(view.fleet().placement().shard_of(author));
    let Some(above) = above else { return Ok(Some(lower)) };
    let upper = request.from(Cursor::newer(edge)).limit(above);
    let upper = home_timeline(&mut view.renewed(), reader, &upper).await?;
    Ok(Some(upper.above(lower, &from)))
}

/// A limit of this many posts; `None` for none.
fn limit(posts: usize) -> Option<Limit> {
    u8::try_from(posts).ok().and_then(Limit::new)
}
