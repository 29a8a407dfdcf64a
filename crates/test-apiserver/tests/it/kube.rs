//! kube's client and watcher, over TLS, with a kubeconfig.

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{
    Api, Client, Config, ResourceExt,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher::{self, Event},
};
use serde_json::json;
use test_apiserver::{Resource, TestApiServer, Verb};

use crate::objects::{node, service};

pub async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn secured() -> TestApiServer {
    TestApiServer::builder().tls().token("secret").token("other").start().unwrap()
}

#[tokio::test]
async fn tls_and_tokens() {
    let server = secured();
    server.objects().apply(node("one")).unwrap();
    let nodes = Api::<Node>::all(client(&server.kubeconfig()).await);
    assert_eq!(nodes.get("one").await.unwrap().name_any(), "one");
    assert_eq!(server.url(), format!("https://127.0.0.1:{}", server.address().port()));

    server.revoke_token("secret");
    let code = |error| match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    };
    assert_eq!(code(nodes.get("one").await.unwrap_err()), 401);
    let other = Api::<Node>::all(client(&server.kubeconfig_with("other")).await);
    assert_eq!(other.list(&Default::default()).await.unwrap().items.len(), 1);
    server.add_token("new");
    let new = Api::<Node>::all(client(&server.kubeconfig_with("new")).await);
    assert_eq!(new.list(&Default::default()).await.unwrap().items.len(), 1);
    assert_eq!(server.requests().status(401), 1);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (server, other) = (secured(), secured());
    let port = |server: &TestApiServer| server.address().port().to_string();
    let mixed = server.kubeconfig().replace(&port(&server), &port(&other));
    let nodes = Api::<Node>::all(client(&mixed).await);
    assert!(matches!(
        nodes.list(&Default::default()).await,
        Err(kube::Error::HyperError(_) | kube::Error::Service(_))
    ));
}

async fn follow(config: watcher::Config, lists: u64) {
    let server = secured();
    server.objects().apply_all(["a", "b", "c"].map(|name| service(name, json!({})))).unwrap();
    let services = Api::<Service>::all(client(&server.kubeconfig()).await);
    let mut events = watcher::watcher(services, config).boxed();
    let mut seen = String::new();
    let mut changed = false;
    while let Some(event) = events.try_next().await.unwrap() {
        match event {
            Event::Init => seen.push('<'),
            Event::InitApply(service) => seen.push_str(&service.name_any()),
            Event::InitDone if !changed => {
                seen.push('>');
                changed = true;
                server.objects().delete(Resource::Services, "shop", "b").unwrap();
                server.objects().apply(service("d", json!({}))).unwrap();
            }
            Event::InitDone => seen.push('?'),
            Event::Delete(service) => seen.push_str(&format!("-{}", service.name_any())),
            Event::Apply(service) => {
                seen.push_str(&format!("+{}", service.name_any()));
                break;
            }
        }
    }
    assert_eq!(seen, "<abc>-b+d");
    assert_eq!(server.requests().count(Resource::Services, Verb::List), lists);
}

#[tokio::test]
async fn the_watcher_streams_lists() {
    follow(watcher::Config::default().streaming_lists(), 0).await;
}

#[tokio::test]
async fn the_watcher_lists_in_pages() {
    follow(watcher::Config::default().page_size(2), 2).await;
}
