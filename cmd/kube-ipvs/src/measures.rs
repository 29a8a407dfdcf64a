//! Reports of the loop and of the source as metrics.
//!
//! No clock here: whoever drives the loop hands in the times.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use dataplane::errno_name;
use kube_source::{Counted, RequestCounts};
use lb_types::IpFamily;
use reconcile::{Drift, Reconciler, Report, Standing, State};
use service_model::{ChangeCounts, ModelEvent};
use telemetry::{ChangeCount, Metrics, Stage, Traffic};

/// Least time between two counts of all objects, which cost as much as there are virtual servers.
const TOTALS_PAUSE: Duration = Duration::from_secs(5);

/// Step of the loop in time.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Begin.
    pub begun: Instant,
    /// End.
    pub ended: Instant,
    /// End by the clock on the wall.
    pub at: SystemTime,
}

/// Metrics, and what their reports depend on.
pub struct Measures {
    metrics: Arc<Metrics>,
    /// Start of the process: what was triggered before it says nothing about this node.
    started: SystemTime,
    /// Families that Services have had.
    families: RefCell<BTreeSet<IpFamily>>,
    /// Arrival of the oldest change that waits.
    waiting_since: Cell<Option<Instant>>,
    /// Changes at the last report.
    changes: Cell<ChangeCounts>,
    totals_at: Cell<Option<Instant>>,
    /// Counts of the source, with the host of the server.
    requests: Option<(RequestCounts, String)>,
}

impl Measures {
    /// Measures of a process that started at `started`.
    pub fn new(metrics: Arc<Metrics>, started: SystemTime) -> Self {
        for (table, none) in Drift::default().by_table() {
            metrics.count_drift(table.as_str(), none);
        }
        Measures {
            metrics,
            started,
            families: RefCell::default(),
            waiting_since: Cell::default(),
            changes: Cell::default(),
            totals_at: Cell::default(),
            requests: None,
        }
    }

    /// The same with the counts of a source.
    pub fn with_requests(self, requests: Option<(RequestCounts, String)>) -> Self {
        Measures { requests, ..self }
    }

    /// Reports events that arrived at `since`, before the step that looks at them.
    pub fn report_arrival(&self, since: Instant) {
        let oldest = self.waiting_since.get().map_or(since, |oldest| oldest.min(since));
        self.waiting_since.set(Some(oldest));
    }

    /// Reports a step.
    pub fn report_step(&self, report: &Report, timing: Timing) {
        let Timing { begun, ended, at } = timing;
        let took = ended.saturating_duration_since(begun);
        let Metrics { kube_proxy, sync, .. } = &*self.metrics;
        self.metrics.count_writes(report.written);
        for ((table, errno), count) in &report.refusals {
            self.metrics.count_refused(table.as_str(), errno.map_or("call", errno_name), *count);
        }
        for (table, count) in report.drift.by_table() {
            self.metrics.count_drift(table.as_str(), count);
        }
        sync.record_plan(report.planned);
        for family in &report.families {
            kube_proxy.record_sync(&family.to_string(), took);
        }
        self.families.borrow_mut().extend(&report.families);
        for (family, deleted) in &report.walked {
            kube_proxy.record_conntrack(&family.to_string(), took, *deleted);
        }
        if report.services > 0 {
            let arrived = self.waiting_since.get().unwrap_or(begun);
            sync.record_stage(Stage::Queue, begun.saturating_duration_since(arrived));
            sync.record_stage(Stage::Sync, took);
        }
        for trigger in report.programmed.iter().filter(|trigger| trigger.at >= self.started) {
            // Clocks of nodes differ: what seems to come from the future took no time.
            let took = at.duration_since(trigger.at).unwrap_or_default();
            kube_proxy.record_programming(&trigger.family.to_string(), took);
        }
    }

    /// Reports the traffic of Services, which is new after an audit of virtual servers.
    pub fn report_traffic(&self, reconciler: &Reconciler) {
        let shown = reconciler.service_traffic().map(|(service, sum)| {
            let (namespace, name) = service.map_or(("", ""), |service| (&*service.namespace, &*service.name));
            let traffic = Traffic {
                connections: sum.connections,
                packets: [sum.packets_in, sum.packets_out],
                bytes: [sum.bytes_in, sum.bytes_out],
            };
            ((namespace.to_owned(), name.to_owned()), traffic)
        });
        self.metrics.traffic.replace(shown.collect());
    }

    /// Reports what there is after a step.
    pub fn report_state(&self, reconciler: &Reconciler, timing: Timing) {
        let Metrics { kube_proxy, sync, .. } = &*self.metrics;
        let State { model, desired, .. } = reconciler.state();
        let (all, pending) = (model.changes().total(), model.changes().pending());
        let count = |total, pending| ChangeCount { total, pending };
        kube_proxy.set_changes(count(all.slices, pending.slices), count(all.services, pending.services));
        // Changes of the first lists come before any family is known, and count with the first sync.
        let has_families = !self.families.borrow().is_empty();
        if has_families && self.changes.replace(all) != all {
            self.for_families(|family| kube_proxy.set_queued(family, timing.at));
        }
        let families = self.families.borrow();
        let no_local = desired.no_local_endpoints().filter(|(_, family, _)| families.contains(family));
        for (traffic, family, services) in no_local {
            kube_proxy.set_no_local_endpoints(traffic.as_str(), &family.to_string(), services);
        }
        for (table, total) in reconciler.dumps_interrupted() {
            sync.set_dumps_interrupted(table.as_str(), total);
        }
        let is_due = |last: Instant| timing.ended.saturating_duration_since(last) >= TOTALS_PAUSE;
        if self.totals_at.get().is_none_or(is_due) {
            let totals = reconciler.totals();
            sync.set_totals(totals.services, totals.virtual_servers, totals.real_servers);
            self.totals_at.set(Some(timing.ended));
        }
        self.report_requests();
    }

    /// Reports how far the kernel is behind after a step.
    pub fn report_standing(&self, standing: Standing, timing: Timing) {
        let Metrics { kube_proxy, sync, .. } = &*self.metrics;
        sync.set_retrying(standing.refused);
        let waits = standing.waits_for.is_some();
        self.waiting_since.set(self.waiting_since.get().or(Some(timing.begun)).filter(|_| waits));
        sync.set_waiting_since(self.waiting_since.get());
        // Before all objects are known, nothing waits, and nothing is programmed either.
        if !waits && !self.families.borrow().is_empty() {
            sync.set_synced(timing.at);
            self.for_families(|family| kube_proxy.set_synced(family, timing.at));
        }
    }

    fn for_families(&self, report: impl Fn(&str)) {
        for family in &*self.families.borrow() {
            report(&family.to_string());
        }
    }

    fn report_requests(&self) {
        let Some((requests, host)) = &self.requests else { return };
        let (sources, Counted { lists, errors, requests }) = (&self.metrics.sources, requests.get());
        for (kind, total) in lists {
            sources.set_lists(kind, total);
        }
        for ((kind, code), total) in errors {
            sources.set_errors(kind, code, total);
        }
        for ((method, status), total) in requests {
            sources.set_requests(status, host, &method, total);
        }
    }
}

/// Records how long changes of endpoints took to arrive here.
pub fn record_delivery(metrics: &Metrics, events: &[ModelEvent], started: SystemTime, now: SystemTime) {
    let triggered = events.iter().filter_map(|event| match event {
        ModelEvent::SliceApplied(slice) => slice.triggered.filter(|at| *at >= started),
        _ => None,
    });
    for at in triggered {
        metrics.sync.record_stage(Stage::Delivery, now.duration_since(at).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use reconcile::{Step, TableName, Wait};
    use service_model::{EndpointSlice, Trigger, testing::plain_slice};

    use super::*;

    fn second(n: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(n)
    }

    /// Measures of a process that started in second 100, with a step of 4 ms that ended in second `at`.
    fn measures(at: u64) -> (Arc<Metrics>, Measures, Timing) {
        let metrics = Arc::new(Metrics::new([]).unwrap());
        let begun = Instant::now();
        let timing = Timing { begun, ended: begun + Duration::from_millis(4), at: second(at) };
        (Arc::clone(&metrics), Measures::new(metrics, second(100)), timing)
    }

    fn assert_has(metrics: &Metrics, now: Instant, lines: &[&str]) {
        let text = metrics.render(now).unwrap();
        for line in lines {
            assert!(text.lines().any(|other| other == *line), "{line} is not in\n{text}");
        }
    }

    /// Conformance: endpointschangetracker TestLastChangeTriggerTime
    #[test]
    fn programming_takes_from_the_trigger_to_the_end_of_the_sync() {
        let (metrics, measures, timing) = measures(107);
        let trigger = |family, at| Trigger { family, at: second(at) };
        let programmed =
            vec![trigger(IpFamily::V4, 104), trigger(IpFamily::V4, 99), trigger(IpFamily::V6, 200)];
        measures.report_step(&Report { programmed, ..Report::default() }, timing);
        let name = "kubeproxy_network_programming_duration_seconds";
        assert_has(
            &metrics,
            timing.ended,
            &[
                &format!("{name}_sum{{ip_family=\"IPv4\"}} 3"),
                // Not the one from before the start.
                &format!("{name}_count{{ip_family=\"IPv4\"}} 1"),
                &format!("{name}_bucket{{ip_family=\"IPv4\",le=\"2\"}} 0"),
                &format!("{name}_bucket{{ip_family=\"IPv4\",le=\"3\"}} 1"),
                // The clock of another node is fast.
                &format!("{name}_sum{{ip_family=\"IPv6\"}} 0"),
            ],
        );
    }

    #[test]
    fn a_step_is_counted_by_family_table_and_stage() {
        let (metrics, measures, timing) = measures(107);
        let report = Report {
            step: Step::Changes { dumped: false, walked: true },
            services: 2,
            families: [IpFamily::V6].into(),
            written: 3,
            planned: 5,
            refusals: [((TableName::Ipvs, Some(28)), 1), ((TableName::Rules, None), 1)].into(),
            drift: Drift { vips: 4, ..Drift::default() },
            walked: [(IpFamily::V6, 6)].into(),
            ..Report::default()
        };
        measures.report_arrival(timing.begun.checked_sub(Duration::from_secs(2)).unwrap());
        measures.report_arrival(timing.begun);
        measures.report_step(&report, timing);
        measures.report_standing(Standing { refused: 7, ..Standing::default() }, timing);
        assert_has(
            &metrics,
            timing.ended,
            &[
                "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv6\",le=\"0.004\"} 1",
                "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv6\"} 6",
                "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv6\"} 1",
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 107",
                "kube_ipvs_last_sync_timestamp_seconds 107",
                "kube_ipvs_writes_total 3",
                "kube_ipvs_plan_writes_sum 5",
                "kube_ipvs_writes_refused_total{errno=\"ENOSPC\",table=\"ipvs\"} 1",
                "kube_ipvs_writes_refused_total{errno=\"call\",table=\"rules\"} 1",
                "kube_ipvs_drift_total{table=\"vips\"} 4",
                "kube_ipvs_drift_total{table=\"ipvs\"} 0",
                "kube_ipvs_programming_stage_duration_seconds_sum{stage=\"queue\"} 2",
                "kube_ipvs_programming_stage_duration_seconds_sum{stage=\"sync\"} 0.004",
                "kube_ipvs_retrying_objects 7",
                "kube_ipvs_oldest_waiting_change_seconds 0",
            ],
        );
        assert!(!metrics.render(timing.ended).unwrap().contains("ip_family=\"IPv4\""));
    }

    #[test]
    fn a_change_ages_until_nothing_waits() {
        let (metrics, measures, timing) = measures(107);
        let waits = Standing { waits_for: Some(Wait::Base), ..Standing::default() };
        let age = |seconds: u64| format!("kube_ipvs_oldest_waiting_change_seconds {seconds}");
        measures.report_arrival(timing.begun);
        measures.report_standing(waits, timing);
        measures.report_arrival(timing.begun + Duration::from_secs(5));
        measures.report_standing(waits, timing);
        assert_has(&metrics, timing.begun + Duration::from_secs(9), &[&age(9)]);
        measures.report_standing(Standing::default(), timing);
        assert_has(&metrics, timing.begun + Duration::from_secs(9), &[&age(0)]);
        assert_has(&metrics, timing.begun, &["kube_ipvs_last_sync_timestamp_seconds 0"]);
    }

    #[test]
    fn delivery_takes_from_the_trigger_to_the_arrival() {
        let (metrics, _, timing) = measures(107);
        let slice = |at: Option<u64>| {
            let slice = plain_slice("a-1", lb_types::ServiceName::new("ns", "a"), Vec::new(), Vec::new());
            ModelEvent::SliceApplied(EndpointSlice { triggered: at.map(second), ..slice })
        };
        let events = [slice(Some(105)), slice(Some(99)), slice(None), ModelEvent::Synced];
        record_delivery(&metrics, &events, second(100), second(107));
        let name = "kube_ipvs_programming_stage_duration_seconds";
        let lines =
            [format!("{name}_sum{{stage=\"delivery\"}} 2"), format!("{name}_count{{stage=\"delivery\"}} 1")];
        assert_has(&metrics, timing.ended, &[&lines[0], &lines[1]]);
    }
}
