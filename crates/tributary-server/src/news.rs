//! `GET /v1/users/{user_id}/feed/new`: what has become visible in a home timeline since a token.

use axum::extract::{Query, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tributary::internal::{Fleet, fleet};
use tributary::news::{News, NewsEvent, NewsPost, NewsRequest};
use tributary::{Freshness, Tributary, UserId};

use super::auth::{Allowed, CursorKeys, Purpose, ReadHome};
use super::error::ApiError;
use super::limits::Cost;
use super::openapi::schemas::{AtLeast, NewsAnswer, NewsQuery, OfUser};
use super::query::{freshness_of, parse_limit};
use super::timeline::{costing, json, json_bytes, set_freshness_lost};
use super::wire::{StaleShard, push_end, push_post, shard_names, stale_shards};

#[derive(Deserialize)]
pub(super) struct RawParameters {
    since: Option<String>,
    limit: Option<String>,
    count: Option<String>,
}

/// The fields after the events.
#[derive(Serialize)]
struct NewsEnd<'a> {
    more: bool,
    gap: bool,
    token: Option<String>,
    complete: bool,
    missing_shards: Vec<&'a str>,
    stale_shards: Vec<StaleShard<'a>>,
}

/// The answer with `count=1`.
#[derive(Serialize)]
struct Count<'a> {
    posts: usize,
    gap: bool,
    complete: bool,
    missing_shards: Vec<&'a str>,
    stale_shards: Vec<StaleShard<'a>>,
}

/// An event without a post.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Event {
    Delete { author_id: String, post_id: String },
    Follow(NewFollow),
    Unfollow(NewFollow),
    Mute(NewFollow),
    Unmute(NewFollow),
    Block(NewFollow),
    Unblock(NewFollow),
}

#[derive(Serialize)]
struct NewFollow {
    user_id: String,
    token: String,
}

/// `GET /v1/users/{user_id}/feed/new`.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/feed/new", operation_id = "news", tag = "timelines",
    summary = "What became visible in a home timeline since a token", description = "",
    params(OfUser, NewsQuery, AtLeast),
    responses((
        status = 200, description = "The events; only their number with `count=1`",
        body = NewsAnswer,
        links(
            ("since" = (
                operation_id = "news",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("since" = "$response.body#/token")
                )
            ))
        )
    ))
)]
pub(super) async fn news(
    State(tributary): State<Tributary>,
    State(keys): State<CursorKeys>,
    Allowed { user, .. }: Allowed<ReadHome>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query = Query::<RawParameters>::try_from_uri(&uri);
    let Query(RawParameters { since, limit, count }) = query
        .map_err(|_| ApiError::BadQuery("each parameter may appear once and must be UTF-8"))?;
    let since = since.map(|token| open_token(&keys, &token, "`since`")).transpose()?;
    let mut request = NewsRequest::default()
        .limit(parse_limit(limit.as_deref())?)
        .at_least(freshness_of(&headers, &keys)?);
    request.since = since;
    let is_count = match count.as_deref() {
        None => false,
        Some("1") if request.since.is_some() => true,
        Some("1") => return Err(ApiError::BadQuery("`count` needs `since`")),
        Some(_) => return Err(ApiError::BadQuery("the only value of `count` is `1`")),
    };
    let (news, mut response) = if is_count {
        let (posts, news) = tributary.count_new_posts(user, &request).await?;
        let count = json(&Count::new(posts, &news, fleet(&tributary)));
        (news, count)
    } else {
        let news = tributary.news(user, &request).await?;
        let body = news_json(&news, &keys, fleet(&tributary)).map_err(|_| ApiError::Internal)?;
        (news, json_bytes(body.into()))
    };
    if news.freshness_lost {
        set_freshness_lost(response.headers_mut());
    }
    Ok(costing(Cost::of_news(&news), response))
}

/// The token of an earlier answer. The error names where it is from.
pub(super) fn open_token(
    keys: &CursorKeys,
    token: &str,
    from: &'static str,
) -> Result<Freshness, ApiError> {
    let opened = keys.open(Purpose::Freshness, token).ok().and_then(|text| text.parse().ok());
    opened.ok_or(ApiError::BadFreshness(from))
}

impl<'a> Count<'a> {
    fn new(posts: usize, news: &News, fleet: &'a Fleet) -> Self {
        Self {
            posts,
            gap: news.gap,
            complete: news.is_complete(),
            missing_shards: shard_names(&news.missing, fleet),
            stale_shards: stale_shards(&news.stale, fleet),
        }
    }
}

/// Encodes the answer. Posts are already JSON and are copied unchanged.
fn news_json(news: &News, keys: &CursorKeys, fleet: &Fleet) -> serde_json::Result<Vec<u8>> {
    let mut json = br#"{"events":["#.to_vec();
    for (index, event) in news.events.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        push_event(&mut json, event, keys)?;
    }
    let token = Some(&news.freshness).filter(|token| !token.is_empty());
    let end = NewsEnd {
        more: news.more,
        gap: news.gap,
        token: token.map(|token| keys.seal_freshness(token)),
        complete: news.is_complete(),
        missing_shards: shard_names(&news.missing, fleet),
        stale_shards: stale_shards(&news.stale, fleet),
    };
    push_end(&mut json, &end)?;
    Ok(json)
}

/// The type of an event.
pub(super) fn type_of(event: &NewsEvent) -> &'static str {
    match event {
        NewsEvent::Post(_) => "post",
        NewsEvent::Update(_) => "update",
        NewsEvent::Delete { .. } => "delete",
        NewsEvent::Follow { .. } => "follow",
        NewsEvent::Unfollow { .. } => "unfollow",
        NewsEvent::Mute { .. } => "mute",
        NewsEvent::Unmute { .. } => "unmute",
        NewsEvent::Block { .. } => "block",
        NewsEvent::Unblock { .. } => "unblock",
    }
}

/// Encodes an event as an object with its type.
pub(super) fn push_event(
    json: &mut Vec<u8>,
    event: &NewsEvent,
    keys: &CursorKeys,
) -> serde_json::Result<()> {
    let follow = |user: &UserId, freshness| NewFollow {
        user_id: user.to_string(),
        token: keys.seal_freshness(freshness),
    };
    let event = match event {
        NewsEvent::Post(post) | NewsEvent::Update(post) => {
            return push_post_event(json, type_of(event), post);
        }
        NewsEvent::Delete { author, post } => {
            Event::Delete { author_id: author.to_string(), post_id: post.to_string() }
        }
        NewsEvent::Follow { user, freshness } => Event::Follow(follow(user, freshness)),
        NewsEvent::Unfollow { user, freshness } => Event::Unfollow(follow(user, freshness)),
        NewsEvent::Mute { user, freshness } => Event::Mute(follow(user, freshness)),
        NewsEvent::Unmute { user, freshness } => Event::Unmute(follow(user, freshness)),
        NewsEvent::Block { user, freshness } => Event::Block(follow(user, freshness)),
        NewsEvent::Unblock { user, freshness } => Event::Unblock(follow(user, freshness)),
    };
    serde_json::to_writer(json, &event)
}

fn push_post_event(json: &mut Vec<u8>, kind: &str, post: &NewsPost) -> serde_json::Result<()> {
    json.extend(format!(r#"{{"type":"{kind}","post":"#).as_bytes());
    push_post(json, post.json(), post.names())?;
    json.push(b'}');
    Ok(())
}
