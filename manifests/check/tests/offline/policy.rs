//! Rights of the Pods, and the way in which they are replaced.

use serde_json::{Value, json};

use crate::yaml::{self, list, text};

/// Renderings with all that we decide; the in-place patch leaves kubeadm's template as it is.
const OURS: [&str; 4] = ["debug.yaml", "hardened.yaml", "kubeadm.yaml", "standalone.yaml"];
/// Those with a ServiceAccount and a configuration of their own.
const ALONE: [&str; 3] = ["debug.yaml", "hardened.yaml", "standalone.yaml"];

/// Objects of a rendering.
fn rendered(file: &str) -> Vec<Value> {
    let mut files = yaml::files("manifests/rendered");
    files.retain(|(name, _)| name == file);
    files.pop().unwrap_or_else(|| panic!("no {file}")).1
}

fn daemon_set(file: &str) -> Value {
    let objects = rendered(file);
    let mut sets = objects.into_iter().filter(|object| text(object, "/kind") == "DaemonSet");
    sets.next().unwrap_or_else(|| panic!("no DaemonSet in {file}"))
}

fn pod(file: &str) -> Value {
    daemon_set(file)["spec"]["template"]["spec"].clone()
}

#[test]
fn only_the_container_that_ends_at_once_is_privileged() {
    for file in OURS {
        let pod = pod(file);
        let init = list(&pod, "/initContainers");
        assert_eq!(init.len(), usize::from(file != "hardened.yaml"), "{file}");
        for init in init {
            let privileged = json!({ "privileged": true, "readOnlyRootFilesystem": true });
            assert_eq!(init["securityContext"], privileged, "{file}");
            assert!(list(init, "/args").contains(&json!("--init-only")), "{file}");
        }
        let [main] = list(&pod, "/containers") else { panic!("{file}") };
        let expect = json!({
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE"] },
        });
        assert_eq!(main["securityContext"], expect, "{file}");
        assert_eq!(text(&pod, "/securityContext/seccompProfile/type"), "RuntimeDefault", "{file}");
    }
}

#[test]
fn of_the_host_only_the_state_can_be_written() {
    for file in OURS {
        let pod = pod(file);
        for container in list(&pod, "/containers").iter().chain(list(&pod, "/initContainers")) {
            for mount in list(container, "/volumeMounts") {
                let is_state = text(mount, "/mountPath") == "/run/kube-ipvs";
                assert_eq!(mount["readOnly"] == json!(true), !is_state, "{file}: {mount}");
            }
        }
        let of_host = list(&pod, "/volumes").iter().filter(|volume| !volume["hostPath"].is_null());
        let mut paths: Vec<_> = of_host.map(|volume| text(volume, "/hostPath/path")).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["/lib/modules", "/run/kube-ipvs"], "{file}");
    }
}

#[test]
fn nodes_follow_one_another_and_two_pods_never_share_one() {
    for file in OURS {
        let set = daemon_set(file);
        let update = json!({ "maxSurge": 0, "maxUnavailable": 1 });
        assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"], update, "{file}");
        let pod = pod(file);
        assert_eq!(pod["hostNetwork"], true, "{file}");
        assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]), "{file}");
        assert_eq!(pod["priorityClassName"], "system-node-critical", "{file}");
        let main = &list(&pod, "/containers")[0];
        let pages = ["startupProbe", "livenessProbe", "readinessProbe"].map(|probe| {
            assert_eq!(main[probe]["httpGet"]["port"], "healthz", "{file} {probe}");
            text(&main[probe], "/httpGet/path")
        });
        assert_eq!(pages, ["/livez", "/livez", "/readyz"], "{file}");
        assert!(
            list(main, "/ports").contains(&json!({ "name": "healthz", "containerPort": 10256 })),
            "{file}"
        );
    }
}

#[test]
fn rights_in_the_cluster_are_those_of_kube_proxy_alone() {
    for file in ALONE {
        let objects = rendered(file);
        let of_rbac = |object: &&Value| text(object, "/apiVersion").starts_with("rbac.");
        let [binding] = objects.iter().filter(of_rbac).collect::<Vec<_>>()[..] else { panic!("{file}") };
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier" });
        assert_eq!(binding["roleRef"], role, "{file}");
        let subject = json!({ "kind": "ServiceAccount", "name": "kube-ipvs", "namespace": "kube-system" });
        assert_eq!(binding["subjects"], json!([subject]), "{file}");
        assert_eq!(pod(file)["serviceAccountName"], "kube-ipvs", "{file}");
    }
    // kubeadm's own account has them already.
    let [set] = &rendered("kubeadm.yaml")[..] else { panic!("more than a DaemonSet") };
    assert_eq!(set["spec"]["template"]["spec"]["serviceAccountName"], "kube-proxy");
}

#[test]
fn the_api_server_is_never_the_cluster_ip_that_kubelet_gives() {
    for file in ALONE {
        let pod = pod(file);
        let variables = list(&pod, "/containers/0/env");
        for name in ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"] {
            assert!(variables.iter().any(|variable| text(variable, "/name") == name), "{file} lacks {name}");
        }
    }
}

#[test]
fn kubeadms_daemon_set_keeps_its_identity() {
    let before = yaml::documents(
        &std::fs::read_to_string(yaml::repository("manifests/kubeadm/kube-proxy.yaml")).unwrap(),
    );
    let [before] = &before[..] else { panic!("more than a DaemonSet") };
    for file in ["kubeadm.yaml", "kubeadm-in-place.yaml", "kubeadm-rollback.yaml"] {
        let after = daemon_set(file);
        for pointer in [
            "/metadata/name",
            "/metadata/namespace",
            "/metadata/labels",
            "/spec/selector",
            "/spec/template/metadata/labels",
            "/spec/template/spec/serviceAccountName",
            "/spec/template/spec/containers/0/name",
        ] {
            assert_eq!(after.pointer(pointer), before.pointer(pointer), "{file} {pointer}");
        }
    }
    // The way back ends with the very template of before, and takes what is ours away first.
    let mut back = daemon_set("kubeadm-rollback.yaml");
    assert!(back["metadata"]["resourceVersion"].is_null(), "an old version cannot be replaced");
    let pod = back.pointer_mut("/spec/template/spec").unwrap().as_object_mut().unwrap();
    let cleanup = pod.remove("initContainers").unwrap();
    assert_eq!(cleanup[0]["command"], json!(["/usr/local/bin/kube-ipvs", "cleanup"]));
    pod["volumes"].as_array_mut().unwrap().retain(|volume| volume["name"] != "kube-ipvs-state");
    assert_eq!(back["spec"], before["spec"]);
}
