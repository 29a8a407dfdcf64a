//! Metrics of the process, for Prometheus.
//!
//! Here are those of drains, writes and findings; the others are in `kube_proxy` (what kube-proxy has as well), `sync` (the
//! loop), `sources` and `traffic`.

mod kube_proxy;
mod sources;
mod sync;
mod traffic;

use std::time::{Duration, Instant, SystemTime};

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::{MetricFamily, MetricType},
};

pub use kube_proxy::{ChangeCount, HealthPage, ProxyMetrics};
pub use sources::SourceMetrics;
pub use sync::{Stage, SyncMetrics};
pub use traffic::{Traffic, TrafficMetrics};

/// Buckets of the histogram: drains end within seconds, or with their last connection; 15 minutes is the
/// default deadline.
const DRAIN_SECONDS: [f64; 11] = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// A metric as its documentation must describe it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// Name in the text format.
    pub name: String,
    /// Type, such as `counter` or `gauge`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: Vec<String>,
}

/// All metrics, shared by the code that counts and the server.
#[derive(Debug)]
pub struct Metrics {
    /// Those that kube-proxy has as well.
    pub kube_proxy: ProxyMetrics,
    /// Those of the loop.
    pub sync: SyncMetrics,
    /// Those of the sources of objects.
    pub sources: SourceMetrics,
    /// Traffic of Services.
    pub traffic: TrafficMetrics,
    registry: Registry,
    draining: IntGauge,
    drains_begun: IntCounter,
    drains_ended: IntCounterVec,
    drain_seconds: Histogram,
    connections_cut: IntCounter,
    writes: IntCounter,
    refused: IntCounterVec,
    drift: IntCounterVec,
    conn_reuse: IntGaugeVec,
    findings: IntGaugeVec,
    missing_schedulers: IntGaugeVec,
    refused_objects: IntGaugeVec,
    events: IntCounterVec,
}

impl Metrics {
    /// Metrics that are all zero. `outcomes` names the outcomes of drains, each of which exists from the
    /// start.
    pub fn new(outcomes: impl IntoIterator<Item = &'static str>) -> Result<Self, prometheus::Error> {
        let metrics = Metrics {
            kube_proxy: ProxyMetrics::new()?,
            sync: SyncMetrics::new()?,
            sources: SourceMetrics::new()?,
            traffic: TrafficMetrics::new()?,
            registry: Registry::new(),
            draining: IntGauge::new(
                "kube_ipvs_draining_real_servers",
                "Real servers that drain at the moment",
            )?,
            drains_begun: counter("kube_ipvs_drains_begun_total", "Drains of real servers that began")?,
            drains_ended: drains_ended(outcomes)?,
            drain_seconds: drain_seconds()?,
            connections_cut: counter(
                "kube_ipvs_drain_connections_cut_total",
                "Connections that were still active when their real server was removed",
            )?,
            writes: counter("kube_ipvs_writes_total", "Writes that the kernel executed")?,
            refused: counters(
                "kube_ipvs_writes_refused_total",
                "Writes that the kernel refused, by table and error; call if a whole call failed",
                &["table", "errno"],
            )?,
            drift: counters(
                "kube_ipvs_drift_total",
                "Objects of kube-ipvs that another program had changed, and that were repaired, by table",
                &["table"],
            )?,
            conn_reuse: gauges(
                "kube_ipvs_conn_reuse_mode_info",
                "Chosen net.ipv4.vs.conn_reuse_mode (none: left as it was), the reason, the result of the probe, and the kernel; always 1",
                &["mode", "reason", "probe", "kernel"],
            )?,
            findings: gauges(
                "kube_ipvs_node_findings",
                "Settings of the node that keep services from working, with the number of objects concerned; the log has the remedy",
                &["finding"],
            )?,
            missing_schedulers: gauges(
                "kube_ipvs_scheduler_unavailable",
                "Schedulers that the configuration or a Service names and the kernel lacks, so that another one is used; always 1",
                &["scheduler"],
            )?,
            refused_objects: gauges(
                "kube_ipvs_refused_objects",
                "VIPs and virtual servers with a write that the kernel refuses at the moment",
                &["kind"],
            )?,
            events: counters(
                "kube_ipvs_events_total",
                "Events about Services and the Node: written, known (another one is the same), or lost (too many, or refused by the API server)",
                &["result"],
            )?,
        };
        metrics.set_refused(0, 0);
        metrics.set_events(0, 0, 0);
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        self.collectors().into_iter().try_for_each(|collector| self.registry.register(collector))
    }

    /// Everything that is registered.
    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let own: [Box<dyn Collector>; 14] = [
            Box::new(self.draining.clone()),
            Box::new(self.drains_begun.clone()),
            Box::new(self.drains_ended.clone()),
            Box::new(self.drain_seconds.clone()),
            Box::new(self.connections_cut.clone()),
            Box::new(self.writes.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.drift.clone()),
            Box::new(self.conn_reuse.clone()),
            Box::new(self.findings.clone()),
            Box::new(self.missing_schedulers.clone()),
            Box::new(self.refused_objects.clone()),
            Box::new(self.events.clone()),
            Box::new(ProcessCollector::for_self()),
        ];
        let parts = [
            self.kube_proxy.collectors(),
            self.sync.collectors(),
            self.sources.collectors(),
            self.traffic.collectors(),
        ];
        own.into_iter().chain(parts.into_iter().flatten()).collect()
    }

    /// Names, types and labels of all metrics, those without a value included.
    pub fn families(&self) -> Vec<Family> {
        self.collectors().iter().flat_map(|collector| families_of(collector.as_ref())).collect()
    }

    /// Sets the number of real servers that drain at the moment.
    pub fn set_draining(&self, count: usize) {
        self.draining.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts drains that began.
    pub fn count_drains_begun(&self, count: usize) {
        add(&self.drains_begun, count);
    }

    /// Records the end of a drain.
    pub fn record_drain_end(&self, outcome: &str, after: Duration, connections_cut: u32) {
        self.drains_ended.with_label_values(&[outcome]).inc();
        self.drain_seconds.observe(after.as_secs_f64());
        self.connections_cut.inc_by(connections_cut.into());
    }

    /// Counts writes that the kernel executed.
    pub fn count_writes(&self, count: usize) {
        add(&self.writes, count);
    }

    /// Counts writes to a table that the kernel refused, with the name of the error.
    pub fn count_refused(&self, table: &str, errno: &str, count: usize) {
        add(&self.refused.with_label_values(&[table, errno]), count);
    }

    /// Counts objects of a table that others had changed.
    pub fn count_drift(&self, table: &str, count: usize) {
        add(&self.drift.with_label_values(&[table]), count);
    }

    /// Sets the choice of `conn_reuse_mode` and the reason for it.
    pub fn set_conn_reuse_mode(&self, mode: &str, reason: &str, probe: &str, kernel: &str) {
        self.conn_reuse.reset();
        self.conn_reuse.with_label_values(&[mode, reason, probe, kernel]).set(1);
    }

    /// Sets the number of objects that a finding about the node concerns at the moment.
    pub fn set_node_finding(&self, finding: &str, objects: usize) {
        let objects = i64::try_from(objects).unwrap_or(i64::MAX);
        self.findings.with_label_values(&[finding]).set(objects);
    }

    /// Sets the schedulers that somebody has chosen and the kernel lacks.
    pub fn set_unavailable_schedulers<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        self.missing_schedulers.reset();
        for name in names {
            self.missing_schedulers.with_label_values(&[name]).set(1);
        }
    }

    /// Sets the numbers of objects with a write that the kernel refuses at the moment.
    pub fn set_refused(&self, vips: usize, virtual_servers: usize) {
        for (kind, count) in [("vip", vips), ("virtual-server", virtual_servers)] {
            self.refused_objects.with_label_values(&[kind]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Sets the numbers of events so far.
    pub fn set_events(&self, written: u64, known: u64, lost: u64) {
        for (result, total) in [("written", written), ("known", known), ("lost", lost)] {
            catch_up(&self.events.with_label_values(&[result]), total);
        }
    }

    /// Renders all metrics in the text format of Prometheus.
    pub fn render(&self, now: Instant) -> Result<String, prometheus::Error> {
        self.sync.refresh(now);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn families_of(collector: &dyn Collector) -> Vec<Family> {
    let kinds = collector.collect();
    let kind_of = |name: &str| kinds.iter().find(|family| family.name() == name).map(kind_of);
    let family = |desc: &&Desc| Family {
        name: desc.fq_name.clone(),
        kind: kind_of(&desc.fq_name).unwrap_or("untyped"),
        labels: desc.variable_labels.clone(),
    };
    collector.desc().iter().map(family).collect()
}

/// The type as `# TYPE` lines have it.
fn kind_of(family: &MetricFamily) -> &'static str {
    match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
        MetricType::HISTOGRAM => "histogram",
    }
}

/// Counter of the drains that ended, with a series for each outcome.
fn drains_ended(
    outcomes: impl IntoIterator<Item = &'static str>,
) -> Result<IntCounterVec, prometheus::Error> {
    let name = "kube_ipvs_drains_ended_total";
    let ended = counters(name, "Drains of real servers that ended, by outcome", &["outcome"])?;
    for outcome in outcomes {
        ended.with_label_values(&[outcome]);
    }
    Ok(ended)
}

/// Histogram of the durations of drains.
fn drain_seconds() -> Result<Histogram, prometheus::Error> {
    let opts = HistogramOpts::new("kube_ipvs_drain_duration_seconds", "Duration of the drains that ended");
    Histogram::with_opts(opts.buckets(DRAIN_SECONDS.to_vec()))
}

fn counters(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn counter(name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    IntCounter::new(name, help)
}

/// Raises a counter to a total that is counted elsewhere.
fn catch_up(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn to_i64(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Seconds since the epoch.
fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn add(counter: &IntCounter, count: usize) {
    counter.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_exist_from_the_start_and_count() {
        let metrics = Metrics::new(["drained", "silent"]).unwrap();
        let has = |line: &str| {
            let text = metrics.render(Instant::now()).unwrap();
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        };
        has("kube_ipvs_draining_real_servers 0");
        has("kube_ipvs_drains_ended_total{outcome=\"drained\"} 0");
        has("kube_ipvs_drains_ended_total{outcome=\"silent\"} 0");
        has("kube_ipvs_refused_objects{kind=\"vip\"} 0");
        metrics.set_unavailable_schedulers(["mh", "wlc"]);
        metrics.set_unavailable_schedulers(["wlc"]);
        metrics.set_refused(2, 1);
        has("kube_ipvs_scheduler_unavailable{scheduler=\"wlc\"} 1");
        assert!(!metrics.render(Instant::now()).unwrap().contains("scheduler=\"mh\""));
        has("kube_ipvs_refused_objects{kind=\"vip\"} 2");
        has("kube_ipvs_refused_objects{kind=\"virtual-server\"} 1");
        has("kube_ipvs_events_total{result=\"lost\"} 0");
        metrics.set_events(3, 2, 1);
        metrics.set_events(4, 2, 1);
        has("kube_ipvs_events_total{result=\"written\"} 4");
        has("kube_ipvs_events_total{result=\"known\"} 2");
        metrics.set_draining(3);
        metrics.count_drains_begun(4);
        metrics.record_drain_end("silent", Duration::from_millis(7_500), 12);
        metrics.count_writes(10);
        metrics.count_refused("ipvs", "ENOSPC", 2);
        metrics.count_drift("rules", 1);
        metrics.set_conn_reuse_mode("0", "flag", "not run", "5.4");
        metrics.set_conn_reuse_mode("1", "kernel 5.9 or later", "not run", "6.12");
        metrics.set_node_finding("forward-policy-drop", 2);
        has("kube_ipvs_node_findings{finding=\"forward-policy-drop\"} 2");
        has("kube_ipvs_draining_real_servers 3");
        has("kube_ipvs_drains_begun_total 4");
        has("kube_ipvs_drains_ended_total{outcome=\"silent\"} 1");
        has("kube_ipvs_drain_duration_seconds_bucket{le=\"5\"} 0");
        has("kube_ipvs_drain_duration_seconds_bucket{le=\"10\"} 1");
        has("kube_ipvs_drain_connections_cut_total 12");
        has("kube_ipvs_writes_total 10");
        has("kube_ipvs_writes_refused_total{errno=\"ENOSPC\",table=\"ipvs\"} 2");
        has("kube_ipvs_drift_total{table=\"rules\"} 1");
        let info = r#"{kernel="6.12",mode="1",probe="not run",reason="kernel 5.9 or later"} 1"#;
        has(&format!("kube_ipvs_conn_reuse_mode_info{info}"));
        assert_eq!(metrics.render(Instant::now()).unwrap().matches("conn_reuse_mode_info{").count(), 1);
    }
}
