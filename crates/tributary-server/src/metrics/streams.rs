//! The metrics of the streams of events.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::live::Streams;

#[derive(Debug)]
pub(super) struct OfStreams(pub(super) Arc<Streams>);

impl Collector for OfStreams {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        let open = i64::try_from(stats.open).unwrap_or(i64::MAX);
        encoder
            .encode_descriptor("streams", "Open streams of events", None, MetricType::Gauge)?
            .encode_gauge(&open)?;
        let counters = [
            ("streams_refused", "Streams refused because all were taken", stats.refused),
            ("stream_events", "Events sent on streams", stats.events),
        ];
        for (name, help, value) in counters {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let help = "Streams that have ended, by reason";
        let kind = MetricType::Counter;
        let mut family = encoder.encode_descriptor("streams_ended", help, None, kind)?;
        for (reason, count) in &stats.ended {
            let labels = [("reason", *reason)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        Ok(())
    }
}
