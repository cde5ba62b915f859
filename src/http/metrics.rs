//! `GET /metrics`: what memory holds and how it follows the logs, in the text format that Prometheus
//! reads.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::error::ApiError;
use crate::Tributary;
use crate::memory::{Budget, Counters, FollowedLog, Memory};

/// What the format is called.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a counter of a log is called, means, and is.
type LogCounter = (&'static str, &'static str, fn(&Counters) -> &AtomicU64);

/// All that is counted of each log.
const LOG_COUNTERS: [LogCounter; 8] = [
    ("transactions", "Transactions that were carried out", |log| &log.transactions),
    ("changes", "Changes that were carried out on what is kept", |log| &log.changes),
    ("log_identities", "Histories that were begun; with each, all is read anew", |log| {
        &log.log_identities
    }),
    ("fills", "Wishes of readers that were granted", |log| &log.fills),
    ("fills_refused", "Answers from too old a snapshot, or for nobody", |log| &log.fills_refused),
    ("evictions", "What was dropped to make room", |log| &log.evictions),
    ("audited", "What was read again and compared with the database", |log| &log.audited),
    ("mismatched", "What was found to differ from the database", |log| &log.mismatched),
];

/// `GET /metrics`.
pub(super) async fn metrics(State(tributary): State<Tributary>) -> Result<Response, ApiError> {
    let mut registry = Registry::with_prefix("tributary_memory");
    registry.register_collector(Box::new(MemoryCollector(tributary)));
    let mut body = String::new();
    text::encode(&mut body, &registry).map_err(|_| ApiError::Internal)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response())
}

#[derive(Debug)]
struct MemoryCollector(Tributary);

impl Collector for MemoryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(memory) = self.0.memory() else { return Ok(()) };
        for (name, help, value) in sizes(memory) {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let pages = [
            (
                "walked_pages",
                "Deep pages that were found along the recent log",
                memory.recent().walks(),
            ),
            (
                "page_cache_hits",
                "Pages that were answered as they were sent before",
                memory.page_cache_hits(),
            ),
        ];
        for (name, help, count) in pages {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let now_ms = memory.now_ms();
        let fresh = |log: &FollowedLog| i64::from(log.is_fresh(now_ms));
        gauges(memory, &mut encoder, ("fresh", "Whether the log is followed now"), fresh)?;
        let heads_known = |log: &FollowedLog| i64::from(log.heads_known());
        let help = "Whether the newest times of all its authors are in memory";
        gauges(memory, &mut encoder, ("heads_known", help), heads_known)?;
        for (name, help, counter) in LOG_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for log in memory.logs() {
                let count = counter(&log.counters).load(Ordering::Relaxed);
                let labels = [("log", log.name())];
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }
}

fn gauges(
    memory: &Memory,
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    value: impl Fn(&FollowedLog) -> i64,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for log in memory.logs() {
        family.encode_family(&[("log", log.name())])?.encode_gauge(&value(log))?;
    }
    Ok(())
}

/// What is kept, and what it takes.
fn sizes(memory: &Memory) -> [(&'static str, &'static str, usize); 12] {
    let budget = memory.budget();
    let Budget { tails, follows, pages, recent, .. } = budget;
    [
        ("budget_bytes", "What may be taken", budget.max()),
        ("users", "Users that are known", memory.users()),
        ("index_bytes", "What the index of users takes", budget.index()),
        ("tails", "Authors whose newest posts are kept", tails.users()),
        ("tail_posts", "Posts that are kept", tails.items()),
        ("tail_bytes", "What they take", tails.bytes()),
        ("follow_edges", "Follows that are kept", follows.items()),
        ("follow_bytes", "What they take", follows.bytes()),
        ("pages", "Newest pages that are kept as they were sent", pages.users()),
        ("page_bytes", "What they take", pages.bytes()),
        ("recent_entries", "Entries of the recent log", recent.items()),
        ("recent_bytes", "What they take", recent.bytes()),
    ]
}
