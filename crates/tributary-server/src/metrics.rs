//! `GET /metrics`: the content of memory, its progress in the logs, and the queues of the database
//! servers, in OpenMetrics text format.

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
use tributary::internal::stats::{ConnectionStats, LogStats, MemoryStats};
use tributary::internal::tasks::TaskStats;
use tributary::internal::{Fleet, fleet};

use super::auth::{AllowedHere, ReadMetrics};
use super::connections::Connections;
use super::error::ApiError;
use super::{Clients, TaskList};

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
    State(tributary): State<Tributary>,
    State(TaskList(tasks)): State<TaskList>,
    State(Clients(clients)): State<Clients>,
    _: AllowedHere<ReadMetrics>,
) -> Result<Response, ApiError> {
    let mut registry = Registry::with_prefix("tributary");
    let memory = registry.sub_registry_with_prefix("memory");
    memory.register_collector(Box::new(MemoryCollector(tributary.clone())));
    let cold = registry.sub_registry_with_prefix("cold");
    cold.register_collector(Box::new(ColdCollector(tributary.clone())));
    let servers = registry.sub_registry_with_prefix("server");
    servers.register_collector(Box::new(ServerCollector(tributary)));
    registry.register_collector(Box::new(ProcessCollector { tasks, clients }));
    let mut body = String::new();
    text::encode(&mut body, &registry).map_err(|_| ApiError::Internal)?;
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

/// The queues of the database servers.
#[derive(Debug)]
struct ServerCollector(Tributary);

impl Collector for ServerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let queues = fleet(&self.0).queues();
        if queues.is_empty() {
            return Ok(());
        }
        let help = "Connections that requests may use; fewer than configured if the server refuses";
        let mut family = encoder.encode_descriptor("connections", help, None, MetricType::Gauge)?;
        for queue in &queues {
            let connections = i64::try_from(queue.connections).unwrap_or(i64::MAX);
            family.encode_family(&[("server", queue.server)])?.encode_gauge(&connections)?;
        }
        let help = "Requests that wait for a connection";
        let mut family = encoder.encode_descriptor("waiting", help, None, MetricType::Gauge)?;
        for queue in &queues {
            let waiting = i64::try_from(queue.waiting).unwrap_or(i64::MAX);
            family.encode_family(&[("server", queue.server)])?.encode_gauge(&waiting)?;
        }
        let help = "Statements that the server has answered for reads";
        let mut family =
            encoder.encode_descriptor("read_statements", help, None, MetricType::Counter)?;
        for queue in &queues {
            let labels = [("server", queue.server)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&queue.read_statements, None)?;
        }
        let help = "Requests rejected because the queue was full or the wait was too long";
        let mut family = encoder.encode_descriptor("rejected", help, None, MetricType::Counter)?;
        for queue in &queues {
            let labels = [("server", queue.server)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&queue.rejected, None)?;
        }
        connections(fleet(&self.0), &mut encoder)
    }
}

/// Name, help text and value of a gauge of each class of connections.
type ConnectionGauge = (&'static str, &'static str, fn(&ConnectionStats) -> usize);

const CONNECTION_GAUGES: [ConnectionGauge; 3] = [
    ("connections_open", "Open connections to the server", |of| of.open),
    ("connections_in_use", "Connections in use or being opened", |of| of.in_use),
    ("connections_limit", "Connections that may be in use at one time", |of| of.max),
];

/// Encodes the connections to each server by class.
fn connections(fleet: &Fleet, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let stats: Vec<(&str, ConnectionStats)> = fleet.connections().collect();
    for (name, help, value) in CONNECTION_GAUGES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (server, of) in &stats {
            let value = i64::try_from(value(of)).unwrap_or(i64::MAX);
            let labels = [("server", *server), ("class", of.class)];
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
    }
    Ok(())
}

/// The background tasks and the connections of clients.
#[derive(Debug)]
struct ProcessCollector {
    tasks: Vec<TaskStats>,
    clients: Option<Arc<Connections>>,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "1 if the background task runs now; a task that has done its work does not";
        let mut family =
            encoder.encode_descriptor("task_running", help, None, MetricType::Gauge)?;
        for task in &self.tasks {
            let labels = [("task", task.name), ("of", task.of.as_str())];
            family.encode_family(&labels)?.encode_gauge(&i64::from(task.is_running))?;
        }
        let help = "Times that the background task panicked and was started again";
        let kind = MetricType::Counter;
        let mut family = encoder.encode_descriptor("task_restarts", help, None, kind)?;
        for task in &self.tasks {
            let labels = [("task", task.name), ("of", task.of.as_str())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&task.restarts, None)?;
        }
        let Some(clients) = &self.clients else { return Ok(()) };
        let (open, ended) = clients.stats();
        let (help, open) = ("Open connections of clients", i64::try_from(open).unwrap_or(i64::MAX));
        encoder
            .encode_descriptor("client_connections", help, None, MetricType::Gauge)?
            .encode_gauge(&open)?;
        let help = "Connections of clients that were closed or refused because of a limit";
        let name = "client_connections_closed";
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (reason, count) in ended {
            let labels = [("reason", reason)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
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
fn sizes(memory: &MemoryStats) -> [(&'static str, &'static str, usize); 14] {
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
    ]
}
