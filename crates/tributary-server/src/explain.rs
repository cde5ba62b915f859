//! `explain=1` on a home timeline: the page, and how it was read. `docs/api.md` has the fields.

use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Query, State};
use axum::http::Uri;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tributary::explain::{
    Explanation, LogState, LogTrust, MemorySearch, MemoryUse, PartState, ShardPart, ShardQueries,
    Step, StepKind, Wave,
};
use tributary::internal::{Draft, Fleet, SentPage, fleet, rfc3339_ms};
use tributary::{ReadError, Tributary, UserId};
use utoipa::ToSchema;

use super::auth::{Allowed, Explain, Purpose};
use super::conditional::Tag;
use super::error::{ApiError, ErrorExplanation};
use super::limits::Cost;
use super::query::Parameters;
use super::timeline::{accepted, costing, render_home, response_of};
use super::wire::push_field;

/// The parameters `explain` and `memory`: `None` for a page that is not explained.
pub(super) struct ExplainParameter(pub(super) Option<MemoryUse>);

#[derive(Deserialize)]
struct RawParameters {
    explain: Option<String>,
    memory: Option<String>,
}

impl ExplainParameter {
    /// Whether the query has the parameter `explain`, with any value.
    pub(super) fn is_in(uri: &Uri) -> bool {
        Query::<RawParameters>::try_from_uri(uri).is_ok_and(|query| query.0.explain.is_some())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ExplainParameter {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = Query::<RawParameters>::try_from_uri(&parts.uri);
        let Query(RawParameters { explain, memory }) = query
            .map_err(|_| ApiError::BadQuery("each parameter may appear once and must be UTF-8"))?;
        match (explain.as_deref(), memory.as_deref()) {
            (None, None) => Ok(Self(None)),
            (Some("1"), None) => Ok(Self(Some(MemoryUse::AsUsual))),
            (Some("1"), Some("off")) => Ok(Self(Some(MemoryUse::Off))),
            (Some("1"), Some(_)) => Err(ApiError::BadQuery("the only value of `memory` is `off`")),
            (None, Some(_)) => Err(ApiError::BadQuery("`memory` needs `explain=1`")),
            (Some(_), _) => Err(ApiError::BadQuery("the only value of `explain` is `1`")),
        }
    }
}

/// The parameter `memory` of a page that must be explained: other pages do not exist here.
pub(super) struct OnlyExplained(MemoryUse);

impl<S: Send + Sync> FromRequestParts<S> for OnlyExplained {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let ExplainParameter(memory) = ExplainParameter::from_request_parts(parts, state).await?;
        memory.map(Self).ok_or(ApiError::NotFound)
    }
}

/// `GET /v1/users/{user_id}/feed?explain=1` on the listener for operators, which has no other
/// pages.
pub(super) async fn feed_for_operators(
    State(tributary): State<Tributary>,
    OnlyExplained(memory): OnlyExplained,
    Allowed { user, viewer, .. }: Allowed<Explain>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    explained_feed(&tributary, (user, viewer), &parameters, memory).await
}

/// A page that was read, and how.
pub(super) struct ExplainedPage<'a> {
    pub(super) page: Result<Draft, ReadError>,
    pub(super) explained: Explained<'a>,
    pub(super) cost: Cost,
}

/// Reads a page and explains it. A user does not get the names of servers and logs, positions in
/// logs, and the texts of failures.
pub(super) async fn explained_page<'a>(
    tributary: &'a Tributary,
    (reader, viewer): (UserId, Option<UserId>),
    parameters: &Parameters,
    memory: MemoryUse,
) -> Result<ExplainedPage<'a>, ApiError> {
    let request = parameters.page(Purpose::Home(reader))?;
    let page_cache = (memory == MemoryUse::AsUsual).then(|| {
        let query = (parameters.sealed_cursor(), request.limit.get(), request.include_self);
        let begun = Instant::now();
        let hit = SentPage::cached(tributary, reader, query, (&request.at_least, begun)).is_some();
        ExplainedPageCache { hit, us: micros(begun.elapsed()) }
    });
    let (page, explanation) = Draft::explained(tributary, reader, &request, memory).await;
    let shown = Shown { fleet: fleet(tributary), with_reasons: viewer.is_none() };
    let explained = Explained::new(&explanation, page_cache, shown);
    let cost = Cost::of_explained(page.as_ref().ok(), memory);
    Ok(ExplainedPage { page, explained, cost })
}

/// The page and its explanation, or an error and its explanation.
pub(super) async fn explained_feed(
    tributary: &Tributary,
    (reader, viewer): (UserId, Option<UserId>),
    parameters: &Parameters,
    memory: MemoryUse,
) -> Result<Response, ApiError> {
    let keys = &parameters.cursor_keys;
    let ExplainedPage { page, explained, cost } =
        explained_page(tributary, (reader, viewer), parameters, memory).await?;
    let page = page.map_err(ApiError::from);
    let page = page.and_then(|page| Ok((accepted(&page, parameters)?, page)));
    let (kind, page) = match page {
        Ok(page) => page,
        Err(error) => {
            let mut response = error.into_response();
            let json = serde_json::to_value(&explained).map_err(|_| ApiError::Internal)?;
            response.extensions_mut().insert(ErrorExplanation(json));
            return Ok(costing(cost, response));
        }
    };
    let json = serde_json::to_vec(&explained).map_err(|_| ApiError::Internal)?;
    let query = (parameters.limit, parameters.lasting());
    let sent = render_home(&page, tributary, keys, (reader, query))?;
    let mut body = Vec::from(sent.body);
    push_field(&mut body, "explain", &json);
    let Tag(tag) = Tag::of(&body);
    let sent = SentPage { body: Bytes::from(body), tag, ..sent };
    Ok(costing(cost, response_of(sent, &page, (keys, kind))))
}

/// The JSON of an explanation, as [`crate::explanation_json`] prints it.
pub(super) fn to_json(
    explanation: &Explanation,
    fleet: &Fleet,
) -> serde_json::Result<serde_json::Value> {
    let shown = Shown { fleet, with_reasons: true };
    serde_json::to_value(Explained::new(explanation, None, shown))
}

/// The fleet, and whether the client may see the names of servers and the texts of failures.
#[derive(Clone, Copy)]
struct Shown<'a> {
    fleet: &'a Fleet,
    with_reasons: bool,
}

/// How a page was read.
#[derive(Serialize, ToSchema)]
pub(super) struct Explained<'a> {
    pub(super) reader: String,
    pub(super) reader_shard: &'a str,
    pub(super) from: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) page_cache: Option<ExplainedPageCache>,
    #[schema(required = true)]
    pub(super) memory: Option<ExplainedSearch>,
    #[schema(required = true)]
    pub(super) followees: Option<usize>,
    #[schema(required = true)]
    pub(super) token_reached: Option<bool>,
    pub(super) shards: Vec<ExplainedShard<'a>>,
    pub(super) waves: Vec<ExplainedWave<'a>>,
    pub(super) merge: ExplainedMerge,
    pub(super) totals: ExplainedTotals,
    pub(super) steps: Vec<ExplainedStep>,
}

/// Whether a request without `explain` gets the page from the page cache.
#[derive(Serialize, ToSchema)]
pub(super) struct ExplainedPageCache {
    pub(super) hit: bool,
    pub(super) us: u64,
}

/// The search in memory.
#[derive(Serialize, ToSchema)]
pub(super) struct ExplainedSearch {
    pub(super) search: &'static str,
    pub(super) why: String,
    pub(super) authors_read: usize,
    pub(super) posts: usize,
}

/// The part of a shard.
#[derive(Serialize, ToSchema)]
pub(super) struct ExplainedShard<'a> {
    pub(super) shard: &'a str,
    #[schema(required = true)]
    pub(super) server: Option<&'a str>,
    pub(super) followees: usize,
    pub(super) in_memory: usize,
    pub(super) too_short: usize,
    pub(super) queried: bool,
    pub(super) why: String,
    pub(super) statements: u64,
    pub(super) rows: u64,
    #[schema(required = true)]
    pub(super) rows_examined: Option<u64>,
    pub(super) wait_us: u64,
    pub(super) us: u64,
    pub(super) posts: usize,
    pub(super) posts_from_memory: usize,
    pub(super) state: &'static str,
    #[schema(required = true)]
    pub(super) as_of: Option<String>,
    #[schema(required = true)]
    pub(super) log: Option<ExplainedLog>,
}

/// The log that memory follows for a shard.
#[derive(Serialize, ToSchema)]
pub(super) struct ExplainedLog {
    #[schema(required = true)]
    pub(super) log: Option<String>,
    #[schema(required = true)]
    pub(super) position: Option<String>,
    pub(super) memory: &'static str,
}

/// Queries to several shards at the same time.
#[derive(Serialize, ToSchema)]
pub(super) struct ExplainedWave<'a> {
    pub(super) reads: &'static str,
    pub(super) why: &'static str,
    pub(super) asked: usize,
    pub(super) us: u64,
    pub(super) shards: Vec<ExplainedQueries<'a>>,
}

/// The queries of a wave to one shard.
#[derive(Serialize, ToSchema)]
pub(super) struct ExplainedQueries<'a> {
    pub(super) shard: &'a str,
    pub(super) statements: u64,
    pub(super) rows: u64,
    #[schema(required = true)]
    pub(super) rows_examined: Option<u64>,
    pub(super) wait_us: u64,
    pub(super) us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) reason: Option<String>,
}

/// The posts of the page.
#[derive(Serialize, ToSchema)]
pub(super) struct ExplainedMerge {
    pub(super) posts: usize,
    pub(super) from_memory: usize,
    pub(super) from_databases: usize,
}

/// The sums of all waves.
#[derive(Serialize, ToSchema)]
pub(super) struct ExplainedTotals {
    pub(super) waves: usize,
    pub(super) statements: u64,
    pub(super) rows: u64,
    #[schema(required = true)]
    pub(super) rows_examined: Option<u64>,
    pub(super) us: u64,
}

/// A step with its time.
#[derive(Serialize, ToSchema)]
pub(super) struct ExplainedStep {
    pub(super) step: &'static str,
    /// The number of a wave, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) wave: Option<usize>,
    pub(super) us: u64,
}

impl<'a> Explained<'a> {
    fn new(
        explanation: &Explanation,
        page_cache: Option<ExplainedPageCache>,
        shown: Shown<'a>,
    ) -> Self {
        let health = shown.fleet.health();
        let server = |part: &ShardPart| health.get(part.shard.index()).and_then(|of| of.server);
        let part = |part: &ShardPart| ExplainedShard::new(part, server(part), shown);
        let posts: usize = explanation.shards.iter().map(|part| part.posts).sum();
        let from_memory = explanation.shards.iter().map(|part| part.posts_from_memory).sum();
        let cost = explanation.cost();
        let is_cached = page_cache.as_ref().is_some_and(|cache| cache.hit);
        Self {
            reader: explanation.reader.to_string(),
            reader_shard: shown.fleet.shard_name(explanation.reader_shard),
            from: if is_cached { "page_cache" } else { explanation.source.name() },
            page_cache,
            memory: explanation.search.map(ExplainedSearch::new),
            followees: explanation.followees,
            token_reached: explanation.reached_token,
            shards: explanation.shards.iter().map(part).collect(),
            waves: explanation.waves.iter().map(|wave| ExplainedWave::new(wave, shown)).collect(),
            merge: ExplainedMerge { posts, from_memory, from_databases: posts - from_memory },
            totals: ExplainedTotals {
                waves: explanation.waves.len(),
                statements: cost.statements,
                rows: cost.rows,
                rows_examined: cost.rows_examined,
                us: micros(explanation.time),
            },
            steps: explanation.steps.iter().map(ExplainedStep::new).collect(),
        }
    }
}

impl ExplainedSearch {
    fn new(search: MemorySearch) -> Self {
        Self {
            search: search.method.name(),
            why: search.method.to_string(),
            authors_read: search.tails,
            posts: search.posts,
        }
    }
}

impl<'a> ExplainedShard<'a> {
    fn new(part: &ShardPart, server: Option<&'a str>, shown: Shown<'a>) -> Self {
        let reasons: Vec<String> = part.reasons.iter().map(ToString::to_string).collect();
        let (state, as_of) = match part.state {
            PartState::Stale(as_of) => ("stale", Some(rfc3339_ms(as_of))),
            PartState::Missing => ("missing", None),
            _ => ("complete", None),
        };
        Self {
            shard: shown.fleet.shard_name(part.shard),
            server: server.filter(|_| shown.with_reasons),
            followees: part.followees,
            in_memory: part.in_memory,
            too_short: part.too_short,
            queried: part.queried,
            why: reasons.join("; "),
            statements: part.cost.statements,
            rows: part.cost.rows,
            rows_examined: part.cost.rows_examined,
            wait_us: micros(part.waited),
            us: micros(part.time),
            posts: part.posts,
            posts_from_memory: part.posts_from_memory,
            state,
            as_of,
            log: part.log.as_ref().map(|log| ExplainedLog::new(log, shown)),
        }
    }
}

impl ExplainedLog {
    fn new(log: &LogState, shown: Shown<'_>) -> Self {
        let memory = match log.trust {
            LogTrust::Fresh => "fresh",
            LogTrust::Stale(_) => "stale",
            _ => "unused",
        };
        let named = |text: &str| shown.with_reasons.then(|| text.to_owned());
        let position = log.position.as_deref().and_then(named);
        Self { log: named(&log.name), position, memory }
    }
}

impl<'a> ExplainedWave<'a> {
    fn new(wave: &Wave, shown: Shown<'a>) -> Self {
        Self {
            reads: wave.kind.name(),
            why: wave.kind.reason(),
            asked: wave.asked,
            us: micros(wave.time),
            shards: wave
                .queries
                .iter()
                .map(|queries| ExplainedQueries::new(queries, shown))
                .collect(),
        }
    }
}

impl<'a> ExplainedQueries<'a> {
    fn new(queries: &ShardQueries, shown: Shown<'a>) -> Self {
        let failure = queries.failure.as_ref();
        Self {
            shard: shown.fleet.shard_name(queries.shard),
            statements: queries.cost.statements,
            rows: queries.cost.rows,
            rows_examined: queries.cost.rows_examined,
            wait_us: micros(queries.waited),
            us: micros(queries.time),
            error: failure.map(|failure| failure.kind),
            reason: failure.filter(|_| shown.with_reasons).map(|failure| failure.reason.clone()),
        }
    }
}

impl ExplainedStep {
    fn new(step: &Step) -> Self {
        let wave = match step.kind {
            StepKind::Wave(index) => Some(index + 1),
            _ => None,
        };
        Self { step: step.kind.name(), wave, us: micros(step.time) }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
