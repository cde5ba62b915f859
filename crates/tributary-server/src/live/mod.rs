//! `GET /v1/users/{user_id}/feed/live`: what is new in a home timeline, as a stream of server-sent
//! events.
//!
//! The answer is made while its client takes it: the next events are read once the connection has
//! written the earlier ones. A client that does not read is disconnected like that of any answer.

mod streams;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use rand::RngExt;
use serde::Deserialize;
use tracing::debug;
use tributary::news::{News, SubscribeError, Subscription};
use tributary::{Freshness, Tributary};

pub(super) use self::streams::Streams;
use self::streams::{EndReason, OpenStream};
use super::auth::{Access, Action, Allowed, CursorKeys, ReadHome, Session};
use super::connections::{Exchange, LiveExchange};
use super::error::ApiError;
use super::limits::Cost;
use super::news::{open_token, push_event, type_of};
use super::openapi::schemas::{LiveQuery, OfUser};
use super::stream::counted;
use super::timeline::costing;

/// A stream without events gets a heartbeat after this time and up to [`HEARTBEAT_SPREAD`] more, so
/// that those of many streams are not due at once.
const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEAT_SPREAD: Duration = Duration::from_secs(5);
/// The time limit of the first read. The answer begins after it.
const FIRST_READ: Duration = Duration::ZERO;
/// The pause before a client connects again, in milliseconds. Each stream states another one, so
/// that the clients of a server that restarts do not return at once.
const RETRY_MS: std::ops::Range<u32> = 1_000..5_000;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Turns off the buffer of nginx for this answer.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

#[derive(Deserialize)]
pub(super) struct RawParameters {
    since: Option<String>,
}

/// The parts of the application that a stream needs.
pub(super) struct LiveParts {
    pub(super) tributary: Tributary,
    pub(super) keys: CursorKeys,
    pub(super) access: Access,
    pub(super) streams: Arc<Streams>,
}

/// Marks the answer that is a stream of events.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventStream;

/// A stream between two of its frames.
struct Live {
    tributary: Tributary,
    keys: CursorKeys,
    subscription: Subscription,
    session: Session,
    open: OpenStream,
    streams: Arc<Streams>,
    /// `None` if an application serves the routes.
    exchange: Option<LiveExchange>,
    /// The answer of the first read, which begins the stream.
    first: Option<News>,
    /// The token that the client has.
    sent: Option<String>,
}

/// `GET /v1/users/{user_id}/feed/live`.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/feed/live", operation_id = "live", tag = "timelines",
    summary = "What becomes visible in a home timeline, as server-sent events", description = "",
    params(
        OfUser,
        LiveQuery,
        ("Last-Event-ID" = Option<String>, Header,
         description = "The `id` of the last event; stronger than `since`")
    ),
    responses((
        status = 200,
        description = "A stream of the events of `feed/new`, and of `gap`",
        body = String, content_type = "text/event-stream"
    ))
)]
pub(super) async fn live(
    State(LiveParts { tributary, keys, access, streams }): State<LiveParts>,
    Allowed { user, .. }: Allowed<ReadHome>,
    exchange: Option<Extension<Arc<Exchange>>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let since = start(&headers, &uri, &keys)?;
    // The credential is read first, so that no revocation is missed.
    let session = Session::new(&access, &headers, (Action::ReadHome, user));
    let open = streams.open(user)?;
    let mut subscription = tributary.subscribe(user, since).map_err(|error| {
        if error == SubscribeError::Full {
            streams.refuse();
        }
        ApiError::from(error)
    })?;
    let first = tributary.next_news(&mut subscription, FIRST_READ).await?;
    let cost = Cost::of_news(&first);
    let exchange = exchange.map(|Extension(exchange)| LiveExchange::new(exchange));
    // In a box, because the body has several places for it.
    let live = Box::new(Live {
        tributary,
        keys,
        subscription,
        session,
        open,
        streams,
        exchange,
        first: Some(first),
        sent: None,
    });
    let body = Body::from_stream(unfold(live, Live::next));
    let kind = HeaderValue::from_static("text/event-stream");
    let unbuffered = HeaderValue::from_static("no");
    let headers = [(header::CONTENT_TYPE, kind), (ACCEL_BUFFERING, unbuffered)];
    Ok(costing(cost, (Extension(EventStream), headers, body).into_response()))
}

/// The token to begin with: of `Last-Event-ID`, or else of the parameter `since`.
fn start(headers: &HeaderMap, uri: &Uri, keys: &CursorKeys) -> Result<Option<Freshness>, ApiError> {
    if let Some(id) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) {
        return open_token(keys, id.to_str().unwrap_or_default(), "Last-Event-ID").map(Some);
    }
    let query = Query::<RawParameters>::try_from_uri(uri);
    let Query(RawParameters { since }) = query
        .map_err(|_| ApiError::BadQuery("each parameter may appear once and must be UTF-8"))?;
    since.map(|token| open_token(keys, &token, "`since`")).transpose()
}

impl Live {
    /// The next frame of the stream. `None` at its end.
    async fn next(mut self: Box<Self>) -> Option<(Result<Bytes, axum::Error>, Box<Self>)> {
        match self.frame().await {
            Ok(frame) => Some((Ok(frame), self)),
            Err(reason) => {
                debug!(?reason, "Stream ends");
                self.open.reason = reason;
                None
            }
        }
    }

    async fn frame(&mut self) -> Result<Bytes, EndReason> {
        let news = self.news().await?;
        // Also the events that were read before a revocation are for valid credentials only.
        self.session.valid_for(HEARTBEAT).ok_or(EndReason::Credential)?;
        let events = u64::try_from(news.events.len()).unwrap_or(0) + u64::from(news.gap);
        self.streams.events.fetch_add(events, Ordering::Relaxed);
        let frame = Bytes::from(self.encode(&news).map_err(|_| EndReason::Unreadable)?);
        let Some(exchange) = &self.exchange else { return Ok(frame) };
        let held = exchange.hold(frame.len()).ok_or(EndReason::ByteLimit)?;
        Ok(counted(frame, held))
    }

    /// Waits for news, or for the next heartbeat.
    async fn news(&mut self) -> Result<News, EndReason> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let spread = rand::rng().random_range(Duration::ZERO..HEARTBEAT_SPREAD);
        loop {
            let patience = self.session.valid_for(HEARTBEAT + spread);
            let patience = patience.ok_or(EndReason::Credential)?;
            let Self { tributary, subscription, session, open, .. } = self;
            tokio::select! {
                news = tributary.next_news(subscription, patience) => {
                    return news.map_err(|error| {
                        debug!(%error, "Timeline cannot be read any more; its stream ends");
                        EndReason::Unreadable
                    });
                }
                // The credential is checked again.
                () = session.changed() => {}
                reason = open.ended() => return Err(reason),
            }
        }
    }

    /// Encodes events as `text/event-stream`. Without events, the frame moves the token of the
    /// client, or is a comment.
    fn encode(&mut self, news: &News) -> serde_json::Result<Vec<u8>> {
        let mut frame = Vec::new();
        if self.sent.is_none() {
            let retry = rand::rng().random_range(RETRY_MS);
            frame.extend(format!("retry: {retry}\n").into_bytes());
        }
        debug_assert_eq!(news.events.len(), news.tokens.len(), "each event has a token");
        for (event, token) in news.events.iter().zip(&news.tokens) {
            let (name, token) = (type_of(event), self.keys.seal_freshness(token));
            frame.extend(format!("event: {name}\nid: {token}\ndata: ").into_bytes());
            push_event(&mut frame, event, &self.keys)?;
            frame.extend(b"\n\n");
            self.sent = Some(token);
        }
        let token = self.keys.seal_freshness(&news.freshness);
        if news.gap {
            frame.extend(
                format!("event: gap\nid: {token}\ndata: {{\"type\":\"gap\"}}\n\n").into_bytes(),
            );
        } else if self.sent.as_ref() != Some(&token) {
            frame.extend(format!("id: {token}\n\n").into_bytes());
        } else if frame.is_empty() {
            frame.extend(b":\n\n");
        }
        self.sent = Some(token);
        Ok(frame)
    }
}
