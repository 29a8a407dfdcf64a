//! Reports of the loop to health checks and metrics.

use std::{cell::RefCell, io, sync::Arc, time::SystemTime};

use kube_source::{Recorder, RequestCounts};
use lb_types::{IpFamily, Scheduler};
use planner::NodePortAddresses;
use reconcile::{NewProblem, NodeFinding, Reconciler, Report, Shortfalls, Standing, State};
use telemetry::{Effect, Health, HealthCheck, HealthChecks, Listen, ListenFailure, Metrics};

use crate::{
    events,
    leftovers::KubeProxyRules,
    measures::{Measures, Timing},
};

/// Number of refused Services from which on the node counts as at fault, not the Services.
const REFUSED_SERVICES_OF_A_BAD_NODE: usize = 10;

/// Codes of conditions, as `/readyz` lists them with the number of objects.
const SERVICES_REFUSED: &str = "services-refused";
const WRITES_REFUSED: &str = "writes-refused";

/// Receivers of the loop's reports.
pub struct Observers {
    /// For health checks.
    pub health: Arc<Health>,
    /// For Prometheus.
    pub metrics: Arc<Metrics>,
    /// For Prometheus, from what the loop reports.
    pub measures: Measures,
    /// For events, where there is an API server.
    recorder: Option<Recorder>,
    /// Servers of the health checks of Services, and the addresses that answer, if there are any.
    health_checks: Option<(HealthChecks, NodePortAddresses)>,
    /// Last report of those.
    health_checks_reported: RefCell<Option<(u64, Listen)>>,
    /// Fate of the packet rules that kube-proxy has left.
    kube_proxy_rules: Option<KubeProxyRules>,
    /// Last report of shortfalls, so that the same one again costs nothing.
    shortfalls: RefCell<Shortfalls>,
}

impl Observers {
    /// No report has come so far, and nothing is wrong.
    pub fn new(health: Arc<Health>, metrics: Arc<Metrics>, started: SystemTime) -> Self {
        Observers {
            health,
            measures: Measures::new(Arc::clone(&metrics), started),
            metrics,
            recorder: None,
            health_checks: None,
            health_checks_reported: RefCell::default(),
            kube_proxy_rules: None,
            shortfalls: RefCell::default(),
        }
    }

    /// Has requests to the API server counted.
    pub fn with_requests(self, requests: Option<(RequestCounts, String)>) -> Self {
        Observers { measures: self.measures.with_requests(requests), ..self }
    }

    /// Has problems of Services written as events.
    pub fn with_recorder(self, recorder: Option<Recorder>) -> Self {
        Observers { recorder, ..self }
    }

    /// Has the packet rules that kube-proxy has left treated once all Services are programmed.
    pub fn with_kube_proxy_rules(self, fate: KubeProxyRules) -> Self {
        Observers { kube_proxy_rules: Some(fate), ..self }
    }

    /// Starts the servers of the health checks of Services.
    pub fn with_health_checks(self, addresses: NodePortAddresses) -> io::Result<Self> {
        let recorder = self.recorder.clone();
        let on_failure = move |failure: ListenFailure| {
            if let Some((recorder, notice)) = recorder.as_ref().zip(events::of_listen_failure(&failure)) {
                recorder.record(notice);
            }
        };
        let servers = HealthChecks::start(Arc::clone(&self.health), Box::new(on_failure))?;
        Ok(Observers { health_checks: Some((servers, addresses)), ..self })
    }

    /// Reports the health checks of Services and whether the node is about to go, if these have changed.
    pub fn report_health_checks(&self, reconciler: &Reconciler) {
        let State { model, facts, desired, .. } = reconciler.state();
        self.health.set_node_eligible(!model.node().leaves);
        let Some((servers, addresses)) = &self.health_checks else { return };
        let listen = match addresses {
            NodePortAddresses::All => Listen::Everywhere,
            _ => Listen::At(facts.node_ports.clone()),
        };
        let now = (desired.health_version(), listen);
        if self.health_checks_reported.borrow().as_ref() == Some(&now) {
            return;
        }
        let checks = desired.health_checks().flat_map(|(service, check)| {
            check.local_endpoints.iter().map(|(family, local_endpoints)| HealthCheck {
                namespace: service.namespace.to_string(),
                name: service.name.to_string(),
                uid: Arc::clone(&check.uid),
                port: check.port,
                ipv6: *family == IpFamily::V6,
                balancers: check.balancers.clone(),
                local_endpoints: *local_endpoints,
            })
        });
        servers.set(checks.collect(), now.1.clone());
        self.health_checks_reported.replace(Some(now));
    }

    /// Reports problems of Services that have appeared.
    pub fn report_problems(&self, new: Vec<NewProblem>) {
        let Some(recorder) = &self.recorder else { return };
        for notice in new.iter().filter_map(events::of_problem) {
            recorder.record(notice);
        }
        let counts = recorder.counts();
        self.metrics.set_events(counts.written, counts.known, counts.lost);
    }

    /// Reports schedulers that the kernel lacks and objects that it refuses, if these have changed.
    pub fn report_shortfalls(&self, now: Shortfalls) {
        if *self.shortfalls.borrow() == now {
            return;
        }
        let none = now.no_scheduler.then_some("no Service can be served");
        let missing = now.schedulers.iter().map(Scheduler::to_string);
        self.health.set_condition("no-scheduler", Effect::NotReady, none);
        self.health.set_condition("scheduler-unavailable", Effect::Notice, missing);
        self.health.set_condition("vips-refused", Effect::Notice, number(now.vips));
        self.health.set_condition("virtual-servers-refused", Effect::Notice, number(now.virtual_servers));
        self.metrics.set_unavailable_schedulers(now.schedulers.iter().map(Scheduler::as_str));
        self.metrics.set_refused(now.vips, now.virtual_servers);
        self.shortfalls.replace(now);
    }

    /// Counts the writes and drains of a step, after which `draining` real servers drain.
    pub fn report_step(&self, report: &Report, timing: Timing, draining: usize) {
        self.measures.report_step(report, timing);
        self.metrics.count_drains_begun(report.drains_begun);
        for ended in &report.ended {
            self.metrics.record_drain_end(ended.outcome.as_str(), ended.after, ended.cut);
        }
        self.metrics.set_draining(draining);
        if report.completed_start {
            self.health.set_programmed();
            self.kube_proxy_rules.into_iter().for_each(KubeProxyRules::treat);
        }
    }

    /// Reports the objects that each finding about the node concerns. Details are in the log, because everybody can
    /// read `/readyz`.
    pub fn report_findings(&self, reconciler: &Reconciler) {
        for finding in NodeFinding::ALL {
            let objects: Vec<_> = reconciler.node_findings(finding).collect();
            self.metrics.set_node_finding(finding.as_str(), objects.len());
            self.health.set_condition(finding.as_str(), Effect::Notice, objects);
        }
    }

    /// Reports how far the kernel is behind after a step.
    ///
    /// Single Services that the kernel refuses must not take the node out of service, and no restart helps them, so
    /// `/readyz` only lists them. Where they are many, the node is not ready, which stops a rollout.
    pub fn report_standing(&self, timing: Timing, standing: Standing) {
        self.measures.report_standing(standing, timing);
        match standing.waits_for {
            Some(wait) => self.health.set_waiting(timing.begun, wait.as_str()),
            None => self.health.set_caught_up(),
        }
        let many = standing.unserved >= REFUSED_SERVICES_OF_A_BAD_NODE || standing.most_unserved;
        let effect = if many { Effect::NotReady } else { Effect::Notice };
        self.health.set_condition(SERVICES_REFUSED, effect, number(standing.unserved));
        self.health.set_condition(WRITES_REFUSED, Effect::Notice, number(standing.refused));
    }
}

/// Word for a number of objects; none for 0.
fn number(count: usize) -> Option<String> {
    (count > 0).then(|| count.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use reconcile::Wait;
    use telemetry::Limits;

    use super::*;

    /// Answers of `/livez`, `/healthz` and `/readyz` an hour after a step (true for 200), and the list of conditions.
    fn pages(standing: Standing) -> ([bool; 3], String) {
        let health = Arc::new(Health::new(Limits::of(Duration::from_secs(30)), &[]));
        health.set_programmed();
        let observers =
            Observers::new(Arc::clone(&health), Arc::new(Metrics::new([]).unwrap()), SystemTime::UNIX_EPOCH);
        let begun = Instant::now();
        observers.report_standing(Timing { begun, ended: begun, at: SystemTime::UNIX_EPOCH }, standing);
        let then = begun + Duration::from_secs(3600);
        let ready = health.readyz(then);
        let list = ready.body.split("conditions\":").nth(1).unwrap().to_owned();
        ([health.livez(then).good, health.healthz(then).good, ready.good], list)
    }

    #[test]
    fn nothing_wrong_is_good() {
        assert_eq!(pages(Standing::default()), ([true; 3], "[]}".to_owned()));
    }

    #[test]
    fn changes_that_wait_take_the_node_out_but_are_no_reason_to_restart() {
        for wait in [Wait::Start, Wait::Turn, Wait::Base, Wait::Ipvs] {
            let (pages, _) = pages(Standing { waits_for: Some(wait), ..Standing::default() });
            assert_eq!(pages, [true, false, false], "{wait:?}");
        }
    }

    #[test]
    fn services_that_are_refused_are_listed_and_many_of_them_end_readiness() {
        let refused = |unserved, most_unserved| {
            pages(Standing { unserved, most_unserved, refused: unserved, ..Standing::default() })
        };
        let (few, list) = refused(9, false);
        assert_eq!(few, [true; 3]);
        assert!(list.contains(r#"{"code":"services-refused","word":"9","blocks":false}"#), "{list}");
        assert!(list.contains(r#"{"code":"writes-refused","word":"9","blocks":false}"#), "{list}");
        let (ten, list) = refused(10, false);
        assert_eq!(ten, [true, true, false]);
        assert!(list.contains(r#"{"code":"services-refused","word":"10","blocks":true}"#), "{list}");
        assert_eq!(refused(2, true).0, [true, true, false], "most of a small cluster");
    }
}
