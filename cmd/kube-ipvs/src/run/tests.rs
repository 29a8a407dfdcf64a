use std::fs;

use dataplane::{
    BatchReport, IpvsTable, ObservedRealServer, TableError, Tables, VirtualServerDump,
    fake::{FakeConntrack, FakeIpvs, FakeRules, FakeSysctls, FakeVips},
};
use drain_file::DrainFile;
use kube_source::ManifestSource;
use lb_types::{IpvsOp, VirtualServerId};
use reconcile::Config;
use testkit::{TempDir, wait_until};

use super::*;

/// IPVS of a kernel whose answer to the first dump does not come.
struct StuckIpvs {
    kernel: FakeIpvs,
    /// Closes once the kernel answers.
    stuck: Receiver<()>,
}

impl IpvsTable for StuckIpvs {
    fn has_scheduler(&mut self, _: lb_types::Scheduler) -> Result<bool, TableError> {
        Ok(true)
    }

    fn dump_virtual_servers(&mut self) -> Result<VirtualServerDump, TableError> {
        let _closed = self.stuck.recv();
        self.kernel.dump_virtual_servers()
    }

    fn dump_real_servers(&mut self, vs: VirtualServerId) -> Result<Vec<ObservedRealServer>, TableError> {
        self.kernel.dump_real_servers(vs)
    }

    fn apply(&mut self, ops: &[IpvsOp]) -> Result<BatchReport, TableError> {
        self.kernel.apply(ops)
    }
}

/// Runs the loop over fakes until a message stops it.
fn drive_over_fakes(stuck: Receiver<()>, receiver: &Receiver<Message>, health: Arc<Health>) -> Stopped {
    drive_with_metrics(stuck, receiver, health, Arc::new(Metrics::new([]).unwrap()))
}

fn drive_with_metrics(
    stuck: Receiver<()>,
    receiver: &Receiver<Message>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) -> Stopped {
    let dir = TempDir::new("drive");
    let tables = Tables {
        ipvs: Box::new(StuckIpvs { kernel: FakeIpvs::default(), stuck }),
        vips: Box::new(FakeVips::default()),
        rules: Box::new(FakeRules::default()),
        sysctls: Box::new(FakeSysctls::default()),
        conntrack: Box::new(FakeConntrack::default()),
    };
    let mut reconciler = Reconciler::new(Config::default(), tables);
    let file = DrainFile::new(dir.path(), "boot".to_owned());
    let saver = DrainSaver::resume(file, &mut reconciler);
    drive(reconciler, saver, receiver, &Observers::new(health, metrics, clock::wall())).unwrap()
}

#[test]
fn a_call_into_the_kernel_that_hangs_is_seen() {
    let (release, stuck) = mpsc::channel();
    let (sender, receiver) = mpsc::sync_channel(QUEUED_MESSAGES);
    let health = Arc::new(Health::new(Limits::of(Duration::from_secs(30)), &[]));
    health.begin_step(Instant::now());
    let noted = Arc::clone(&health);
    let driven = thread::spawn(move || drive_over_fakes(stuck, &receiver, noted));
    let pages_in_an_hour = || {
        let then = Instant::now() + Duration::from_secs(3600);
        (health.livez(then).good, health.healthz(then).good)
    };
    let wait_for_pages = |what: &str, expect: (bool, bool)| {
        wait_until(Duration::from_secs(60), what, || pages_in_an_hour() == expect);
    };
    wait_for_pages("the loop waits for objects", (true, true));
    sender.send(Message::Events(vec![ModelEvent::Synced], Instant::now())).unwrap();
    wait_for_pages("the dump hangs", (false, false));
    drop(release);
    wait_for_pages("the dump was answered", (true, true));
    wait_until(Duration::from_secs(60), "readiness", || health.readyz(Instant::now()).good);
    sender.send(Message::Stop(SIGTERM)).unwrap();
    assert_eq!(driven.join().unwrap(), Stopped::Done);
}

/// Conformance: endpointschangetracker TestLastChangeTriggerTime
#[test]
fn the_way_of_a_change_is_measured() {
    let begun = clock::wall();
    let dir = TempDir::new("measured");
    fs::write(dir.path().join("web.yaml"), WEB).unwrap();
    let mut source = ManifestSource::open(dir.path(), "n1").unwrap();
    let (release, stuck) = mpsc::channel();
    let (sender, receiver) = mpsc::sync_channel(QUEUED_MESSAGES);
    let health = Arc::new(Health::new(Limits::of(Duration::from_secs(30)), &[]));
    let metrics = Arc::new(Metrics::new([]).unwrap());
    let counted = Arc::clone(&metrics);
    let driven = thread::spawn(move || drive_with_metrics(stuck, &receiver, health, counted));
    drop(release);
    let wait_for = |line: &str| {
        wait_until(Duration::from_secs(60), line, || {
            let text = metrics.render(Instant::now()).unwrap();
            text.lines().any(|other| other == line)
        });
    };
    let events = source.poll().events;
    assert_eq!(events.last(), Some(&ModelEvent::Synced));
    let slice = events.iter().find_map(|event| match event {
        ModelEvent::SliceApplied(slice) => Some(slice.clone()),
        _ => None,
    });
    let mut slice = slice.expect("a slice");
    assert!(slice.triggered.is_some(), "the annotation is read");
    sender.send(Message::Events(events, Instant::now())).unwrap();
    wait_for("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1");
    wait_has(&metrics, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} ");
    wait_has(&metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} ");
    let name = "kubeproxy_network_programming_duration_seconds";
    let count = format!("{name}_count{{ip_family=\"IPv4\"}} 1");
    assert!(!metrics.render(Instant::now()).unwrap().contains(name), "the first lists");
    slice.endpoints.pop();
    slice.triggered = Some(clock::wall());
    assert!(slice.triggered >= Some(begun));
    sender.send(Message::Events(vec![ModelEvent::SliceApplied(slice)], Instant::now())).unwrap();
    wait_for(&count);
    wait_for(&format!("{name}_bucket{{ip_family=\"IPv4\",le=\"60\"}} 1"));
    wait_for("kubeproxy_sync_proxy_rules_endpoint_changes_total 2");
    wait_for("kubeproxy_sync_proxy_rules_endpoint_changes_pending 0");
    wait_for("kube_ipvs_oldest_waiting_change_seconds 0");
    sender.send(Message::Stop(SIGTERM)).unwrap();
    assert_eq!(driven.join().unwrap(), Stopped::Done);
}

/// Waits for a line with this beginning.
fn wait_has(metrics: &Metrics, beginning: &str) {
    wait_until(Duration::from_secs(60), beginning, || {
        let text = metrics.render(Instant::now()).unwrap();
        text.lines().any(|line| line.starts_with(beginning))
    });
}

/// A Service with two endpoints that changed long ago.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.80, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: default
  labels: {kubernetes.io/service-name: web}
  annotations: {endpoints.kubernetes.io/last-change-trigger-time: '2020-01-02T03:04:05.678Z'}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.0.1]}, {addresses: [10.244.0.2]}]
";

#[test]
fn another_configuration_stops_the_loop_so_that_the_process_starts_again() {
    let (sender, receiver) = mpsc::sync_channel(1);
    let health = Arc::new(Health::new(Limits::of(Duration::from_secs(30)), &[]));
    let (_release, stuck) = mpsc::channel();
    sender.send(Message::Reconfigured).unwrap();
    assert_eq!(drive_over_fakes(stuck, &receiver, health), Stopped::Reconfigured(None));
}

fn end(body: impl FnOnce(&SyncSender<Message>) + Send + 'static) -> String {
    let (sender, receiver) = mpsc::sync_channel(1);
    // A second sender, as in the running process: the channel stays open.
    spawn("test", sender.clone(), body).unwrap();
    match receiver.recv().unwrap() {
        Message::Failed(error) => error.to_string(),
        Message::Events(..) | Message::Touched(_) | Message::Stop(_) | Message::Reconfigured => {
            panic!("no failure")
        }
    }
}

#[test]
fn a_watcher_that_fails_tries_again_and_its_table_counts_as_touched() {
    let (sender, receiver) = mpsc::sync_channel(16);
    let mut answers = vec![Ok(Some(Touched::Vips)), Err(anyhow!("busy")), Err(anyhow!("busy")), Ok(None)];
    answers.extend([Err(anyhow!("busy")), Ok(Some(Touched::Vips))]);
    let (mut answers, mut receiver) = (answers.into_iter(), Some(receiver));
    let (mut pauses, mut reports) = (Vec::new(), 0);
    let wait = || {
        answers.next().unwrap_or_else(|| {
            // The loop ends.
            reports = receiver.take().map_or(reports, |receiver| receiver.try_iter().count());
            Ok(Some(Touched::Vips))
        })
    };
    watch(wait, Touched::Vips, &sender, |pause| pauses.push(pause));
    assert_eq!(reports, 5, "two changes and three suspicions");
    assert_eq!(pauses, [FIRST_RETRY_PAUSE, FIRST_RETRY_PAUSE * 2, FIRST_RETRY_PAUSE]);
}

#[test]
fn the_loop_hears_of_every_thread_that_ends() {
    assert_eq!(end(|_| ()), "thread test has ended");
    assert!(end(|_| panic!("on purpose")).starts_with("thread test has panicked"));
    let first = end(|sender| _ = sender.send(Message::Failed(anyhow!("the reason"))));
    assert_eq!(first, "the reason");
}
