//! The report of a run, as text and as JSON.

use std::fmt::{self, Display, Write};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::drive::LoadPlan;
use super::record::Record;

/// The reported percentiles; the maximum is reported too.
const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// A finished run.
#[derive(Debug)]
pub struct Report {
    pub(super) plan: LoadPlan,
    pub(super) record: Record,
    pub(super) used: RunUsage,
    /// Requests that were due and never sent, because no connection was free.
    pub(super) unsent: u64,
    /// The server's memory metrics; empty if it has none.
    pub(super) memory: Vec<(String, f64)>,
}

/// The resources that processes used in the measured time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunUsage {
    /// CPU seconds of the server.
    pub(super) server_seconds: Option<f64>,
    /// Resident memory of the server at the end, in bytes.
    pub(super) server_bytes: Option<u64>,
    /// CPU seconds of this process.
    pub(super) client_seconds: Option<f64>,
}

impl Report {
    /// Answers per second.
    pub(super) fn rate(&self) -> f64 {
        self.record.answers as f64 / self.record.seconds()
    }

    /// Mean length of an answer's body, in bytes.
    pub(super) fn bytes_mean(&self) -> f64 {
        self.record.bytes as f64 / self.record.answers.max(1) as f64
    }

    /// The server's CPU time per answer, in microseconds; replies to the probe are included.
    pub(super) fn server_micros(&self) -> Option<f64> {
        let answers = self.record.answers + self.record.probe_answers;
        self.used.server_seconds.map(|seconds| seconds * 1e6 / answers.max(1) as f64)
    }

    /// CPU cores that this process used. `None` for a run with a rate: it waits for the clock
    /// without sleeping, so its CPU time means nothing.
    pub(super) fn client_cores(&self) -> Option<f64> {
        let seconds = self.used.client_seconds.filter(|_| self.plan.rate.is_none())?;
        Some(seconds / self.record.seconds())
    }

    /// Whether every request that was due was sent and succeeded.
    pub fn is_complete(&self) -> bool {
        self.unsent == 0 && self.record.failures.is_empty()
    }

    /// Latencies of all requests.
    pub fn latencies(&self) -> &Histogram<u64> {
        &self.record.all
    }

    /// The title of the text report and of the plot.
    pub fn title(&self) -> String {
        let LoadPlan { mix, rate, connections, seconds, .. } = &self.plan;
        let rate = rate.map_or("as fast as it can".to_owned(), |rate| format!("{rate} requests/s"));
        format!("mix {}, {rate}, {connections} connections, {seconds} s", mix.name())
    }

    /// Everything as JSON.
    pub fn json(&self) -> Value {
        let Self { plan, record, used, .. } = self;
        let kinds = record.kinds.iter().filter(|(_, latencies)| !latencies.is_empty());
        let kinds: serde_json::Map<String, Value> =
            kinds.map(|(kind, latencies)| (kind.name().into(), percentiles(latencies))).collect();
        json!({
            "url": plan.url,
            "mix": plan.mix.name(),
            "rate": plan.rate,
            "connections": plan.connections,
            "seconds": plan.seconds,
            "seed": plan.seed,
            "version": env!("CARGO_PKG_VERSION"),
            "answers": record.answers,
            "answers_per_second": self.rate(),
            "answer_bytes_mean": self.bytes_mean(),
            "unsent": self.unsent,
            "latency_us": percentiles(&record.all),
            "latency_us_by_kind": kinds,
            "visible_us": percentiles(&record.visible),
            "server_cpu_us_per_answer": self.server_micros(),
            "server_cpu_seconds": used.server_seconds,
            "server_resident_bytes": used.server_bytes,
            "client_cores": self.client_cores(),
            "checked": record.checked,
            "incomplete": record.incomplete,
            "failures": record.failures,
            "memory": self.memory.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        })
    }
}

fn percentiles(latencies: &Histogram<u64>) -> Value {
    let mut values = serde_json::Map::from_iter([("count".to_owned(), json!(latencies.len()))]);
    if !latencies.is_empty() {
        for percentile in PERCENTILES {
            values
                .insert(format!("p{percentile}"), json!(latencies.value_at_percentile(percentile)));
        }
        values.insert("max".to_owned(), json!(latencies.max()));
    }
    values.into()
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record, used, .. } = self;
        writeln!(f, "{}", self.title())?;
        let (rate, bytes) = (self.rate(), self.bytes_mean());
        writeln!(f, "{rate:.0} answers/s, mean body {bytes:.0} bytes")?;
        if self.unsent > 0 {
            writeln!(f, "RATE NOT REACHED: {} requests were due and never sent", self.unsent)?;
        }
        writeln!(f, "\n{:<20} {:>9} {}", "milliseconds", "answers", HEADINGS)?;
        writeln!(f, "{}", row("all", &record.all))?;
        for (kind, latencies) in record.kinds.iter().filter(|(_, of)| !of.is_empty()) {
            writeln!(f, "{}", row(kind.name(), latencies))?;
        }
        if !record.visible.is_empty() {
            writeln!(f, "{}", row("201 until visible", &record.visible))?;
        }
        writeln!(f)?;
        if let (Some(micros), Some(seconds)) = (self.server_micros(), used.server_seconds) {
            let (cores, mib) =
                (seconds / record.seconds(), used.server_bytes.unwrap_or(0) as f64 / 1_048_576.0);
            writeln!(
                f,
                "server: {micros:.1} us of CPU per answer, {cores:.2} cores, {mib:.1} MiB resident"
            )?;
        }
        if let Some(cores) = self.client_cores() {
            writeln!(f, "this process: {cores:.2} cores")?;
        }
        for (name, value) in &self.memory {
            writeln!(f, "{name}: {value}")?;
        }
        for (failure, count) in &record.failures {
            writeln!(f, "FAILED {count} times: {failure}")?;
        }
        let (checked, incomplete) = (record.checked, record.incomplete);
        if checked + incomplete == 0 {
            return write!(f, "no page was checked");
        }
        write!(
            f,
            "checked: {checked} pages, all correct; {incomplete} more were incomplete, not checked"
        )
    }
}

const HEADINGS: &str = "     p50      p90      p99    p99.9      max";

fn row(name: &str, latencies: &Histogram<u64>) -> String {
    let mut row = format!("{name:<20} {:>9} ", latencies.len());
    let values = PERCENTILES.iter().map(|percentile| latencies.value_at_percentile(*percentile));
    for value in values.chain([latencies.max()]) {
        let _ = write!(row, "{:>8.3} ", value as f64 / 1_000.0);
    }
    row.trim_end().to_owned()
}
