//! Certificates and tokens.

use std::fs;

use kube_source::{ApiOptions, ApiSource, ConnectError, Delivery, Listener};
use service_model::ModelEvent;
use test_apiserver::{Hangup, Resource, TestApiServer};
use testkit::TempDir;

use crate::cluster::{Cluster, options, service, slice};

/// Opens a source; an error comes with its cause.
fn open(options: ApiOptions) -> Result<(), String> {
    let chain = |error: ConnectError| {
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    };
    ApiSource::open(options).map(drop).map_err(chain)
}

#[test]
fn faults_of_the_flags_are_reported_at_once() {
    let dir = TempDir::new("api");
    let path = dir.path().join("kubeconfig");
    let check = |expect: &[&str]| {
        let error = open(options(path.clone())).unwrap_err();
        assert!(expect.iter().all(|text| error.contains(text)), "{error}");
    };
    check(&["--kubeconfig", "kubeconfig", "No such file"]);
    fs::write(&path, "clusters: 7").unwrap();
    check(&["--kubeconfig"]);
    fs::write(&path, "apiVersion: v1\nkind: Config\n").unwrap();
    check(&["--kubeconfig"]);
    let server = TestApiServer::builder().tls().start().unwrap();
    let named = |name: &str| {
        server.kubeconfig().replace("server: ", &format!("tls-server-name: {name}\n    server: "))
    };
    fs::write(&path, named("a b")).unwrap();
    check(&["--kubeconfig", "tls-server-name"]);
    fs::write(&path, named("localhost")).unwrap();
    assert_eq!(open(options(path.clone())), Ok(()));
    let nowhere = ApiOptions { kubeconfig: None, ..options(path.clone()) };
    let error = open(nowhere.clone()).unwrap_err();
    assert!(error.contains("--kubeconfig") && error.contains("--manifests"), "{error}");
    let error = open(ApiOptions { master: Some("ftp://x".into()), ..nowhere }).unwrap_err();
    assert!(error.contains("--master"), "{error}");
}

/// As client-go takes it: https where there is a certificate.
#[test]
fn a_server_without_a_scheme_in_the_kubeconfig() {
    for tls in [false, true] {
        let builder = TestApiServer::builder();
        let server = if tls { builder.tls() } else { builder }.start().unwrap();
        let bare = server.url().split("://").nth(1).unwrap().to_owned();
        let text = server.kubeconfig().replace(&server.url(), &bare);
        let mut cluster = Cluster::follow_by(server, &text, |_options| {});
        cluster.apply(service(1, "a"));
        cluster.wait_same();
    }
}

/// A file that is read again and names no server is as good as none: the old settings stay.
#[test]
fn a_kubeconfig_that_loses_its_server_stops_nothing() {
    for server in ["/", "ftp://127.0.0.1", "a b"] {
        let mut cluster = Cluster::new(TestApiServer::builder());
        cluster.wait_same();
        let text = cluster.server.kubeconfig().replace(&cluster.server.url(), server);
        fs::write(&cluster.kubeconfig, text).unwrap();
        cluster.server.stop().unwrap();
        cluster.apply(service(4, "b"));
        cluster.server.restart().unwrap();
        cluster.wait_same();
    }
}

/// Go's decoder skips line breaks, so that what `base64 FILE` prints will do.
#[test]
fn certificates_with_line_breaks_in_their_base64() {
    let server = TestApiServer::builder().tls().start().unwrap();
    let text = server.kubeconfig();
    let data = text.lines().find(|line| line.contains("certificate-authority-data")).unwrap();
    let data =
        data.split(": ").nth(1).unwrap().trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '=');
    let (one, two) = data.split_at(64);
    let text = text.replace(&format!("\"{data}\""), data).replace(data, &format!("\"{one}\\r\\n{two}\\n\""));
    let mut cluster = Cluster::follow_by(server, &text, |_options| {});
    cluster.apply(service(1, "a"));
    cluster.wait_same();
}

/// Unless nobody asks for it; and what is empty is absent.
#[test]
fn an_authority_without_a_certificate_is_reported_at_once() {
    let server = TestApiServer::builder().tls().start().unwrap();
    let dir = TempDir::new("api");
    let (path, none, some) =
        (dir.path().join("kubeconfig"), dir.path().join("none.crt"), dir.path().join("ca.crt"));
    fs::write(&none, "-----BEGIN NOTHING").unwrap();
    fs::write(&some, &server.identity().unwrap().ca_pem).unwrap();
    let text = server.kubeconfig();
    let line = text.lines().find(|line| line.contains("certificate-authority-data")).unwrap();
    let open_with = |fields: &[String], scheme: &str| {
        let fields: Vec<_> = fields.iter().map(|field| format!("    {field}")).collect();
        let text = text.replace(line, &fields.join("\n")).replace("https://", scheme);
        fs::write(&path, text).unwrap();
        open(options(path.clone()))
    };
    let file = |path: &std::path::Path| format!("certificate-authority: {}", path.display());
    let error = open_with(&[file(&none)], "https://").unwrap_err();
    assert!(error.contains("certificate authority") && error.contains("PEM"), "{error}");
    assert_eq!(open_with(&[file(&none)], "http://"), Ok(()));
    assert_eq!(open_with(&[file(&none), "insecure-skip-tls-verify: true".into()], "https://"), Ok(()));
    assert_eq!(open_with(&[file(&some), "certificate-authority-data: ''".into()], "https://"), Ok(()));
}

#[test]
fn master_alone_and_over_a_kubeconfig() {
    let server = TestApiServer::builder().start().unwrap();
    server.objects().apply_all([service(1, "a"), slice(1, 2)]).unwrap();
    let dir = TempDir::new("api");
    let kubeconfig = dir.path().join("kubeconfig");
    let elsewhere = server.kubeconfig().replace(&server.url(), "http://127.0.0.1:1");
    fs::write(&kubeconfig, elsewhere).unwrap();
    for kubeconfig in [None, Some(kubeconfig)] {
        let options = ApiOptions { kubeconfig, master: Some(server.url()), ..options(dir.path().into()) };
        let mut services = 0;
        ApiSource::open(options).unwrap().run(|delivery| {
            let Delivery::Objects(batch) = delivery else { return Listener::Listens };
            for event in batch.events {
                match event {
                    ModelEvent::ServiceApplied(_) => services += 1,
                    ModelEvent::Synced => return Listener::Gone,
                    _ => {}
                }
            }
            Listener::Listens
        });
        assert_eq!(services, 1);
    }
}

#[test]
fn tls_and_a_token_that_is_replaced() {
    let mut cluster = Cluster::new(TestApiServer::builder().tls().token("first"));
    cluster.wait_same();
    cluster.server.add_token("second");
    fs::write(&cluster.kubeconfig, cluster.server.kubeconfig_with("second")).unwrap();
    cluster.server.revoke_token("first");
    for resource in [Resource::Services, Resource::EndpointSlices] {
        cluster.server.drop_watches(resource, Hangup::End);
    }
    cluster.apply(slice(4, 9));
    cluster.apply(service(4, "b"));
    cluster.wait_same();
    cluster.wait_following("services");
}

#[test]
fn requests_name_their_program() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    let agent = format!("kube-ipvs/{} (linux/", env!("CARGO_PKG_VERSION"));
    let requests = cluster.server.requests();
    assert!(requests.log().all(|request| request.agent.starts_with(&agent) && request.agent.ends_with(')')));
}

#[test]
fn a_helper_that_client_go_has_dropped_is_named() {
    let dir = TempDir::new("api");
    let path = dir.path().join("kubeconfig");
    let server = TestApiServer::builder().start().unwrap();
    let user = "user: {auth-provider: {name: gcp, config: {cmd-path: /bin/false}}}";
    fs::write(&path, server.kubeconfig().replace("user: {}", user)).unwrap();
    let error = open(options(path)).unwrap_err();
    assert!(error.contains("auth-provider") && error.contains("gcp") && error.contains("exec"), "{error}");
}

#[test]
fn a_token_that_the_server_refuses_is_reported() {
    let server = TestApiServer::builder().tls().token("right").start().unwrap();
    let mut cluster = Cluster::follow(server);
    cluster.wait("following", |c| c.model.is_synced());
    cluster.server.revoke_token("right");
    cluster.server.drop_watches(Resource::Services, Hangup::End);
    cluster.wait("a report of the refusal", |c| c.is_failing("services"));
    let reason = cluster.statuses["services"].to_string();
    assert_eq!(reason, "unauthorized");
}

#[test]
fn a_server_with_a_foreign_certificate_is_not_believed() {
    let other = TestApiServer::builder().tls().start().unwrap();
    let server = TestApiServer::builder().tls().start().unwrap();
    server.objects().apply_all([service(1, "a"), slice(1, 2)]).unwrap();
    let dir = TempDir::new("api");
    let path = dir.path().join("kubeconfig");
    fs::write(&path, other.kubeconfig().replace(&other.url(), &server.url())).unwrap();
    let mut reason = None;
    ApiSource::open(options(path)).unwrap().run(|delivery| match delivery {
        Delivery::Objects(batch) => panic!("{batch:?}"),
        Delivery::Status(_, status) => {
            reason = Some(status.to_string());
            Listener::Gone
        }
    });
    // Only the log has the details.
    assert_eq!(reason.as_deref(), Some("unreachable"));
}
