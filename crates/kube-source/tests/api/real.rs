//! Lists and watches of the real `etcd` and `kube-apiserver`, from the folder that `KUBEBUILDER_ASSETS`
//! names.
//!
//! The tests kill them and start them again, so that the faults that the double imitates happen for real.

use std::{thread, time::Duration};

use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use kube_source::ApiStatus;
use serde_json::{Value, json};
use service_model::ModelEvent;
use test_apiserver::{RealApiServer, RealBuilder, Resource};
use testkit::wait_for;

use crate::cluster::{Cluster, SILENCE, Server, node, random, service, slice};

/// Limit of silence as in production: a real server sends a bookmark about once a minute.
const REAL_SILENCE: Duration = Duration::from_secs(150);

struct Real(RealApiServer);

impl Server for Real {
    fn kubeconfig(&self) -> String {
        self.0.kubeconfig()
    }

    fn list(&self, resource: Resource) -> Vec<Value> {
        let objects = self.with(async |client| {
            let api = Api::<DynamicObject>::all_with(client, &api_resource(resource));
            api.list(&ListParams::default()).await
        });
        objects.items.into_iter().map(|object| serde_json::to_value(object).expect("JSON")).collect()
    }
}

fn api_resource(resource: Resource) -> ApiResource {
    let version = resource.api_version().rsplit('/').next().expect("a version");
    let kind = GroupVersionKind::gvk(resource.group(), version, resource.kind());
    ApiResource::from_gvk_with_plural(&kind, resource.plural())
}

fn builder() -> RealBuilder {
    RealApiServer::from_env().expect("KUBEBUILDER_ASSETS")
}

impl Real {
    /// Starts a server with a Node and the given number of Services with slices.
    fn start(builder: RealBuilder, services: u32) -> Real {
        let real = Real(builder.start().expect("start the real server"));
        real.fill(services);
        real
    }

    fn fill(&self, services: u32) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}});
        let of_services = (0..services).flat_map(|i| [service(i, "a"), slice(i, 2)]);
        self.apply_all([namespace, node()].into_iter().chain(of_services));
    }

    /// Acts over a new connection, since a restart ends the old ones.
    fn with<T>(&self, act: impl AsyncFnOnce(Client) -> kube::Result<T>) -> T {
        self.try_with(act).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_with<T>(&self, act: impl AsyncFnOnce(Client) -> kube::Result<T>) -> kube::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let kubeconfig = Kubeconfig::from_yaml(&self.0.kubeconfig()).expect("a kubeconfig");
        runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            act(Client::try_from(config.expect("a configuration")).expect("a client")).await
        })
    }

    /// Waits until the server has found etcd again.
    fn wait_writable(&self) {
        let node = serde_json::from_value::<DynamicObject>(node()).expect("an object");
        wait_for(Duration::from_secs(60), "the server to write again", || {
            self.try_with(async |client| put(&client, node.clone()).await)
        });
    }

    fn apply(&self, object: Value) {
        self.apply_all([object]);
    }

    /// Creates or replaces objects.
    fn apply_all(&self, objects: impl IntoIterator<Item = Value>) {
        self.with(async |client| {
            for object in objects {
                put(&client, serde_json::from_value(object).expect("an object")).await?;
            }
            Ok(())
        });
    }

    /// Deletes a Service and its slice if they exist.
    fn delete_service(&self, i: u32) {
        self.with(async |client| {
            let names =
                [(Resource::Services, format!("s{i}")), (Resource::EndpointSlices, format!("s{i}-a"))];
            for (resource, name) in names {
                let api =
                    Api::<DynamicObject>::namespaced_with(client.clone(), "ns", &api_resource(resource));
                match api.delete(&name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    result => drop(result?),
                }
            }
            Ok(())
        });
    }

    /// Makes changes of all sorts, always the same for the same seed.
    fn stir(&self, seed: u64, changes: u32) {
        let mut random = random(seed);
        for _ in 0..changes {
            let i = random(25);
            match random(6) {
                0 => self.delete_service(i),
                1 => self.apply(service(i, if random(2) == 0 { "a" } else { "b" })),
                2 => self.apply(of_another_proxy(i)),
                _ => self.apply_all([service(i, "a"), slice(i, random(6))]),
            }
        }
    }
}

/// A Service with the label of another proxy, which the selector excludes.
fn of_another_proxy(i: u32) -> Value {
    let mut other = service(i, "a");
    other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    other
}

async fn put(client: &Client, object: DynamicObject) -> kube::Result<()> {
    let types = object.types.clone().expect("apiVersion and kind");
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types).expect("a kind"));
    let api = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            api.replace(&object.name_any(), &PostParams::default(), &object).await.map(drop)
        }
        result => result.map(drop),
    }
}

fn syncs(cluster: &Cluster<Real>) -> usize {
    cluster.events.iter().filter(|event| **event == ModelEvent::Synced).count()
}

fn assert_never_failed(cluster: &Cluster<Real>) {
    let failing = cluster.history.iter().find(|(_, status)| *status != ApiStatus::Following);
    assert_eq!(failing, None);
}

#[test]
#[ignore = "needs KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver"]
fn lists_watches_and_selectors_of_the_real_server() {
    let mut cluster = Cluster::follow_with(Real::start(builder(), 20), REAL_SILENCE);
    cluster.wait_same();
    assert_eq!(&*cluster.model.node().name, "n1");
    for seed in 0..3 {
        cluster.server.stir(seed + 51, 40);
        cluster.wait_same();
    }
    assert_never_failed(&cluster);
    assert_eq!(cluster.problems, []);
}

#[test]
#[ignore = "needs KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver"]
fn the_real_server_without_streaming_lists_is_listed_in_pages() {
    let builder = builder().flag("--feature-gates=WatchList=false");
    let mut cluster = Cluster::follow_with(Real::start(builder, 1100), REAL_SILENCE);
    cluster.wait_same();
    assert_eq!(cluster.model.services().count(), 1100);
    cluster.server.stir(61, 40);
    cluster.wait_same();
    assert_never_failed(&cluster);
}

/// The server is silent for minutes, until somebody writes. A list would deliver every object again.
#[test]
#[ignore = "needs KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver"]
fn the_real_server_is_idle() {
    let mut cluster = Cluster::follow_with(Real::start(builder(), 20), SILENCE * 2);
    cluster.wait_same();
    let events = cluster.events.len();
    thread::sleep(SILENCE * 12);
    cluster.take();
    assert_eq!(cluster.events.len(), events);
    cluster.server.stir(65, 40);
    cluster.wait_same();
    assert_never_failed(&cluster);
}

/// Its watch cache starts empty, so that versions from before are too old.
#[test]
#[ignore = "needs KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver"]
fn the_real_server_is_killed_and_comes_back() {
    for gates in ["WatchList=true", "WatchList=false"] {
        let builder = builder().flag(&format!("--feature-gates={gates}"));
        let mut cluster = Cluster::follow_with(Real::start(builder, 20), REAL_SILENCE);
        cluster.wait_same();
        for seed in 0..3 {
            let events = cluster.events.len();
            cluster.server.0.stop_apiserver();
            let is_reported =
                |c: &mut Cluster<Real>| c.is_failing("services") && c.is_failing("endpointslices");
            cluster.wait("a report of the outage", is_reported);
            assert_eq!(cluster.events.len(), events, "an outage changes nothing");
            cluster.server.0.start_apiserver().unwrap();
            cluster.server.stir(seed + 71, 40);
            cluster.wait_same();
            cluster.wait_following("services");
            cluster.wait_following("endpointslices");
        }
        assert_eq!(syncs(&cluster), 1);
    }
}

/// The API server loses its own watches, and fails its clients in all sorts of ways.
#[test]
#[ignore = "needs KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver"]
fn the_etcd_of_the_real_server_is_killed_and_comes_back() {
    let mut cluster = Cluster::follow_with(Real::start(builder(), 20), REAL_SILENCE);
    cluster.wait_same();
    for seed in 0..3 {
        let events = cluster.events.len();
        cluster.server.0.stop_etcd();
        thread::sleep(Duration::from_secs(3));
        cluster.take();
        assert_eq!(cluster.events.len(), events, "an outage changes nothing");
        cluster.server.0.start_etcd().unwrap();
        cluster.server.wait_writable();
        cluster.server.stir(seed + 81, 40);
        cluster.wait_same();
    }
    assert_eq!(syncs(&cluster), 1);
}

/// Streaming lists stay silent, and so do pages; both have to be tried again.
#[test]
#[ignore = "needs KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver"]
fn the_real_server_is_first_asked_while_its_etcd_is_away() {
    let mut server = Real::start(builder(), 20);
    server.0.stop_etcd();
    let mut cluster = Cluster::follow_with(server, REAL_SILENCE);
    thread::sleep(Duration::from_secs(12));
    cluster.take();
    assert!(!cluster.model.is_synced());
    cluster.server.0.start_etcd().unwrap();
    cluster.server.wait_writable();
    cluster.wait_same();
    cluster.wait_following("services");
}

/// Versions start again, too, so that those from before lie in the future. A watch from there delivers
/// nothing.
#[test]
#[ignore = "needs KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver"]
fn the_real_server_lost_its_data() {
    let mut cluster = Cluster::follow_with(Real::start(builder(), 20), SILENCE * 5);
    cluster.wait_same();
    cluster.server.stir(91, 40);
    cluster.wait_same();
    cluster.server.0.lose_data().unwrap();
    cluster.server.0.start_etcd().unwrap();
    cluster.server.0.start_apiserver().unwrap();
    cluster.server.fill(3);
    cluster.wait_same();
    assert_eq!(cluster.model.services().count(), 3);
}

/// Everything at once, and etcd forgets versions after a second.
#[test]
#[ignore = "needs KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver"]
fn any_kill_at_any_time() {
    let builder = builder().flag("--etcd-compaction-interval=1s");
    let mut cluster = Cluster::follow_with(Real::start(builder, 20), REAL_SILENCE);
    for round in 0..9u64 {
        cluster.server.stir(round + 101, 15);
        match round % 3 {
            0 => cluster.server.0.start_apiserver().unwrap(),
            1 => {
                cluster.server.0.stop_etcd();
                thread::sleep(Duration::from_millis(round * 150));
                cluster.server.0.start_etcd().unwrap();
                cluster.server.wait_writable();
            }
            _ => thread::sleep(Duration::from_millis(1500)),
        }
        cluster.server.stir(round + 201, 15);
        if round % 2 == 1 {
            cluster.wait_same();
        }
    }
    cluster.wait_same();
    assert_eq!(syncs(&cluster), 1);
}
