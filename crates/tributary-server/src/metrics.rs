//! `GET /metrics`: what this process answers, the content of memory, its progress in the logs, and
//! the state of shards and servers, in OpenMetrics text format. No label comes from a client.

mod http;
mod process;
mod servers;
mod streams;

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tributary::Tributary;
use tributary::internal::fleet;
use tributary::internal::stats::{LogStats, MemoryStats};

use super::auth::{AllowedHere, ReadMetrics};
use super::error::ApiError;
use super::{App, TaskList};

/// The content type of OpenMetrics text.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Name, help text and value of a counter that each log has.
type LogCounter = (&'static str, &'static str, fn(&LogStats) -> u64);

/// The counters of each log.
const LOG_COUNTERS: [LogCounter; 9] = [
    ("transactions", "Transactions applied", |log| log.transactions),
    ("changes", "Changes applied to entries of memory", |log| log.changes),
    (
        "log_identities",
        "Log identities followed since the start; a change empties memory for the log",
        |log| log.log_identities,
    ),
    ("fills", "Tails and follow lists filled", |log| log.fills),
    (
        "fills_refused",
        "Fills rejected: the snapshot was too old, or the fill request had lapsed",
        |log| log.fills_refused,
    ),
    ("evictions", "Tails and follow lists evicted", |log| log.evictions),
    ("audited", "Tails and follow lists compared with the database", |log| log.audited),
    ("mismatched", "Tails and follow lists that differ from the database", |log| log.mismatched),
    ("audits_failed", "Audits that could not read the database", |log| log.audits_failed),
];

/// `GET /metrics`.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "operators",
    summary = "Metrics for Prometheus", description = "",
    responses((
        status = 200, description = "OpenMetrics", body = String,
        content_type = "application/openmetrics-text"
    ))
)]
pub(super) async fn metrics(
    State(app): State<App>,
    State(TaskList(tasks)): State<TaskList>,
    _: AllowedHere<ReadMetrics>,
) -> Result<Response, ApiError> {
    let App { tributary, observed, clients, streams, limiter, certificate, .. } = app;
    let mut all = Registry::default();
    all.register_collector(Box::new(http::Requests(Arc::clone(&observed))));
    let registry = all.sub_registry_with_prefix("tributary");
    registry.register_collector(Box::new(http::Answers { observed, tributary: tributary.clone() }));
    let process = process::Process { tasks, clients, limiter, certificate };
    registry.register_collector(Box::new(process));
    registry.register_collector(Box::new(streams::OfStreams(streams)));
    let memory = registry.sub_registry_with_prefix("memory");
    memory.register_collector(Box::new(MemoryCollector(tributary.clone())));
    let cold = registry.sub_registry_with_prefix("cold");
    cold.register_collector(Box::new(ColdCollector(tributary.clone())));
    let servers = registry.sub_registry_with_prefix("server");
    servers.register_collector(Box::new(servers::Servers(tributary)));
    let mut body = String::new();
    text::encode(&mut body, &all).map_err(|_| ApiError::Internal)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response())
}

#[derive(Debug)]
struct MemoryCollector(Tributary);

impl Collector for MemoryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(memory) = MemoryStats::of(&self.0) else { return Ok(()) };
        for (name, help, value) in sizes(&memory) {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let pages = [
            ("walked_pages", "Deep pages found by a scan of the recent log", memory.walked_pages),
            ("page_cache_hits", "Pages answered from the page cache", memory.page_cache_hits),
        ];
        for (name, help, count) in pages {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let fresh = |log: &LogStats| i64::from(log.fresh);
        let help = "1 if memory is up to date with the log, else 0";
        gauges(&memory, &mut encoder, ("fresh", help), fresh)?;
        let help = "1 for each log whose memory is not up to date; `reason` says why";
        let mut family = encoder.encode_descriptor("not_fresh", help, None, MetricType::Gauge)?;
        for log in &memory.logs {
            let Some(reason) = log.not_fresh else { continue };
            let labels = [("log", log.name.as_str()), ("reason", reason)];
            family.encode_family(&labels)?.encode_gauge(&1_i64)?;
        }
        encode_lag(&memory, &mut encoder)?;
        let heads_known = |log: &LogStats| i64::from(log.heads_known);
        let help = "1 if the newest times of all authors are in memory, else 0";
        gauges(&memory, &mut encoder, ("heads_known", help), heads_known)?;
        for (name, help, counter) in LOG_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for log in &memory.logs {
                let count = counter(log);
                let labels = [("log", log.name.as_str())];
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        problems(&memory, &mut encoder)
    }
}

/// Encodes how far memory lags each log.
fn encode_lag(memory: &MemoryStats, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let help = "Seconds since memory last had every change of the log; about 1 at most while fresh";
    let mut family = encoder.encode_descriptor("lag_seconds", help, None, MetricType::Gauge)?;
    for log in &memory.logs {
        let Some(ms) = log.lag_ms else { continue };
        family.encode_family(&[("log", log.name.as_str())])?.encode_gauge(&(ms as f64 / 1e3))?;
    }
    let help = "Bytes of the server's log that memory has not applied, without earlier files";
    let mut family = encoder.encode_descriptor("lag_bytes", help, None, MetricType::Gauge)?;
    for log in &memory.logs {
        let Some(bytes) = log.lag_bytes else { continue };
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        family.encode_family(&[("log", log.name.as_str())])?.encode_gauge(&bytes)?;
    }
    Ok(())
}

/// Encodes the number of problems of each log and cause.
fn problems(memory: &MemoryStats, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let help = "Problems by cause; each cause is logged at most once an hour";
    let mut family = encoder.encode_descriptor("problems", help, None, MetricType::Counter)?;
    for log in &memory.logs {
        for (cause, count) in &log.problems {
            let labels = [("log", log.name.as_str()), ("cause", *cause)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
    }
    Ok(())
}

/// The cost of pages for the databases.
#[derive(Debug)]
struct ColdCollector(Tributary);

impl Collector for ColdCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let cold = fleet(&self.0).cold_pages();
        let counters = [
            ("pages", "Pages read from the databases, at least in part", cold.pages()),
            ("waves", "Waves of these pages, without that for the follow list", cold.waves()),
            ("rows", "Rows that the databases returned for these pages", cold.rows()),
        ];
        for (name, help, count) in counters {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}

/// Encodes one gauge for each log.
fn gauges(
    memory: &MemoryStats,
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    value: impl Fn(&LogStats) -> i64,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for log in &memory.logs {
        family.encode_family(&[("log", log.name.as_str())])?.encode_gauge(&value(log))?;
    }
    Ok(())
}

/// Name, help text and value of the gauges for the content of memory and its bytes.
fn sizes(memory: &MemoryStats) -> [(&'static str, &'static str, usize); 16] {
    [
        ("budget_bytes", "Limit of the bytes in memory (memory.budget)", memory.budget_bytes),
        ("users", "Users known to memory", memory.users),
        ("index_bytes", "Bytes of the index of users", memory.index_bytes),
        ("tails", "Authors whose tail is in memory", memory.tails),
        ("tail_posts", "Posts in tails", memory.tail_posts),
        ("tail_bytes", "Bytes of tails", memory.tail_bytes),
        ("follow_edges", "Follows in follow lists", memory.follow_edges),
        ("follow_bytes", "Bytes of follow lists", memory.follow_bytes),
        ("pages", "Pages in the page cache", memory.pages),
        ("page_bytes", "Bytes of the page cache", memory.page_bytes),
        ("recent_entries", "Entries in the recent log", memory.recent_entries),
        ("recent_bytes", "Bytes of the recent log", memory.recent_bytes),
        (
            "news_changes",
            "Changes in memory that requests for news are answered from",
            memory.news_changes,
        ),
        ("news_bytes", "Bytes of these changes", memory.news_bytes),
        ("subscribers", "Readers that wait for news", memory.subscribers),
        ("subscriber_bytes", "Bytes of the users that they wait for", memory.subscriber_bytes),
    ]
}
