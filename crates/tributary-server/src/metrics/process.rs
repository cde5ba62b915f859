//! The metrics of this process: its background tasks, the connections and the limits of clients,
//! its certificate, and its version.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use tributary::internal::tasks::TaskStats;

use crate::connections::Connections;
use crate::limits::CurrentLimiter;
use crate::tls::Certificate;

#[derive(Debug)]
pub(super) struct Process {
    pub(super) tasks: Vec<TaskStats>,
    pub(super) clients: Option<Arc<Connections>>,
    pub(super) limiter: Option<CurrentLimiter>,
    pub(super) certificate: Option<Certificate>,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "1; the label is the version of this process";
        let mut family = encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        family.encode_family(&labels)?.encode_gauge(&1_i64)?;
        self.encode_tasks(&mut encoder)?;
        self.encode_connections(&mut encoder)?;
        self.encode_refusals(&mut encoder)?;
        let (name, help) = (
            "certificate_expiry_timestamp_seconds",
            "End of the validity of the certificate, in seconds since 1970",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let expiry = self.certificate.as_ref().and_then(Certificate::expires_s);
        expiry.map_or(Ok(()), |expiry| metric.encode_gauge(&expiry))
    }
}

impl Process {
    fn encode_tasks(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "1 if the background task runs now; a task that has done its work does not";
        let mut family =
            encoder.encode_descriptor("task_running", help, None, MetricType::Gauge)?;
        for task in &self.tasks {
            let labels = [("task", task.name), ("of", task.of.as_str())];
            family.encode_family(&labels)?.encode_gauge(&i64::from(task.is_running))?;
        }
        let help = "Times that the background task panicked and was started again";
        let mut family =
            encoder.encode_descriptor("task_restarts", help, None, MetricType::Counter)?;
        for task in &self.tasks {
            let labels = [("task", task.name), ("of", task.of.as_str())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&task.restarts, None)?;
        }
        Ok(())
    }

    fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(clients) = &self.clients else { return Ok(()) };
        let (open, ended) = clients.stats();
        let (help, open) = ("Open connections of clients", i64::try_from(open).unwrap_or(i64::MAX));
        encoder
            .encode_descriptor("client_connections", help, None, MetricType::Gauge)?
            .encode_gauge(&open)?;
        let help = "Connections of clients that were closed or refused because of a limit";
        let name = "client_connections_closed";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (reason, count) in ended {
            let labels = [("reason", reason)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    fn encode_refusals(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Requests that were answered 429 because their client exceeded this limit";
        let name = "refused_requests";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        let limiter = self.limiter.as_ref().map(CurrentLimiter::get);
        for (limit, reason, count) in limiter.iter().flat_map(|limiter| limiter.refusals()) {
            let labels = [("limit", limit), ("reason", reason)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}
