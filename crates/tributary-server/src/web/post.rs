//! The page of one post, with the post that it answers.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use tributary::internal::{fleet, now_ms};
use tributary::posts::PostAddress;
use tributary::{Tributary, UserId};

use super::page;
use super::pages::{Visit, referred_notice};
use super::referred::Referred;
use super::view::{Frame, Notice, PostView};
use crate::auth::{Allowed, ReadHome};
use crate::error::ApiError;
use crate::limits::Cost;
use crate::timeline::costing;

#[derive(Template)]
#[template(path = "one.html")]
struct PostPage {
    frame: Frame,
    reader: UserId,
    /// The post that the post answers, if it can be shown, and the post.
    posts: Vec<PostView>,
    notices: Vec<Notice>,
    author: String,
}

/// `GET /home/{reader}/posts/{author}:{post}`.
pub(super) async fn post(
    State(tributary): State<Tributary>,
    Allowed { user: reader, other: address, .. }: Allowed<ReadHome, PostAddress>,
    visit: Visit,
) -> Result<Response, ApiError> {
    let found = tributary.post(address.author, address.post).await?;
    let post = match found.post {
        Some(post) => post,
        None if found.missing.is_empty() => return Err(ApiError::NotFound),
        None => return Err(ApiError::ShardUnavailable),
    };
    let (mut posts, mut missing, mut cost) = (Vec::new(), BTreeSet::new(), Cost::QUERY);
    if let Some(PostAddress { author, post }) = post.references.reply_to {
        let answered = tributary.post(author, post).await?;
        posts.extend(answered.post);
        missing.extend(answered.missing);
        cost = cost.plus(Cost::QUERY);
    }
    posts.push(post);
    let authors = posts.iter().map(|post| post.key.author);
    let referred = Referred::read(&tributary, reader, &posts, authors).await;
    missing.extend(&referred.missing);
    let fleet = fleet(&tributary);
    let (times, seen_by) = (fleet.times(), (reader, now_ms()));
    let template = PostPage {
        frame: visit.frame(Some(referred.names.person(reader)), "post"),
        reader,
        author: referred.names.person(address.author).name,
        posts: posts.iter().map(|post| PostView::new(post, &referred, times, seen_by)).collect(),
        notices: referred_notice(&missing, fleet).into_iter().collect(),
    };
    Ok(costing(cost.plus(referred.cost()), page(&template)))
}
