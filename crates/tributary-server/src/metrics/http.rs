//! The metrics of answers: durations by route and status, pages by kind, freshness tokens, writes.
//! Also the state of the shards.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use tributary::Tributary;
use tributary::internal::fleet;
use tributary::internal::stats::{MemoryStats, WriteStats};

use crate::health::{SHARD_STATES, status_of};
use crate::observe::{Observed, PAGE_RESULTS, PAGE_SOURCES};

/// Durations, with the names that OpenTelemetry defines for HTTP servers.
#[derive(Debug)]
pub(super) struct Requests(pub(super) Arc<Observed>);

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let name = "http_server_request_duration_seconds";
        let help = "Time from the head of a request to its answer, which is not sent yet";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for ((method, route), status, durations) in self.0.requests() {
            let status = if status == 0 { "other".to_owned() } else { status.to_string() };
            let labels = [
                ("http_request_method", method),
                ("http_route", route),
                ("http_response_status_code", status.as_str()),
            ];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                durations.sum_seconds,
                durations.count,
                &durations.buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// Pages, tokens, writes and shards.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) observed: Arc<Observed>,
    pub(super) tributary: Tributary,
}

impl Collector for Answers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Pages by where they were read and by what they lack";
        let mut family = encoder.encode_descriptor("pages", help, None, MetricType::Counter)?;
        let cached = MemoryStats::of(&self.tributary).map_or(0, |memory| memory.page_cache_hits);
        let read = PAGE_SOURCES.iter().flat_map(|(source, source_name)| {
            PAGE_RESULTS.iter().map(move |(result, result_name)| {
                (*source_name, *result_name, self.observed.pages(*source, *result))
            })
        });
        for (source, result, count) in [("page_cache", "complete", cached)].into_iter().chain(read)
        {
            let labels = [("source", source), ("result", result)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "Pages for which memory or a database had to reach a freshness token; lost if \
                    the page is older than the token";
        let mut family = encoder.encode_descriptor("tokens", help, None, MetricType::Counter)?;
        for (result, reached) in [("reached", true), ("lost", false)] {
            let labels = [("result", result)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&self.observed.tokens(reached), None)?;
        }
        self.encode_writes(&mut encoder)?;
        self.encode_shards(&mut encoder)
    }
}

impl Answers {
    fn encode_writes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = WriteStats::of(&self.tributary);
        let help = "Writes by operation and outcome; rejected ones break a rule of the API";
        let mut family = encoder.encode_descriptor("writes", help, None, MetricType::Counter)?;
        for (operation, outcome, count) in stats.writes {
            let labels = [("operation", operation), ("outcome", outcome)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "Commits of posts whose connection was lost, by what had become of them";
        let mut family = encoder.encode_descriptor("doubts", help, None, MetricType::Counter)?;
        for (outcome, count) in stats.doubts {
            let labels = [("outcome", outcome)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    /// The number of shards in each state, and for each shard whether it is missing.
    fn encode_shards(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let health = fleet(&self.tributary).health();
        let states: Vec<&str> = health.iter().map(status_of).collect();
        let help = "Shards by state; a missing one is served from memory as stale, or not at all";
        let mut family = encoder.encode_descriptor("shards", help, None, MetricType::Gauge)?;
        for state in SHARD_STATES {
            let count = states.iter().filter(|of_shard| **of_shard == state).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            family.encode_family(&[("state", state)])?.encode_gauge(&count)?;
        }
        let help = "1 for each shard that does not answer, else 0";
        let mut family =
            encoder.encode_descriptor("shard_missing", help, None, MetricType::Gauge)?;
        for shard in &health {
            let missing = i64::from(shard.state.is_err());
            family.encode_family(&[("shard", shard.name)])?.encode_gauge(&missing)?;
        }
        Ok(())
    }
}
