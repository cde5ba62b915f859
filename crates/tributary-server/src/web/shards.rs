//! The page for operators: every server and shard with its state, charts of the last minutes, and
//! memory by kind. A script requests it again every two seconds.

use askama::Template;
use axum::http::HeaderMap;
use axum::response::Response;
use tributary::internal::stats::{ConnectionStats, LogStats, MemoryStats};
use tributary::internal::{Finding, fleet, rfc3339_ms};
use tributary::{ShardHealth, UserId};

use super::chart::{Chart, Line, number};
use super::page;
use super::view::{Frame, absolute, grouped, listed, milliseconds, sentence};
use crate::App;
use crate::auth::{Action, Object, Principal, authorize};
use crate::checks::{Checked, Checks};
use crate::health::status_of;
use crate::history::{History, Rates};
use crate::traffic::{SlowPage, Traffic};

/// Readers and authors in a list.
const HOTTEST: usize = 8;

#[derive(Template)]
#[template(path = "shards.html")]
struct ShardsPage {
    frame: Frame,
    summary: Summary,
    servers: Vec<ServerRow>,
    shards: Vec<ShardRow>,
    charts: Vec<Chart>,
    readers: Vec<Hot>,
    authors: Vec<Hot>,
    slowest: Vec<Slow>,
    /// Whether the client may see explanations.
    explains: bool,
    findings: Vec<FindingRow>,
    checked: Option<CheckedView>,
    memory: Option<MemoryView>,
    logs: Vec<LogRow>,
}

/// The state of all shards in one sentence.
struct Summary {
    /// `ok`, `degraded` or `missing`; the style has a colour for each.
    kind: &'static str,
    text: String,
}

struct ServerRow {
    name: String,
    in_use: usize,
    connections: usize,
    waiting: usize,
    rejected: u64,
    statements: String,
}

struct ShardRow {
    name: String,
    server: String,
    status: &'static str,
    /// The status for people.
    label: &'static str,
    reason: String,
    foreign_writes: u64,
}

/// A reader or an author with a share of the pages.
struct Hot {
    user: UserId,
    /// In percent, at least.
    share: String,
}

/// A slow page, with the address of its explanation.
struct Slow {
    time: String,
    reader: UserId,
    age: String,
    explain: String,
}

/// The last result of the checks of `tributary check`.
struct CheckedView {
    /// In UTC.
    at: String,
    findings: Vec<(FindingRow, bool)>,
}

/// A problem of a server, a shard or a log.
struct FindingRow {
    subject: String,
    text: String,
}

struct LogRow {
    name: String,
    is_fresh: bool,
    state: String,
    lag: String,
    position: String,
    transactions: u64,
    changes: u64,
    audited: u64,
    mismatched: u64,
    audits_failed: u64,
}

struct MemoryView {
    used: String,
    budget: String,
    /// Share of the budget, in percent.
    share: u64,
    kinds: Vec<MemoryKind>,
}

struct MemoryKind {
    name: &'static str,
    entries: usize,
    bytes: String,
    share: u64,
}

/// `GET /shards` for people.
pub(crate) fn shards_page(app: &App, principal: &Principal, headers: &HeaderMap) -> Response {
    let fleet = fleet(&app.tributary);
    let rates = app.history.as_deref().map(History::rates).unwrap_or_default();
    let connections: Vec<(&str, ConnectionStats)> = fleet.connections().collect();
    let queues = fleet.queues();
    let rate = |server: usize| rates.last().and_then(|last| last.statements.get(server)).copied();
    let servers = queues.iter().enumerate().map(|(index, queue)| {
        let own = connections.iter().filter(|(name, _)| *name == queue.server);
        ServerRow {
            name: queue.server.to_owned(),
            in_use: own.map(|(_, of)| of.in_use).sum(),
            connections: queue.connections,
            waiting: queue.waiting,
            rejected: queue.rejected,
            statements: number(rate(index).unwrap_or_default()),
        }
    });
    let servers: Vec<ServerRow> = servers.collect();
    let shards: Vec<ShardRow> = fleet.health().iter().map(shard_row).collect();
    let stats = MemoryStats::of(&app.tributary);
    let traffic = app.history.as_deref().map(|history| &history.traffic);
    let (readers, authors) = traffic.map(|of| of.hottest(HOTTEST)).unwrap_or_default();
    let [readers, authors] = [readers, authors].map(|of| of.into_iter().map(Hot::new).collect());
    let slowest = traffic.map(Traffic::slowest).unwrap_or_default();
    let template = ShardsPage {
        frame: Frame { section: "shards", ..Frame::of_visitor(headers, &app.access) },
        summary: summary(&shards, servers.len()),
        charts: charts(&rates, &servers),
        memory: stats.as_ref().map(memory_view),
        logs: stats.iter().flat_map(|stats| &stats.logs).map(log_row).collect(),
        findings: findings(&shards, stats.as_ref()),
        checked: app.checks.as_deref().and_then(Checks::last).map(|last| checked_view(&last)),
        readers,
        authors,
        slowest: slowest.iter().map(Slow::new).collect(),
        explains: authorize(principal, Action::Explain, Object::Node).is_ok(),
        servers,
        shards,
    };
    page(&template)
}

fn shard_row(shard: &ShardHealth<'_>) -> ShardRow {
    let reason = shard.state.as_ref().err().or(shard.write_fault.as_ref());
    let status = status_of(shard);
    ShardRow {
        name: shard.name.to_owned(),
        server: shard.server.unwrap_or("this process").to_owned(),
        status,
        label: if status == "read_only" { "read-only" } else { status },
        reason: reason.cloned().unwrap_or_default(),
        foreign_writes: shard.foreign_writes,
    }
}

impl Hot {
    fn new((user, share): (UserId, f64)) -> Self {
        Self { user, share: format!("{:.1} %", share * 100.0) }
    }
}

impl Slow {
    fn new(page: &SlowPage) -> Self {
        let SlowPage { reader, query, took, at } = page;
        let joint = if query.is_empty() { "" } else { "?" };
        Self {
            time: milliseconds(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            reader: *reader,
            age: format!("{} s ago", at.elapsed().as_secs()),
            explain: format!("/home/{reader}/explain{joint}{query}"),
        }
    }
}

/// The faults of shards, and the problems of logs since the start of this process.
fn findings(shards: &[ShardRow], stats: Option<&MemoryStats>) -> Vec<FindingRow> {
    let faulty = shards.iter().filter(|shard| !shard.reason.is_empty());
    let faults = faulty.map(|shard| FindingRow {
        subject: format!("shard {}", shard.name),
        text: sentence(&shard.reason),
    });
    let logs = stats.iter().flat_map(|stats| &stats.logs);
    let problems = logs.flat_map(|log| log.problems.iter().map(move |problem| (log, problem)));
    let problems = problems.map(|(log, (cause, count))| FindingRow {
        subject: format!("log {}", log.name),
        text: format!("{} ({} since the start).", cause.replace('_', " "), grouped(*count)),
    });
    faults.chain(problems).collect()
}

/// The findings, each with whether it is an error.
fn checked_view(checked: &Checked) -> CheckedView {
    let row = |(subject, finding): &(String, Finding)| {
        // Many texts begin with the name of a setting, which has no capital letter.
        let row = FindingRow { subject: subject.clone(), text: format!("{finding}.") };
        (row, finding.is_error())
    };
    let at = absolute(&rfc3339_ms(checked.at_ms));
    CheckedView { at, findings: checked.findings.iter().map(row).collect() }
}

fn summary(shards: &[ShardRow], servers: usize) -> Summary {
    let of = |status: &str| -> Vec<&str> {
        let found = shards.iter().filter(|shard| shard.status == status);
        found.map(|shard| shard.name.as_str()).collect()
    };
    let (missing, read_only) = (of("missing"), of("read_only"));
    let on = match servers {
        0 => String::new(),
        1 => " on one server".to_owned(),
        many => format!(" on {many} servers"),
    };
    let all = format!("{} shards{on}", shards.len());
    match (missing.is_empty(), read_only.is_empty()) {
        (true, true) => Summary { kind: "ok", text: format!("All {all} are in service.") },
        (true, false) => {
            let text = format!("Of {all}, read-only: {}.", listed(&read_only));
            Summary { kind: "read_only", text }
        }
        (false, _) => {
            let text = format!("Of {all}, out of service: {}.", listed(&missing));
            Summary { kind: "missing", text }
        }
    }
}

fn charts(rates: &[Rates], servers: &[ServerRow]) -> Vec<Chart> {
    let line = |name: &str, value: &dyn Fn(&Rates) -> f64| Line {
        name: name.to_owned(),
        points: rates.iter().map(|rate| (rate.age_s, value(rate))).collect(),
    };
    let statements = servers.iter().enumerate().map(|(index, server)| {
        line(&server.name, &|rate| rate.statements.get(index).copied().unwrap_or_default())
    });
    let statements: Vec<Line> = statements.collect();
    let mut charts = vec![
        Chart::new("Answers", "per second", &[line("answers", &|rate| rate.answers)]),
        Chart::new(
            "Latency",
            "milliseconds",
            &[line("median", &|rate| rate.median_ms), line("99 of 100", &|rate| rate.p99_ms)],
        ),
        Chart::new(
            "Pages",
            "per second",
            &[
                line("from the page cache", &|rate| rate.page_cache_hits),
                line("from databases", &|rate| rate.cold_pages),
            ],
        ),
        Chart::new("Changes in memory", "per second", &[line("changes", &|rate| rate.changes)]),
    ];
    if !statements.is_empty() {
        charts.push(Chart::new("Statements for reads", "per second", &statements));
    }
    charts
}

fn log_row(log: &LogStats) -> LogRow {
    LogRow {
        name: log.name.clone(),
        is_fresh: log.fresh,
        lag: lag_text(log),
        position: log.position_text.clone().unwrap_or_else(|| "-".to_owned()),
        state: match log.not_fresh {
            None => "up to date".to_owned(),
            Some(reason) => reason.replace('_', " "),
        },
        transactions: log.transactions,
        changes: log.changes,
        audited: log.audited,
        mismatched: log.mismatched,
        audits_failed: log.audits_failed,
    }
}

/// The time since when memory may lack changes, and the bytes that it lacks.
fn lag_text(log: &LogStats) -> String {
    let time = log.lag_ms.map(|ms| format!("{:.1} s", ms as f64 / 1_000.0));
    let bytes = log.lag_bytes.map(|bytes| bytes_text(usize::try_from(bytes).unwrap_or(usize::MAX)));
    match (time, bytes) {
        (Some(time), Some(bytes)) => format!("{time}, {bytes}"),
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) => "-".to_owned(),
    }
}

fn memory_view(stats: &MemoryStats) -> MemoryView {
    let share = |bytes: usize| (bytes as u64 * 100).checked_div(stats.budget_bytes as u64);
    let kind = |(name, entries, bytes): (&'static str, usize, usize)| MemoryKind {
        name,
        entries,
        bytes: bytes_text(bytes),
        share: share(bytes).unwrap_or_default().min(100),
    };
    let kinds = [
        ("posts of authors", stats.tail_posts, stats.tail_bytes),
        ("follow lists", stats.follow_edges, stats.follow_bytes),
        ("index of users", stats.users, stats.index_bytes),
        ("recent log", stats.recent_entries, stats.recent_bytes),
        ("news", stats.news_changes, stats.news_bytes),
        ("page cache", stats.pages, stats.page_bytes),
    ];
    let used = kinds.iter().map(|(_, _, bytes)| bytes).sum();
    MemoryView {
        used: bytes_text(used),
        budget: bytes_text(stats.budget_bytes),
        share: share(used).unwrap_or_default().min(100),
        kinds: kinds.into_iter().map(kind).collect(),
    }
}

/// A number of bytes in the unit that people read.
fn bytes_text(bytes: usize) -> String {
    const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}
