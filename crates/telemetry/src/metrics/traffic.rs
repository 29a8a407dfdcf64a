//! Traffic of Services. Whoever sets it bounds the number of Services.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use prometheus::{IntCounterVec, core::Collector};

use super::{catch_up, counters};

/// Directions, as labels: from clients, and to them.
const DIRECTIONS: [&str; 2] = ["in", "out"];

/// Traffic of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that were scheduled.
    pub connections: u64,
    /// Packets from clients, and to them.
    pub packets: [u64; 2],
    /// Bytes from clients, and to them.
    pub bytes: [u64; 2],
}

/// Metrics of the traffic of Services, by namespace and name; both are empty for the sum of those that are not counted by
/// themselves.
#[derive(Debug)]
pub struct TrafficMetrics {
    connections: IntCounterVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    /// Exported Services, so that the series of those that are gone can go.
    shown: Mutex<BTreeMap<(String, String), Traffic>>,
}

impl TrafficMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let directed = ["namespace", "service", "direction"];
        Ok(TrafficMetrics {
            connections: counters(
                "kube_ipvs_service_connections_total",
                "Connections to a Service that IPVS scheduled on this node",
                &["namespace", "service"],
            )?,
            packets: counters(
                "kube_ipvs_service_packets_total",
                "Packets of a Service on this node, from clients (in) and to them (out)",
                &directed,
            )?,
            bytes: counters(
                "kube_ipvs_service_bytes_total",
                "Bytes of a Service on this node, from clients (in) and to them (out)",
                &directed,
            )?,
            shown: Mutex::default(),
        })
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![Box::new(self.connections.clone()), Box::new(self.packets.clone()), Box::new(self.bytes.clone())]
    }

    /// Sets the traffic of all Services so far, by namespace and name; series of others go.
    pub fn replace(&self, now: BTreeMap<(String, String), Traffic>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (namespace, service) in shown.keys().filter(|key| !now.contains_key(*key)) {
            // A series that is not there is as good as removed.
            let _absent = self.connections.remove_label_values(&[namespace, service]);
            for (counter, direction) in self.directed() {
                let _absent = counter.remove_label_values(&[namespace.as_str(), service, direction]);
            }
        }
        for ((namespace, service), traffic) in &now {
            catch_up(&self.connections.with_label_values(&[namespace, service]), traffic.connections);
            let totals = traffic.packets.into_iter().chain(traffic.bytes);
            for ((counter, direction), total) in self.directed().zip(totals) {
                catch_up(&counter.with_label_values(&[namespace.as_str(), service, direction]), total);
            }
        }
        *shown = now;
    }

    /// Counters with a direction, in the order in which [`Traffic`] has them.
    fn directed(&self) -> impl Iterator<Item = (&IntCounterVec, &'static str)> {
        let of = |counter| DIRECTIONS.map(|direction| (counter, direction));
        of(&self.packets).into_iter().chain(of(&self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::Metrics;

    #[test]
    fn services_come_grow_and_go() {
        let metrics = Metrics::new([]).unwrap();
        let exported = || {
            let text = metrics.render(Instant::now()).unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("kube_ipvs_service_"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let set = |services: &[(&str, u64)]| {
            let traffic = |n| Traffic { connections: n, packets: [n * 2, n * 3], bytes: [n * 4, n * 5] };
            let named = services.iter().map(|(name, n)| (("ns".to_owned(), (*name).to_owned()), traffic(*n)));
            metrics.traffic.replace(named.collect());
        };
        assert_eq!(exported(), [""; 0], "nothing unless it is counted");
        set(&[("a", 1), ("b", 2)]);
        set(&[("b", 10)]);
        assert_eq!(
            exported(),
            [
                r#"bytes_total{direction="in",namespace="ns",service="b"} 40"#,
                r#"bytes_total{direction="out",namespace="ns",service="b"} 50"#,
                r#"connections_total{namespace="ns",service="b"} 10"#,
                r#"packets_total{direction="in",namespace="ns",service="b"} 20"#,
                r#"packets_total{direction="out",namespace="ns",service="b"} 30"#,
            ]
        );
        set(&[("a", 3)]);
        assert!(exported().contains(&r#"connections_total{namespace="ns",service="a"} 3"#.to_owned()));
    }
}
