//! The page that shows how a page of a home timeline was read. `explain.js` shows it in a drawer
//! beside the timeline.

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use tributary::explain::MemoryUse;
use tributary::internal::stats::MemoryStats;
use tributary::{PostKey, Tributary, UserId};

use super::names::Names;
use super::page;
use super::pages::{Visit, address};
use super::scatter::Scatter;
use super::view::{Frame, grouped, milliseconds, plural, sentence};
use crate::auth::{Access, Allowed, Explain};
use crate::error::ApiError;
use crate::explain::{
    Explained, ExplainedPage, ExplainedQueries, ExplainedShard, ExplainedStep, ExplainedWave,
    explained_page,
};
use crate::limits::Cost;
use crate::observe::PageKind;
use crate::query::Parameters;
use crate::timeline::costing;

#[derive(Template)]
#[template(path = "explain.html")]
struct ExplainPage {
    frame: Frame,
    /// The address of the explained page; empty for operators, who have no timelines.
    back: String,
    readings: Vec<Reading>,
    contrast: Option<String>,
    /// The address of this page with the same page from the databases beside it.
    compare: Option<String>,
}

/// One way in which the page was read.
struct Reading {
    title: &'static str,
    summary: String,
    us: u64,
    time: String,
    facts: Vec<(&'static str, String)>,
    search: Option<String>,
    scatter: Scatter,
    parts: Vec<Part>,
    waves: Vec<WaveView>,
    steps: Vec<StepView>,
    /// Why there is no page.
    problem: Option<String>,
}

/// The part of a shard, as a row of the table.
struct Part {
    shard: String,
    queried: &'static str,
    why: String,
    rows: String,
    posts: String,
    time: String,
    log: String,
}

struct WaveView {
    reads: String,
    time: String,
    why: &'static str,
    shards: Vec<String>,
}

struct StepView {
    name: String,
    us: u64,
    time: String,
}

#[derive(Deserialize)]
pub(super) struct Comparison {
    memory: Option<String>,
}

impl Comparison {
    fn is_wanted(query: Result<Query<Self>, QueryRejection>) -> Result<bool, ApiError> {
        match query.ok().and_then(|Query(Self { memory })| memory).as_deref() {
            None => Ok(false),
            Some("off") => Ok(true),
            Some(_) => Err(ApiError::BadQuery("the only value of `memory` is `off`")),
        }
    }
}

/// `GET /home/{reader}/explain`: how a page was read; with `memory=off`, compared with the same
/// page from the databases.
pub(super) async fn explain(
    State(tributary): State<Tributary>,
    Allowed { user: reader, viewer, .. }: Allowed<Explain>,
    visit: Visit,
    query: Result<Query<Comparison>, QueryRejection>,
    mut parameters: Parameters,
) -> Result<Response, ApiError> {
    visit.require_written(&mut parameters);
    let names = Names::of(&tributary, &[reader]).await;
    let frame = visit.frame(Some(names.person(reader)), "explain");
    let back = address(&format!("/home/{reader}"), &parameters, parameters.sealed_cursor());
    let comparing = Comparison::is_wanted(query)?;
    show(&tributary, (reader, viewer), &parameters, (frame, back), comparing).await
}

/// The same page on the listener for operators, which has no timelines.
pub(super) async fn explain_for_operators(
    State(tributary): State<Tributary>,
    Allowed { user: reader, viewer, .. }: Allowed<Explain>,
    (State(access), headers): (State<Access>, HeaderMap),
    query: Result<Query<Comparison>, QueryRejection>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let frame = Frame { section: "explain", ..Frame::of_visitor(&headers, &access) };
    let comparing = Comparison::is_wanted(query)?;
    show(&tributary, (reader, viewer), &parameters, (frame, String::new()), comparing).await
}

async fn show(
    tributary: &Tributary,
    of: (UserId, Option<UserId>),
    parameters: &Parameters,
    (frame, back): (Frame, String),
    comparing: bool,
) -> Result<Response, ApiError> {
    let read = |memory| explained_page(tributary, of, parameters, memory);
    let served = read(MemoryUse::AsUsual).await?;
    let cold = if comparing { Some(read(MemoryUse::Off).await?) } else { None };
    let has_token = !parameters.at_least.is_empty();
    let kind = served.page.as_ref().ok().map(|page| PageKind::of(page, has_token));
    let cost = cold.as_ref().map_or(Cost::default(), |cold| cold.cost).plus(served.cost);
    let own = format!("/home/{}/explain", of.0);
    let own = address(&own, parameters, parameters.sealed_cursor());
    let compare = MemoryStats::of(tributary).map(|_| with_memory_off(&own));
    let template = ExplainPage {
        frame,
        back,
        contrast: cold.as_ref().map(|cold| contrast(&served, cold)),
        compare,
        readings: readings(served, cold),
    };
    let mut response = costing(cost, page(&template));
    if let Some(kind) = kind {
        response.extensions_mut().insert(kind);
    }
    Ok(response)
}

fn with_memory_off(address: &str) -> String {
    let joint = if address.contains('?') { '&' } else { '?' };
    format!("{address}{joint}memory=off")
}

fn readings(served: ExplainedPage<'_>, cold: Option<ExplainedPage<'_>>) -> Vec<Reading> {
    let cold = cold.map(|cold| Reading::new("Without memory", cold));
    [Reading::new("As served", served)].into_iter().chain(cold).collect()
}

/// With two digits below ten.
fn rounded(ratio: f64) -> String {
    if ratio < 9.95 { format!("{ratio:.1}") } else { format!("{ratio:.0}") }
}

/// The difference between the two readings of a page.
fn contrast(served: &ExplainedPage<'_>, cold: &ExplainedPage<'_>) -> String {
    let (with, without) = (served.explained.totals.us.max(1), cold.explained.totals.us.max(1));
    let times = match (without as f64 / with as f64, with as f64 / without as f64) {
        (ratio, _) if ratio >= 1.5 => {
            format!("Without memory it takes {} times as long", rounded(ratio))
        }
        (_, ratio) if ratio >= 1.5 => {
            format!("With memory it takes {} times as long", rounded(ratio))
        }
        _ => "Both take about as long".to_owned(),
    };
    let posts = match (keys(served), keys(cold)) {
        (Some(one), Some(other)) if one == other => match one.len() {
            1 => "Both pages have the same post.".to_owned(),
            posts => format!("Both pages have the same {posts} posts."),
        },
        (Some(_), Some(_)) => "The pages differ: posts have changed in between.".to_owned(),
        _ => String::new(),
    };
    format!("{times}. {posts}")
}

fn keys(read: &ExplainedPage<'_>) -> Option<Vec<PostKey>> {
    let page = read.page.as_ref().ok()?;
    Some(page.posts.iter().map(|post| post.key()).collect())
}

impl Reading {
    fn new(title: &'static str, ExplainedPage { page, explained, .. }: ExplainedPage<'_>) -> Self {
        Self {
            title,
            summary: summary(&explained),
            us: explained.totals.us,
            time: milliseconds(explained.totals.us),
            facts: facts(&explained),
            search: explained.memory.as_ref().map(|search| sentence(&search.why)),
            scatter: Scatter::new(&explained),
            parts: explained.shards.iter().map(Part::new).collect(),
            waves: explained.waves.iter().map(WaveView::new).collect(),
            steps: explained.steps.iter().map(StepView::new).collect(),
            problem: page.err().map(|error| sentence(&ApiError::from(error).to_string())),
        }
    }
}

/// Where the page comes from, in a sentence or two.
fn summary(explained: &Explained<'_>) -> String {
    let posts = counted(explained.merge.posts, ("post", "posts"));
    let of = explained.followees.map(|number| counted(number, ("followee", "followees")));
    let of = of.map_or_else(String::new, |of| format!(" of {of}"));
    let (from, cached) = match explained.from {
        "page_cache" => ("memory", " The page cache has this page too, for programs."),
        "memory" => ("memory", ""),
        "databases" => ("the databases", ""),
        _ => ("memory and the databases", ""),
    };
    format!("{posts}{of}, from {from} in {}.{cached}", milliseconds(explained.totals.us))
}

fn counted(number: usize, names: (&str, &str)) -> String {
    format!("{} {}", grouped(number as u64), plural(number, names.0, names.1))
}

fn facts(explained: &Explained<'_>) -> Vec<(&'static str, String)> {
    let (totals, merge) = (&explained.totals, &explained.merge);
    let mut facts = vec![
        ("Time", milliseconds(totals.us)),
        ("From memory", format!("{} of {}", merge.from_memory, merge.posts)),
        ("Waves", grouped(totals.waves as u64)),
        ("Statements", grouped(totals.statements)),
        ("Rows", grouped(totals.rows)),
    ];
    facts.extend(totals.rows_examined.map(|rows| ("Rows the servers read", grouped(rows))));
    facts
}

impl Part {
    fn new(part: &ExplainedShard<'_>) -> Self {
        let log = part.log.as_ref().map(|log| match &log.position {
            Some(position) => format!("{position}, {}", log.memory),
            None => log.memory.to_owned(),
        });
        Self {
            shard: part.shard.to_owned(),
            queried: if part.queried { "yes" } else { "no" },
            why: sentence(&part.why),
            rows: grouped(part.rows),
            posts: format!("{} of {}", part.posts_from_memory, part.posts),
            time: if part.queried { milliseconds(part.us) } else { "-".to_owned() },
            log: log.unwrap_or_else(|| "-".to_owned()),
        }
    }
}

impl WaveView {
    fn new(wave: &ExplainedWave<'_>) -> Self {
        Self {
            reads: sentence(&wave.reads.replace('_', " ")).trim_end_matches('.').to_owned(),
            time: milliseconds(wave.us),
            why: wave.why,
            shards: wave.shards.iter().map(queries).collect(),
        }
    }
}

/// The queries of a wave to one shard.
fn queries(of: &ExplainedQueries<'_>) -> String {
    let ExplainedQueries { shard, error, reason, .. } = of;
    match (error, reason) {
        (Some(error), Some(reason)) => format!("{shard}: {error}: {reason}"),
        (Some(error), None) => format!("{shard}: {error}"),
        _ => format!("{shard}: {} rows in {}", grouped(of.rows), milliseconds(of.us)),
    }
}

impl StepView {
    fn new(step: &ExplainedStep) -> Self {
        let name = match (step.wave, step.step) {
            (Some(wave), _) => format!("wave {wave}"),
            (None, name) => name.replace('_', " "),
        };
        Self { name, us: step.us, time: milliseconds(step.us) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparison_keeps_the_page() {
        assert_eq!(with_memory_off("/home/1/explain"), "/home/1/explain?memory=off");
        let page = "/home/1/explain?cursor=a";
        assert_eq!(with_memory_off(page), "/home/1/explain?cursor=a&memory=off");
        let wanted = |memory: &str| {
            Comparison::is_wanted(Ok(Query(Comparison { memory: Some(memory.to_owned()) })))
        };
        assert!(wanted("off").unwrap() && wanted("on").is_err());
    }
}
