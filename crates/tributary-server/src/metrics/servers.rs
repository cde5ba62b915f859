//! The metrics of the database servers: their gates, and the queues and pools of their connections.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use tributary::Tributary;
use tributary::internal::stats::ConnectionStats;
use tributary::internal::{Fleet, fleet};

/// A figure of each server: the name of the server, and the value.
type Figures<'a, T> = Vec<(&'a str, T)>;

/// The gates and queues of the database servers.
#[derive(Debug)]
pub(super) struct Servers(pub(super) Tributary);

impl Collector for Servers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let queues = fleet(&self.0).queues();
        if queues.is_empty() {
            return Ok(());
        }
        let open = queues.iter().map(|queue| (queue.server, usize::from(queue.in_service)));
        let help = "1 if requests are sent to the server, else 0";
        gauge(&mut encoder, "in_service", help, open.collect())?;
        let usable = queues.iter().map(|queue| (queue.server, queue.connections)).collect();
        let help = "Connections that requests may use; fewer than configured if the server refuses";
        gauge(&mut encoder, "connections", help, usable)?;
        let waiting = queues.iter().map(|queue| (queue.server, queue.waiting)).collect();
        gauge(&mut encoder, "waiting", "Requests that wait for a connection", waiting)?;
        let served = queues.iter().map(|queue| (queue.server, queue.served as f64)).collect();
        counter(&mut encoder, "served", "Requests that got a connection", served)?;
        let waited = queues.iter().map(|queue| (queue.server, queue.waited.as_secs_f64()));
        let help = "Seconds that these requests waited for their connection";
        counter(&mut encoder, "wait_seconds", help, waited.collect())?;
        let read = queues.iter().map(|queue| (queue.server, queue.read_statements as f64));
        let help = "Statements that the server has answered for reads";
        counter(&mut encoder, "read_statements", help, read.collect())?;
        let rejected = queues.iter().map(|queue| (queue.server, queue.rejected as f64)).collect();
        let help = "Requests rejected because the queue was full or the wait was too long";
        counter(&mut encoder, "rejected", help, rejected)?;
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

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    figures: Figures<'_, usize>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (server, value) in figures {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        family.encode_family(&[("server", server)])?.encode_gauge(&value)?;
    }
    Ok(())
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    figures: Figures<'_, f64>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (server, value) in figures {
        let labels = [("server", server)];
        let mut metric = family.encode_family(&labels)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
    }
    Ok(())
}
