//! Exec credential plugins.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use kube_source::Limits;
use test_apiserver::{Hangup, Resource, TestApiServer};
use testkit::{TempDir, wait_until};

use crate::cluster::{Cluster, filled, limits, service, slice};

/// A plugin that runs any shell commands, and prints something to stderr that must stay secret.
struct Plugin(TempDir);

impl Plugin {
    fn new() -> Self {
        let plugin = Plugin(TempDir::new("plugin"));
        let script = format!("#!/bin/sh\necho SECRET >&2\n. {}\n", plugin.path("act").display());
        fs::write(plugin.path("plugin"), script).expect("a folder of ours");
        fs::set_permissions(plugin.path("plugin"), fs::Permissions::from_mode(0o755))
            .expect("a file of ours");
        plugin
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.0.path(), name)
    }

    /// Sets the shell commands that the plugin runs from now on.
    fn act(&self, commands: &str) {
        fs::write(self.path("new"), commands).expect("a folder of ours");
        fs::rename(self.path("new"), self.path("act")).expect("a file of ours");
    }

    fn print_token(&self, token: &str) {
        let status = format!(r#"{{"token": "{token}", "expirationTimestamp": "2999-01-01T00:00:00Z"}}"#);
        self.act(&format!(
            r#"echo '{{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {status}}}'"#
        ));
    }

    fn kubeconfig(&self, server: &TestApiServer) -> String {
        let kubeconfig = server.kubeconfig_with("unused");
        let user = format!(
            "exec: {{apiVersion: client.authentication.k8s.io/v1, command: {}, interactiveMode: Never}}",
            self.path("plugin").display()
        );
        kubeconfig.replace("token: \"unused\"", &user)
    }

    fn follow(&self, limits: Limits) -> Cluster {
        let server = filled(TestApiServer::builder().tls().token("first"), 5);
        let kubeconfig = self.kubeconfig(&server);
        Cluster::follow_by(server, &kubeconfig, |options| options.limits = limits)
    }
}

/// Has the server refuse the first token and end a watch, so that the next request fails.
fn revoke_first(cluster: &Cluster) {
    cluster.server.add_token("second");
    cluster.server.revoke_token("first");
    cluster.server.drop_watches(Resource::Services, Hangup::End);
    cluster.apply(service(4, "b"));
}

#[test]
fn a_token_is_printed_and_printed_again_when_it_is_refused() {
    let plugin = Plugin::new();
    plugin.print_token("first");
    let mut cluster = plugin.follow(limits());
    cluster.wait_same();
    plugin.print_token("second");
    revoke_first(&cluster);
    cluster.wait_same();
}

#[test]
fn a_plugin_that_hangs_is_killed_and_stops_no_watch() {
    let plugin = Plugin::new();
    plugin.print_token("first");
    // The limit of silence is long, because a new watch would need the plugin, too.
    let patient = Limits { plugin: Duration::from_secs(4), silence: Duration::from_secs(600), ..limits() };
    let mut cluster = plugin.follow(patient);
    cluster.wait_same();
    cluster.wait("all are followed", |c| c.server.watches(Resource::EndpointSlices) == 1);
    let pids = plugin.path("pids");
    plugin.act(&format!("echo $$ > {}; sleep 600 & wait", pids.display()));
    revoke_first(&cluster);
    cluster.wait("the plugin runs", |_| pids.exists());
    cluster.apply(slice(1, 9));
    cluster.wait("changes arrive meanwhile", |c| {
        c.events.iter().any(|event| match event {
            service_model::ModelEvent::SliceApplied(slice) => slice.endpoints.len() == 9,
            _ => false,
        })
    });
    let killed = |cluster: &mut Cluster| cluster.log.text().contains("killed");
    assert!(!killed(&mut cluster), "not yet");
    cluster.wait("it is killed", killed);
    let pid = fs::read_to_string(&pids).unwrap();
    let alive = || Path::new("/proc").join(pid.trim()).join("exe").exists();
    wait_until(Duration::from_secs(10), "the process is gone", || !alive());
    plugin.print_token("second");
    cluster.wait_same();
}

#[test]
fn the_output_of_a_plugin_stays_secret() {
    let plugin = Plugin::new();
    for (commands, expect) in [
        ("echo SECRET; exit 3", "failed with exit status: 3"),
        ("echo SECRET", "printed no ExecCredential"),
        (r#"echo '{"status": {"token": 7, "SECRET": [}'"#, "printed no ExecCredential"),
        (
            r#"echo '{"status": {"token": "SECRET", "expirationTimestamp": "SECRET"}}'"#,
            "printed no ExecCredential",
        ),
    ] {
        plugin.act(commands);
        let mut cluster = plugin.follow(limits());
        cluster.wait("a report of the failure", |c| c.is_failing("services"));
        let log = cluster.log.text();
        assert!(log.contains("the credential plugin") && log.contains(expect), "{log}");
        plugin.print_token("first");
        cluster.wait_same();
        let reports = format!("{:?}{}", cluster.history, cluster.log.text());
        assert!(!reports.contains("SECRET"), "{reports}");
    }
}

#[test]
fn a_plugin_that_is_not_there_is_named() {
    let plugin = Plugin::new();
    fs::remove_file(plugin.path("plugin")).unwrap();
    let mut cluster = plugin.follow(limits());
    cluster.wait("a report of the failure", |c| c.is_failing("services"));
    let log = cluster.log.text();
    assert!(log.contains("start the credential plugin") && log.contains("No such file"), "{log}");
}
