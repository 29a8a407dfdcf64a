//! Metrics of the loop: what it has programmed, how long that took, and what waits.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, core::Collector,
    exponential_buckets,
};

use super::{catch_up, seconds, to_i64};

/// Buckets of plans, from a single write to the first plan of a large cluster.
const PLAN_WRITES: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 10_000.0, 100_000.0];

/// Part of the time that a change takes from the API server to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the change of a pod to the arrival of the EndpointSlice.
    Delivery,
    /// From the arrival of the first change to the beginning of the sync that plans it.
    Queue,
    /// From there to the last write.
    Sync,
}

impl Stage {
    const ALL: [Stage; 3] = [Stage::Delivery, Stage::Queue, Stage::Sync];

    const fn as_str(self) -> &'static str {
        match self {
            Stage::Delivery => "delivery",
            Stage::Queue => "queue",
            Stage::Sync => "sync",
        }
    }
}

/// Metrics of the loop.
#[derive(Debug)]
pub struct SyncMetrics {
    services: IntGauge,
    virtual_servers: IntGauge,
    real_servers: IntGauge,
    retrying: IntGauge,
    stages: HistogramVec,
    plans: Histogram,
    dumps_interrupted: IntCounterVec,
    synced: Gauge,
    waiting: Gauge,
    /// Arrival of the oldest change that is not programmed; the gauge is its age, and set when somebody looks.
    waiting_since: Mutex<Option<Instant>>,
}

impl SyncMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let stages = HistogramOpts::new(
            "kube_ipvs_programming_stage_duration_seconds",
            "Time that changes took from the API server to the kernel, by stage",
        );
        let plans = HistogramOpts::new("kube_ipvs_plan_writes", "Writes of the plans that were not empty");
        let dumps_interrupted = Opts::new(
            "kube_ipvs_dumps_interrupted_total",
            "Dumps that changes of the table interrupted, so that they were repeated, by table",
        );
        let metrics = SyncMetrics {
            services: IntGauge::new("kube_ipvs_services", "Services that are served on this node")?,
            virtual_servers: IntGauge::new(
                "kube_ipvs_virtual_servers",
                "Virtual servers in the kernel, those of other programs included",
            )?,
            real_servers: IntGauge::new(
                "kube_ipvs_real_servers",
                "Real servers of kube-ipvs in the kernel, those that drain included",
            )?,
            retrying: IntGauge::new(
                "kube_ipvs_retrying_objects",
                "Objects with a refused write that is tried again",
            )?,
            stages: HistogramVec::new(stages.buckets(exponential_buckets(0.001, 2.0, 18)?), &["stage"])?,
            plans: Histogram::with_opts(plans.buckets(PLAN_WRITES.to_vec()))?,
            dumps_interrupted: IntCounterVec::new(dumps_interrupted, &["table"])?,
            synced: Gauge::new(
                "kube_ipvs_last_sync_timestamp_seconds",
                "Time at which no change waited for the kernel last; 0 before the first programming",
            )?,
            waiting: Gauge::new(
                "kube_ipvs_oldest_waiting_change_seconds",
                "Age of the oldest change that is not in the kernel; 0 if there is none",
            )?,
            waiting_since: Mutex::default(),
        };
        for stage in Stage::ALL {
            metrics.stages.with_label_values(&[stage.as_str()]);
        }
        Ok(metrics)
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.services.clone()),
            Box::new(self.virtual_servers.clone()),
            Box::new(self.real_servers.clone()),
            Box::new(self.retrying.clone()),
            Box::new(self.stages.clone()),
            Box::new(self.plans.clone()),
            Box::new(self.dumps_interrupted.clone()),
            Box::new(self.synced.clone()),
            Box::new(self.waiting.clone()),
        ]
    }

    /// Sets the numbers of programmed objects.
    pub fn set_totals(&self, services: usize, virtual_servers: usize, real_servers: usize) {
        self.services.set(to_i64(services));
        self.virtual_servers.set(to_i64(virtual_servers));
        self.real_servers.set(to_i64(real_servers));
    }

    /// Sets the number of objects with a refused write that is tried again.
    pub fn set_retrying(&self, objects: usize) {
        self.retrying.set(to_i64(objects));
    }

    /// Records the time that changes took in a stage.
    pub fn record_stage(&self, stage: Stage, took: Duration) {
        self.stages.with_label_values(&[stage.as_str()]).observe(took.as_secs_f64());
    }

    /// Records a plan; an empty one does not count.
    pub fn record_plan(&self, writes: usize) {
        if writes > 0 {
            self.plans.observe(f64::from(u32::try_from(writes).unwrap_or(u32::MAX)));
        }
    }

    /// Sets the number of dumps of a table that were interrupted so far.
    pub fn set_dumps_interrupted(&self, table: &str, total: u64) {
        catch_up(&self.dumps_interrupted.with_label_values(&[table]), total);
    }

    /// Sets the time at which no change waited last.
    pub fn set_synced(&self, at: SystemTime) {
        self.synced.set(seconds(at));
    }

    /// Sets the arrival of the oldest change that is not programmed.
    pub fn set_waiting_since(&self, since: Option<Instant>) {
        *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    pub(super) fn refresh(&self, now: Instant) {
        let since = *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
        let age = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.waiting.set(age.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn what_is_programmed_and_what_waits() {
        let (metrics, now) = (Metrics::new([]).unwrap(), Instant::now());
        let has = |line: &str| {
            let text = metrics.render(now + Duration::from_secs(90)).unwrap();
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        };
        has("kube_ipvs_oldest_waiting_change_seconds 0");
        has("kube_ipvs_programming_stage_duration_seconds_count{stage=\"queue\"} 0");
        let sync = &metrics.sync;
        sync.set_waiting_since(Some(now));
        has("kube_ipvs_oldest_waiting_change_seconds 90");
        sync.set_waiting_since(None);
        has("kube_ipvs_oldest_waiting_change_seconds 0");
        sync.set_totals(3, 20, 100);
        sync.set_retrying(2);
        sync.set_dumps_interrupted("rules", 3);
        sync.record_stage(Stage::Sync, Duration::from_millis(3));
        sync.record_plan(0);
        sync.record_plan(7);
        sync.set_synced(SystemTime::UNIX_EPOCH + Duration::from_secs(77));
        has("kube_ipvs_services 3");
        has("kube_ipvs_virtual_servers 20");
        has("kube_ipvs_real_servers 100");
        has("kube_ipvs_retrying_objects 2");
        has("kube_ipvs_dumps_interrupted_total{table=\"rules\"} 3");
        has("kube_ipvs_programming_stage_duration_seconds_bucket{stage=\"sync\",le=\"0.004\"} 1");
        has("kube_ipvs_plan_writes_count 1");
        has("kube_ipvs_plan_writes_bucket{le=\"5\"} 0");
        has("kube_ipvs_last_sync_timestamp_seconds 77");
    }
}
