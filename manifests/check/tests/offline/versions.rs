//! Places that name a version, or a parameter, agree.

use std::fs;

use crate::yaml;

fn read(path: &str) -> String {
    fs::read_to_string(yaml::repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn everything_has_the_version_of_the_workspace() {
    let version = env!("CARGO_PKG_VERSION");
    for (path, line) in [
        ("manifests/helm/kube-ipvs/Chart.yaml", format!("version: {version}")),
        ("manifests/helm/kube-ipvs/Chart.yaml", format!("appVersion: v{version}")),
        ("manifests/base/kustomization.yaml", format!("newTag: v{version}")),
        ("manifests/kubeadm/in-place.yaml", format!("image: kube-ipvs:v{version}")),
        ("manifests/kubeadm/rollback.yaml", format!("image: kube-ipvs:v{version}")),
    ] {
        assert!(read(path).lines().any(|found| found.trim() == line), "{path} lacks {line}");
    }
}

#[test]
fn the_parameters_of_a_node_are_those_that_are_documented() {
    let documented = read("docs/operating.md");
    let settings = read("manifests/node/sysctl.conf");
    let mut count = 0;
    for line in settings.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(" = ").next().unwrap();
        assert!(documented.contains(&format!("| `{name}` |")), "{name}");
        count += 1;
    }
    assert_eq!(count, 8);
}
