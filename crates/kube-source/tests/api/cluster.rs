//! A server, a source that follows it, and the model that results from its events.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use kube_source::{
    ApiOptions, ApiSource, ApiStatus, Delivery, EventLimits, Limits, Listener, MediaType, Problem,
    ProxyVariables, Recorder, RequestCounts, convert, wire,
};
use lb_types::{IpFamily, ServiceName};
use serde_json::{Value, json};
use service_model::{ModelEvent, ServiceModel};
pub use test_apiserver::sample::service_cidr as cidr;
use test_apiserver::{Builder, Resource, TestApiServer, sample};
use testkit::{TempDir, wait_until};

pub const NODE: &str = "n1";
/// Silence after which a watch counts as dead; much shorter than in production.
pub const SILENCE: Duration = Duration::from_secs(1);

/// Served part of the objects: ClusterIPs and, by port, endpoints of each Service.
pub type View = BTreeMap<ServiceName, (String, Vec<String>)>;

/// Log lines of level info and above, which operators see by default.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("the log")).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Server that a [`Cluster`] can use.
pub trait Server {
    fn kubeconfig(&self) -> String;
    /// All objects of a resource.
    fn list(&self, resource: Resource) -> Vec<Value>;
}

impl Server for TestApiServer {
    fn kubeconfig(&self) -> String {
        TestApiServer::kubeconfig(self)
    }

    fn list(&self, resource: Resource) -> Vec<Value> {
        self.objects().list(resource)
    }
}

pub struct Cluster<S = TestApiServer> {
    pub server: S,
    pub kubeconfig: PathBuf,
    pub model: ServiceModel,
    pub statuses: BTreeMap<&'static str, ApiStatus>,
    /// Statuses in the order in which they came.
    pub history: Vec<(&'static str, ApiStatus)>,
    pub events: Vec<ModelEvent>,
    pub problems: Vec<Problem>,
    pub log: Log,
    pub recorder: Recorder,
    pub counts: RequestCounts,
    deliveries: Receiver<Delivery>,
    _dir: TempDir,
}

impl Cluster {
    /// Follows a server with some objects.
    pub fn new(builder: Builder) -> Self {
        Cluster::follow(filled(builder, 20))
    }

    pub fn apply(&self, object: Value) {
        self.server.objects().apply(object).expect("apply");
    }

    pub fn delete_service(&self, i: u32) {
        let objects = self.server.objects();
        objects.delete(Resource::Services, "ns", &format!("s{i}")).expect("delete the Service");
        // Not every Service has a slice.
        let _missing = objects.delete(Resource::EndpointSlices, "ns", &format!("s{i}-a"));
    }
}

impl<S: Server> Cluster<S> {
    pub fn follow(server: S) -> Self {
        Cluster::follow_within(server, limits())
    }

    /// Follows a server with another limit of silence.
    pub fn follow_with(server: S, silence: Duration) -> Self {
        Cluster::follow_within(server, Limits { silence, ..limits() })
    }

    pub fn follow_within(server: S, limits: Limits) -> Self {
        let kubeconfig = server.kubeconfig();
        Cluster::follow_by(server, &kubeconfig, |options| options.limits = limits)
    }

    /// Follows a server with a kubeconfig and other options.
    pub fn follow_by(server: S, kubeconfig_text: &str, change: impl FnOnce(&mut ApiOptions)) -> Self {
        Cluster::start(server, kubeconfig_text, change, Duration::ZERO)
    }

    /// Follows a server with a listener that pauses at each delivery.
    pub fn follow_slowly(server: S, pause: Duration) -> Self {
        let kubeconfig = server.kubeconfig();
        Cluster::start(server, &kubeconfig, |_options| {}, pause)
    }

    fn start(
        server: S,
        kubeconfig_text: &str,
        change: impl FnOnce(&mut ApiOptions),
        pause: Duration,
    ) -> Self {
        let dir = TempDir::new("api");
        let kubeconfig = dir.path().join("kubeconfig");
        fs::write(&kubeconfig, kubeconfig_text).expect("write the kubeconfig");
        let mut options = options(kubeconfig.clone());
        change(&mut options);
        let source = ApiSource::open(options).expect("open");
        let (recorder, counts) = (source.recorder(), source.counts());
        let (sender, deliveries) = mpsc::channel();
        let log = Log::default();
        let lines = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || lines.clone())
            .finish();
        thread::spawn(move || {
            tracing::subscriber::with_default(subscriber, || {
                source.run(|delivery| {
                    thread::sleep(pause);
                    match sender.send(delivery) {
                        Ok(()) => Listener::Listens,
                        Err(_) => Listener::Gone,
                    }
                });
            });
        });
        Cluster {
            server,
            kubeconfig,
            model: ServiceModel::default(),
            statuses: BTreeMap::new(),
            history: Vec::new(),
            events: Vec::new(),
            problems: Vec::new(),
            log,
            recorder,
            counts,
            deliveries,
            _dir: dir,
        }
    }

    /// Takes in everything that has arrived.
    pub fn take(&mut self) {
        while let Ok(delivery) = self.deliveries.try_recv() {
            match delivery {
                Delivery::Objects(batch) => {
                    for event in batch.events {
                        assert_synced_once(&self.model, &event);
                        self.events.push(event.clone());
                        self.model.apply(event);
                    }
                    self.problems.extend(batch.problems);
                }
                Delivery::Status(kind, status) => {
                    self.history.push((kind, status.clone()));
                    self.statuses.insert(kind, status);
                }
            }
        }
    }

    pub fn wait(&mut self, what: &str, mut met: impl FnMut(&mut Self) -> bool) {
        wait_until(Duration::from_secs(60), what, || {
            self.take();
            met(self)
        });
    }

    /// Waits until the model equals the objects of the server.
    pub fn wait_same(&mut self) {
        self.wait("the model equals the objects of the server", |cluster| cluster.is_same());
    }

    /// Tells whether the model equals the objects of the server.
    pub fn is_same(&self) -> bool {
        self.model.is_synced() && view(&self.model) == self.expected()
    }

    pub fn wait_following(&mut self, kind: &'static str) {
        self.wait("the kind is followed", |c| c.statuses.get(kind) == Some(&ApiStatus::Following));
    }

    pub fn is_failing(&self, kind: &'static str) -> bool {
        matches!(self.statuses.get(kind), Some(ApiStatus::Failing(_)))
    }

    /// View of the objects of the server, read all at once.
    fn expected(&self) -> View {
        let mut model = ServiceModel::default();
        for value in self.server.list(Resource::Services) {
            let wire: wire::Service = serde_json::from_value(value).expect("a Service");
            if let Some(service) = convert::service(&wire).object {
                model.apply(ModelEvent::ServiceApplied(service));
            }
        }
        for value in self.server.list(Resource::EndpointSlices) {
            let wire: wire::EndpointSlice = serde_json::from_value(value).expect("a slice");
            if let Some(slice) = convert::slice(&wire).object {
                model.apply(ModelEvent::SliceApplied(slice));
            }
        }
        view(&model)
    }
}

/// Starts a server with a Node, a ServiceCIDR and the given number of Services with slices.
pub fn filled(builder: Builder, services: u32) -> TestApiServer {
    let server = builder.start().expect("start the server");
    let of_services = (0..services).flat_map(|i| [service(i, "a"), slice(i, 2)]);
    let objects = [node(), cidr("kubernetes", &["10.96.0.0/16"])].into_iter().chain(of_services);
    server.objects().apply_all(objects).expect("apply");
    server
}

fn assert_synced_once(model: &ServiceModel, event: &ModelEvent) {
    assert!(*event != ModelEvent::Synced || !model.is_synced(), "complete twice");
}

pub fn options(kubeconfig: PathBuf) -> ApiOptions {
    ApiOptions {
        kubeconfig: Some(kubeconfig),
        master: None,
        node_name: NODE.into(),
        proxies: ProxyVariables::default(),
        media: MediaType::default(),
        limits: limits(),
    }
}

/// Limits of production, except for those that tests wait for.
pub fn limits() -> Limits {
    Limits {
        silence: SILENCE,
        absence: Duration::from_secs(3),
        // Most servers have no Node.
        patience: Duration::from_secs(1),
        renewal: Duration::from_millis(200),
        events: EventLimits {
            spread: Duration::ZERO,
            retry: Duration::from_millis(50),
            ..EventLimits::default()
        },
        ..Limits::default()
    }
}

pub fn view(model: &ServiceModel) -> View {
    let endpoints = |service: &service_model::Service| {
        let of_port = |port| model.endpoints(service, port, IpFamily::V4);
        let all = service.ports.iter().flat_map(of_port);
        all.map(|endpoint| format!("{} {}", endpoint.id, endpoint.ready)).collect()
    };
    let one = |service: &service_model::Service| {
        (service.name.clone(), (format!("{:?}", service.cluster_ips), endpoints(service)))
    };
    model.services().map(one).collect()
}

pub fn node() -> Value {
    let mut node = sample::node(NODE);
    node["status"] = json!({"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]});
    node
}

/// A Service `ns/s{i}` with one port of this name.
pub fn service(i: u32, port: &str) -> Value {
    let mut service = sample::service("ns", &format!("s{i}"));
    service["spec"]["clusterIP"] = format!("10.96.{}.{}", i / 250, i % 250 + 1).into();
    service["spec"]["ports"][0]["name"] = port.into();
    service
}

/// A slice with the given number of endpoints behind port `a`.
pub fn slice(i: u32, endpoints: u32) -> Value {
    let endpoint =
        |e: u32| json!({"addresses": [format!("10.244.{i}.{}", e + 1)], "conditions": {"ready": true}});
    let mut slice = sample::endpoint_slice("ns", &format!("s{i}-a"), &format!("s{i}"));
    slice["ports"][0]["name"] = "a".into();
    slice["endpoints"] = (0..endpoints).map(endpoint).collect();
    slice
}

/// Random numbers below any limit, always the same for the same seed.
pub fn random(seed: u64) -> impl FnMut(u64) -> u32 {
    // Zero would stay zero.
    let mut state = seed * 2 + 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::try_from((state >> 8) % below).expect("small")
    }
}
