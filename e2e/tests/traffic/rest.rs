//! Objects written the way kubectl writes them, to the real API server if `KUBEBUILDER_ASSETS` names a folder
//! with it, else to its double.

use e2e::{
    manifest::{Endpoint, Service, render_node, render_slice, to_json},
    net::PodNetwork,
    proxy::Source,
};
use kube::{
    Client, ResourceExt,
    api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    config::{Config, KubeConfigOptions, Kubeconfig},
    core::{GroupVersionKind, TypeMeta},
};
use serde_json::{Value, json};
use test_apiserver::{ApiServer, RealApiServer, TestApiServer};
use testkit::NetNs;

use crate::testbed::{Testbed, WEB, ask_all, web};

const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:96::/112";

/// A connection that creates, changes and deletes objects.
struct Rest {
    node: NetNs,
    kubeconfig: String,
}

impl Rest {
    /// Makes a connection within the node's namespace, where the server is.
    fn with<T: Send>(
        &self,
        object: &Value,
        act: impl AsyncFnOnce(Api<DynamicObject>, DynamicObject) -> kube::Result<T> + Send,
    ) -> T {
        let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        let types = object.types.clone().expect("apiVersion and kind");
        let result = self.node.enter(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                act(api(&self.kubeconfig, &types, object.namespace().as_deref()).await, object).await
            })
        });
        result.unwrap_or_else(|error| panic!("{error}"))
    }

    fn create(&self, object: &Value) {
        self.with(object, async |api, object| api.create(&PostParams::default(), &object).await);
    }

    fn patch(&self, object: &Value, patch: &Value) {
        self.with(object, async |api, object| {
            api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await
        });
    }

    fn delete(&self, object: &Value) {
        self.with(object, async |api, object| api.delete(&object.name_any(), &DeleteParams::default()).await);
    }
}

async fn api(kubeconfig: &str, types: &TypeMeta, namespace: Option<&str>) -> Api<DynamicObject> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.expect("a configuration")).expect("a client");
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types).expect("a kind"));
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

fn slices(service: &Service, endpoints: &[Endpoint]) -> [Value; 2] {
    [("v4", true), ("v6", false)].map(|(suffix, v4)| to_json(&render_slice(service, suffix, v4, endpoints)))
}

/// Conformance: e2e/service should serve a basic endpoint from pods
#[test]
fn objects_over_rest() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let server = testbed.net.node.enter(|| match RealApiServer::from_env() {
        Some(real) => ApiServer::Real(Box::new(
            real.service_cidrs(SERVICE_RANGES).start().expect("the real API server"),
        )),
        None => ApiServer::Test(TestApiServer::builder().tls().token("t").start().expect("the API server")),
    });
    println!(
        "the server: {}",
        if matches!(server, ApiServer::Real(_)) { "the real one" } else { "the double" }
    );
    let kubeconfig = testbed.settings.state.with_file_name("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).expect("write the kubeconfig");
    testbed.settings.source = Source::Kubeconfig(kubeconfig);
    testbed.start(&["--ipvs-sync-period=1s"]);
    let rest = Rest { node: testbed.net.node.clone(), kubeconfig: server.kubeconfig() };
    let (service, ready) = (web(), |numbers| testbed.ready(numbers));
    rest.create(&to_json(&render_node()));
    rest.create(&to_json(&service.render()));
    for slice in slices(&service, &ready(1..=2)).iter() {
        rest.create(slice);
    }
    testbed.wait_served(&service, &ready(1..=2));
    ask_all(&testbed.net.outside_client(), &service);
    for slice in slices(&service, &ready(2..=3)) {
        rest.patch(&slice, &json!({"endpoints": slice["endpoints"]}));
    }
    testbed.wait_served(&service, &ready(2..=3));
    ask_all(&testbed.net.node_client(), &service);
    rest.delete(&to_json(&service.render()));
    testbed.wait_gone(&service);
    assert!(testbed.ipvs().get(service.ports[0].proto, WEB.port(80)[0]).is_none());
}
