//! Metrics that kube-proxy has as well, with its names, types, labels and buckets (pkg/proxy/metrics/metrics.go), so that
//! its dashboards and alerts go on to work.

use std::time::{Duration, SystemTime};

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    core::Collector, exponential_buckets,
};

use super::{catch_up, seconds, to_i64};

/// Label of a family: `IPv4` or `IPv6`.
const FAMILY: &str = "ip_family";

/// Numbers of changes of one kind of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeCount {
    /// All so far.
    pub total: u64,
    /// Those that no sync has planned yet.
    pub pending: u64,
}

/// Health page of the process that kube-proxy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthPage {
    /// `/healthz`.
    Healthz,
    /// `/livez`.
    Livez,
}

/// Metrics of kube-proxy. A sync here is of both families; it counts for those that its Services have.
#[derive(Debug)]
pub struct ProxyMetrics {
    sync_seconds: HistogramVec,
    queued: GaugeVec,
    synced: GaugeVec,
    endpoint_changes: IntCounter,
    endpoint_changes_pending: IntGauge,
    service_changes: IntCounter,
    service_changes_pending: IntGauge,
    no_local_endpoints: IntGaugeVec,
    programming_seconds: HistogramVec,
    conntrack_seconds: HistogramVec,
    conntrack_deleted: IntCounterVec,
    healthz: IntCounterVec,
    livez: IntCounterVec,
}

impl ProxyMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let latencies = exponential_buckets(0.001, 2.0, 15)?;
        let no_local_endpoints = Opts::new(
            sync("no_local_endpoints_total"),
            "Services with a Local traffic policy that have endpoints, but none on this node",
        );
        Ok(ProxyMetrics {
            sync_seconds: histogram(
                &sync("duration_seconds"),
                "Duration of the syncs that planned Services",
                latencies.clone(),
            )?,
            queued: gauge(
                "last_queued_timestamp_seconds",
                "Time of the last change of a Service or its endpoints",
            )?,
            synced: gauge(
                "last_timestamp_seconds",
                "End of the last step of the loop after which no change waited",
            )?,
            endpoint_changes: changes("endpoint_changes_total", "Changes of EndpointSlices that arrived")?,
            endpoint_changes_pending: pending(
                "endpoint_changes_pending",
                "Changes of EndpointSlices that no sync has planned yet",
            )?,
            service_changes: changes("service_changes_total", "Changes of Services that arrived")?,
            service_changes_pending: pending(
                "service_changes_pending",
                "Changes of Services that no sync has planned yet",
            )?,
            no_local_endpoints: IntGaugeVec::new(no_local_endpoints, &["traffic_policy", FAMILY])?,
            programming_seconds: histogram(
                "kubeproxy_network_programming_duration_seconds",
                "Time from the change of a pod or Service to the end of the sync that programmed it",
                programming_buckets(),
            )?,
            conntrack_seconds: histogram(
                "kubeproxy_conntrack_reconciler_sync_duration_seconds",
                "Duration of the syncs that walked the table of tracked connections",
                latencies,
            )?,
            conntrack_deleted: counter(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "Tracked connections that were deleted",
                FAMILY,
            )?,
            healthz: counter("kubeproxy_proxy_healthz_total", "Answers of /healthz, by status", "code")?,
            livez: counter("kubeproxy_proxy_livez_total", "Answers of /livez, by status", "code")?,
        })
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.sync_seconds.clone()),
            Box::new(self.queued.clone()),
            Box::new(self.synced.clone()),
            Box::new(self.endpoint_changes.clone()),
            Box::new(self.endpoint_changes_pending.clone()),
            Box::new(self.service_changes.clone()),
            Box::new(self.service_changes_pending.clone()),
            Box::new(self.no_local_endpoints.clone()),
            Box::new(self.programming_seconds.clone()),
            Box::new(self.conntrack_seconds.clone()),
            Box::new(self.conntrack_deleted.clone()),
            Box::new(self.healthz.clone()),
            Box::new(self.livez.clone()),
        ]
    }

    /// Records a sync that planned Services of a family.
    pub fn record_sync(&self, family: &str, took: Duration) {
        self.sync_seconds.with_label_values(&[family]).observe(took.as_secs_f64());
    }

    /// Sets the time of the last change.
    pub fn set_queued(&self, family: &str, at: SystemTime) {
        self.queued.with_label_values(&[family]).set(seconds(at));
    }

    /// Sets the time at which no change waited last.
    pub fn set_synced(&self, family: &str, at: SystemTime) {
        self.synced.with_label_values(&[family]).set(seconds(at));
    }

    /// Sets the numbers of changes of EndpointSlices and Services.
    pub fn set_changes(&self, slices: ChangeCount, services: ChangeCount) {
        catch_up(&self.endpoint_changes, slices.total);
        self.endpoint_changes_pending.set(to_i64(slices.pending));
        catch_up(&self.service_changes, services.total);
        self.service_changes_pending.set(to_i64(services.pending));
    }

    /// Sets the number of Services that a Local traffic policy, `internal` or `external`, leaves without an endpoint
    /// here.
    pub fn set_no_local_endpoints(&self, policy: &str, family: &str, services: usize) {
        self.no_local_endpoints.with_label_values(&[policy, family]).set(to_i64(services));
    }

    /// Records a change of endpoints that has been programmed.
    pub fn record_programming(&self, family: &str, took: Duration) {
        self.programming_seconds.with_label_values(&[family]).observe(took.as_secs_f64());
    }

    /// Records a walk over the tracked connections of a family.
    pub fn record_conntrack(&self, family: &str, took: Duration, deleted: usize) {
        self.conntrack_seconds.with_label_values(&[family]).observe(took.as_secs_f64());
        super::add(&self.conntrack_deleted.with_label_values(&[family]), deleted);
    }

    /// Counts an answer of a health page.
    pub(crate) fn count_answer(&self, page: HealthPage, status: u16) {
        let answers = match page {
            HealthPage::Healthz => &self.healthz,
            HealthPage::Livez => &self.livez,
        };
        answers.with_label_values(&[status.to_string().as_str()]).inc();
    }
}

/// Name of a metric of syncs.
fn sync(name: &str) -> String {
    format!("kubeproxy_sync_proxy_rules_{name}")
}

fn gauge(name: &str, help: &str) -> Result<GaugeVec, prometheus::Error> {
    GaugeVec::new(Opts::new(sync(name), help), &[FAMILY])
}

fn changes(name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    IntCounter::new(sync(name), help)
}

fn pending(name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    IntGauge::new(sync(name), help)
}

fn counter(name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), &[label])
}

fn histogram(name: &str, help: &str, buckets: Vec<f64>) -> Result<HistogramVec, prometheus::Error> {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &[FAMILY])
}

/// Bounds from a quarter of a second to five minutes.
fn programming_buckets() -> Vec<f64> {
    let steps = |from: u32, to: u32, step: usize| (from..=to).step_by(step).map(f64::from);
    let first = [0.25, 0.5].into_iter();
    first.chain(steps(1, 59, 1)).chain(steps(60, 115, 5)).chain(steps(120, 300, 30)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    /// Every metric of kube-proxy 1.36 in mode ipvs, with type and labels, but for the count of failures of
    /// iptables-restore, which does not run here.
    const KUBE_PROXY: [(&str, &str, &[&str]); 13] = [
        ("conntrack_reconciler_deleted_entries_total", "counter", &["ip_family"]),
        ("conntrack_reconciler_sync_duration_seconds", "histogram", &["ip_family"]),
        ("network_programming_duration_seconds", "histogram", &["ip_family"]),
        ("proxy_healthz_total", "counter", &["code"]),
        ("proxy_livez_total", "counter", &["code"]),
        ("sync_proxy_rules_duration_seconds", "histogram", &["ip_family"]),
        ("sync_proxy_rules_endpoint_changes_pending", "gauge", &[]),
        ("sync_proxy_rules_endpoint_changes_total", "counter", &[]),
        ("sync_proxy_rules_last_queued_timestamp_seconds", "gauge", &["ip_family"]),
        ("sync_proxy_rules_last_timestamp_seconds", "gauge", &["ip_family"]),
        ("sync_proxy_rules_no_local_endpoints_total", "gauge", &["traffic_policy", "ip_family"]),
        ("sync_proxy_rules_service_changes_pending", "gauge", &[]),
        ("sync_proxy_rules_service_changes_total", "counter", &[]),
    ];

    #[test]
    fn names_types_and_labels_are_those_of_kube_proxy() {
        let mut ours = Metrics::new([]).unwrap().families();
        ours.retain(|family| family.name.starts_with("kubeproxy_"));
        ours.sort();
        let theirs = KUBE_PROXY.map(|(name, kind, labels)| crate::Family {
            name: format!("kubeproxy_{name}"),
            kind,
            labels: labels.iter().map(ToString::to_string).collect(),
        });
        assert_eq!(ours, theirs);
    }

    #[test]
    fn buckets_are_those_of_kube_proxy() {
        let metrics = Metrics::new([]).unwrap();
        metrics.kube_proxy.record_programming("IPv4", Duration::from_millis(1500));
        metrics.kube_proxy.record_sync("IPv6", Duration::from_millis(3));
        let text = metrics.render(std::time::Instant::now()).unwrap();
        let bounds = |name: &str| {
            let start = format!("{name}_bucket{{ip_family=");
            let lines = text.lines().filter(|line| line.starts_with(&start));
            let bound = |line: &str| line.split("le=\"").nth(1)?.split('"').next().map(str::to_owned);
            lines.filter_map(bound).collect::<Vec<_>>()
        };
        let programming = bounds("kubeproxy_network_programming_duration_seconds");
        assert_eq!(programming.len(), 2 + 59 + 12 + 7 + 1);
        for bound in ["0.25", "0.5", "1", "59", "60", "115", "120", "150", "300", "+Inf"] {
            assert!(programming.iter().any(|other| other == bound), "{bound} in {programming:?}");
        }
        let sync = bounds("kubeproxy_sync_proxy_rules_duration_seconds");
        assert_eq!((sync.len(), sync[0].as_str(), sync[14].as_str()), (16, "0.001", "16.384"));
        let two = "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"2\"} 1";
        assert!(text.lines().any(|line| line == two), "{text}");
    }

    #[test]
    fn changes_times_and_answers_are_counted() {
        let metrics = Metrics::new([]).unwrap();
        let (slices, services) = (ChangeCount { total: 7, pending: 2 }, ChangeCount { total: 3, pending: 0 });
        let proxy = &metrics.kube_proxy;
        proxy.set_changes(ChangeCount { total: 5, pending: 5 }, services);
        proxy.set_changes(slices, services);
        proxy.set_queued("IPv4", SystemTime::UNIX_EPOCH + Duration::from_millis(12_500));
        proxy.set_synced("IPv6", SystemTime::UNIX_EPOCH + Duration::from_secs(13));
        proxy.set_no_local_endpoints("external", "IPv4", 4);
        proxy.record_conntrack("IPv4", Duration::from_millis(1), 9);
        for status in [200, 503, 200] {
            proxy.count_answer(HealthPage::Healthz, status);
        }
        let text = metrics.render(std::time::Instant::now()).unwrap();
        for line in [
            "sync_proxy_rules_endpoint_changes_total 7",
            "sync_proxy_rules_endpoint_changes_pending 2",
            "sync_proxy_rules_service_changes_total 3",
            "sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} 12.5",
            "sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 13",
            "sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 4",
            "conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 9",
            "proxy_healthz_total{code=\"200\"} 2",
            "proxy_healthz_total{code=\"503\"} 1",
        ] {
            let line = format!("kubeproxy_{line}");
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
