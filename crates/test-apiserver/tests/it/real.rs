//! Start of the real programs, for which the double stands in, and the contract that both servers keep.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use futures_util::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use test_apiserver::{ApiServer, RealApiServer, RealBuilder, RealError, TestApiServer};

use crate::kube::client;

const ETCD: &str = r#"#!/bin/sh
for flag; do case "$flag" in --listen-client-urls=http://*) address=${flag#*//};; esac; done
exec "PROGRAM" --listen "$address" --control 127.0.0.1:0
"#;

const APISERVER: &str = r#"#!/bin/sh
for flag; do case "$flag" in
    --bind-address=*) address=${flag#*=};;
    --secure-port=*) port=${flag#*=};;
    --cert-dir=*) directory=${flag#*=}/tls;;
    --tls-cert-file=*) certificate=${flag#*=};;
    --tls-private-key-file=*) key=${flag#*=};;
    --token-auth-file=*) tokens=${flag#*=};;
esac; done
mkdir "$directory"
cp "$certificate" "$directory/tls.crt"
cp "$certificate" "$directory/ca.crt"
cp "$key" "$directory/tls.key"
exec "PROGRAM" --listen "$address:$port" --control 127.0.0.1:0 --tls-dir "$directory" \
    --token "$(head -n 1 "$tokens" | cut -d , -f 1)"
"#;

/// A folder of scripts in place of the programs.
struct StandIns(PathBuf);

impl StandIns {
    fn make() -> Self {
        let folder = env::temp_dir().join(format!("stand-ins-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (name, script) in [("etcd", ETCD), ("kube-apiserver", APISERVER)] {
            let file = folder.join(name);
            fs::write(&file, script.replace("PROGRAM", env!("CARGO_BIN_EXE_test-apiserver"))).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        }
        Self(folder)
    }
}

impl Drop for StandIns {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn stand_ins_are_started_used_and_ended() {
    let stand_ins = StandIns::make();
    let server = RealBuilder::new(&stand_ins.0).start().unwrap();
    let pids = server.pids();
    contract(&ApiServer::Real(Box::new(server)));
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left");
    }
}

#[test]
fn missing_programs_are_named() {
    let error = RealBuilder::new(Path::new("/nowhere")).start().unwrap_err();
    assert!(matches!(&error, RealError::Missing(path) if path == Path::new("/nowhere/etcd")), "{error}");
}

#[test]
fn the_double_keeps_the_contract() {
    contract(&ApiServer::Test(TestApiServer::builder().tls().token("secret").start().unwrap()));
}

#[test]
#[ignore = "needs KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver"]
fn the_real_server_keeps_the_contract() {
    let builder = RealApiServer::from_env().expect("KUBEBUILDER_ASSETS");
    contract(&ApiServer::Real(Box::new(builder.start().unwrap())));
}

/// Checks everything that tests rely on, whichever server they use.
fn contract(server: &ApiServer) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert!(server.url().starts_with("https://127.0.0.1:"));
        assert!(server.ca_pem().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        let client = client(&server.kubeconfig()).await;
        let services = Api::<Service>::namespaced(client.clone(), "default");
        objects(&services).await;
        pages(&services).await;
        watches(&client, &services).await;
    });
}

fn service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"test": "contract"}},
        "spec": {"ports": [{"port": 80}]},
    }))
    .unwrap()
}

fn code(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason),
        other => panic!("{other}"),
    }
}

async fn objects(services: &Api<Service>) {
    let post = PostParams::default();
    let created = services.create(&post, &service("a")).await.unwrap();
    assert!(created.uid().is_some() && created.creation_timestamp().is_some());
    let again = services.create(&post, &service("a")).await.unwrap_err();
    assert_eq!(code(again), (409, "AlreadyExists".to_owned()));
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"x": "y"}}}));
    let patched = services.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_ne!(patched.resource_version(), created.resource_version());
    let unchanged = services.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(unchanged.resource_version(), patched.resource_version());
    let stale = services.replace("a", &post, &created).await.unwrap_err();
    assert_eq!(code(stale), (409, "Conflict".to_owned()));
    assert_eq!(code(services.get("missing").await.unwrap_err()), (404, "NotFound".to_owned()));
}

async fn pages(services: &Api<Service>) {
    services.create(&PostParams::default(), &service("b")).await.unwrap();
    let selected = ListParams::default().labels("test=contract").limit(1);
    let first = services.list(&selected).await.unwrap();
    assert_eq!(first.items[0].name_any(), "a");
    let second =
        services.list(&selected.clone().continue_token(&first.metadata.continue_.unwrap())).await.unwrap();
    assert_eq!((second.items[0].name_any(), second.metadata.continue_), ("b".to_owned(), None));
    assert_eq!(first.metadata.resource_version, second.metadata.resource_version);
}

/// Checks a streaming list, and then changes as a watch with a selector sees them.
async fn watches(client: &kube::Client, services: &Api<Service>) {
    let target = "/api/v1/services?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                  &resourceVersion=0&allowWatchBookmarks=true&labelSelector=test%3Dcontract&timeoutSeconds=60";
    let request = http::Request::get(target).body(Vec::new()).unwrap();
    let mut lines = client.request_stream(request).await.unwrap().lines();
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let line = lines.try_next().await.unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        let kind = event["type"].as_str().unwrap();
        let metadata = &event["object"]["metadata"];
        let end = metadata["annotations"]["k8s.io/initial-events-end"] == "true";
        if kind == "BOOKMARK" && !end {
            continue;
        }
        seen.push(format!("{kind} {}", metadata["name"].as_str().unwrap_or_default()));
        if end {
            let patch = Patch::Merge(json!({"metadata": {"labels": {"test": "other"}}}));
            services.patch("a", &PatchParams::default(), &patch).await.unwrap();
            services.delete("b", &DeleteParams::default()).await.unwrap();
        }
    }
    assert_eq!(seen, ["ADDED a", "ADDED b", "BOOKMARK ", "DELETED a", "DELETED b"]);
}
