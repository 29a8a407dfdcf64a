//! Edges between packages that the architecture allows (pure; the table is the architecture's picture).

use super::PURE;
use crate::workspace::{Dependency, Package, Workspace};

/// Package and the packages of the workspace that it may depend on.
/// Adding an edge here is a decision about the architecture: ARCHITECTURE.md shows the same picture.
const EDGES: &[(&str, &[&str])] = &[
    // Pure core.
    ("lb-types", &[]),
    ("tally", &[]),
    ("drain", &["lb-types", "tally"]),
    ("service-model", &["drain", "lb-types", "tally"]),
    ("planner", &["drain", "lb-types", "service-model", "tally"]),
    ("proxy-config", &["lb-types"]),
    // Traits of the kernel tables, and their fakes.
    ("dataplane", &["lb-types"]),
    // Adapters: never on each other (but for the sockets), nor on planner or reconcile.
    ("netlink", &[]),
    ("ipvs", &["dataplane", "lb-types", "netlink"]),
    ("vip", &["dataplane", "lb-types", "netlink"]),
    ("packet-rules", &["dataplane", "lb-types", "netlink"]),
    ("conntrack", &["dataplane", "lb-types", "netlink"]),
    ("kernel", &["dataplane", "lb-types"]),
    // Between two adapters and the binary: an experiment that needs both, in a network namespace of its own.
    ("conn-reuse-probe", &["dataplane", "ipvs", "kernel", "lb-types", "netlink"]),
    ("kube-source", &["drain", "lb-types", "service-model"]),
    ("drain-file", &["drain", "lb-types"]),
    ("telemetry", &[]),
    // The loop knows the kernel only by its traits.
    ("reconcile", &["dataplane", "drain", "lb-types", "planner", "service-model", "tally"]),
    // The binary wires everything.
    (
        "kube-ipvs",
        &[
            "conn-reuse-probe",
            "conntrack",
            "dataplane",
            "drain",
            "drain-file",
            "ipvs",
            "kernel",
            "kube-source",
            "lb-types",
            "netlink",
            "packet-rules",
            "planner",
            "proxy-config",
            "reconcile",
            "service-model",
            "telemetry",
            "vip",
        ],
    ),
    // Outside of the product. End-to-end tests know it only as a program.
    ("testkit", &["lb-types"]),
    ("test-apiserver", &[]),
    ("e2e", &["test-apiserver", "testkit"]),
    // Benchmarks measure the loop, the adapters and the hot paths one by one, and packets in the networks of the
    // end-to-end tests.
    (
        "benches",
        &[
            "dataplane",
            "drain",
            "drain-file",
            "e2e",
            "ipvs",
            "kube-source",
            "lb-types",
            "netlink",
            "planner",
            "reconcile",
            "service-model",
            "test-apiserver",
            "testkit",
            "vip",
        ],
    ),
    // Fuzz targets feed every parser of outside input.
    (
        "fuzz",
        &[
            "conntrack",
            "drain-file",
            "ipvs",
            "kernel",
            "kube-source",
            "lb-types",
            "netlink",
            "packet-rules",
            "planner",
            "proxy-config",
            "service-model",
            "vip",
        ],
    ),
    // Files that a cluster or a build gets.
    ("manifests-check", &[]),
    ("xtask", &[]),
];

/// Packages that only tests of others use, and those others; testkit is for all.
const TEST_HELPERS: &[(&str, Option<&[&str]>)] =
    &[("testkit", None), ("test-apiserver", Some(&["kube-source"]))];

/// Crates that bring async, clocks, environment or I/O; those ending in `*` are prefixes.
const IMPURE: &[&str] = &[
    "async-*",
    "chrono",
    "futures*",
    "hyper*",
    "k8s-openapi",
    "kube*",
    "libc",
    "mio",
    "mnl*",
    "netlink-*",
    "nftnl*",
    "nix",
    "rtnetlink",
    "rustix",
    "socket2",
    "time",
    "tokio*",
    "tracing-subscriber",
];

/// Errors without a type are for programs, not for libraries.
const UNTYPED_ERRORS: &str = "anyhow";

/// Packages that may use them.
const PROGRAMS: &[&str] = &["benches", "e2e", "kube-ipvs", "xtask"];

/// Lists every dependency that breaks a rule, one line each.
pub fn violations(workspace: &Workspace) -> Vec<String> {
    workspace.packages.iter().flat_map(check).collect()
}

fn check(package: &Package) -> Vec<String> {
    let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == package.name) else {
        return vec![format!("{} is not in the table of edges (xtask/src/checks/edges.rs)", package.name)];
    };
    package
        .dependencies
        .iter()
        .filter_map(|dependency| violation(&package.name, allowed, dependency))
        .collect()
}

fn violation(package: &str, allowed: &[&str], dependency: &Dependency) -> Option<String> {
    let to = dependency.name.as_str();
    let dev = dependency.kind.as_deref() == Some("dev");
    let reason = if dependency.path.is_some() {
        let in_tests = dev && is_test_helper(to, package);
        (!allowed.contains(&to) && !in_tests).then_some("this edge is not in the architecture")
    } else if dev {
        None
    } else if PURE.contains(&package) && is_impure(to) {
        Some("the pure core has no async, clock, environment or I/O")
    } else {
        (to == UNTYPED_ERRORS && !PROGRAMS.contains(&package)).then_some("libraries have typed errors")
    };
    reason.map(|reason| format!("{package} -> {to}: {reason}"))
}

fn is_test_helper(name: &str, of: &str) -> bool {
    TEST_HELPERS
        .iter()
        .any(|(helper, users)| *helper == name && users.is_none_or(|users| users.contains(&of)))
}

fn is_impure(name: &str) -> bool {
    IMPURE.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(package: &str, to: &str, kind: Option<&str>, workspace: bool) -> Vec<String> {
        let dependency = Dependency {
            name: to.to_owned(),
            kind: kind.map(str::to_owned),
            path: workspace.then(|| format!("/r/crates/{to}").into()),
        };
        check(&Package {
            name: package.to_owned(),
            id: String::new(),
            manifest_path: format!("/r/crates/{package}/Cargo.toml").into(),
            targets: Vec::new(),
            dependencies: vec![dependency],
            features: std::collections::BTreeMap::new(),
        })
    }

    #[test]
    fn allowed_edges() {
        assert!(check_one("ipvs", "netlink", None, true).is_empty());
        assert!(check_one("ipvs", "testkit", Some("dev"), true).is_empty());
        assert!(check_one("kube-source", "test-apiserver", Some("dev"), true).is_empty());
        assert!(check_one("planner", "proptest", Some("dev"), false).is_empty());
        assert!(check_one("netlink", "libc", None, false).is_empty());
        assert!(check_one("xtask", "anyhow", None, false).is_empty());
    }

    #[test]
    fn violations_name_the_edge() {
        let broken = [
            ("ipvs", "vip", None, true),
            ("vip", "planner", None, true),
            ("netlink", "ipvs", Some("dev"), true),
            ("vip", "testkit", None, true),
            ("vip", "test-apiserver", Some("dev"), true),
            ("kube-source", "test-apiserver", None, true),
            ("planner", "tokio", None, false),
            ("drain", "netlink-sys", None, false),
            ("ipvs", "anyhow", None, false),
        ];
        for (package, to, kind, workspace) in broken {
            let lines = check_one(package, to, kind, workspace);
            assert!(lines.len() == 1 && lines[0].starts_with(&format!("{package} -> {to}: ")), "{lines:?}");
        }
        assert!(check_one("newcomer", "serde", None, false)[0].contains("not in the table"));
    }

    #[test]
    fn the_picture_has_no_cycle() {
        // The table lists packages after all that they may depend on, testkit's users included.
        for (index, (package, allowed)) in EDGES.iter().enumerate() {
            for to in *allowed {
                assert!(EDGES[..index].iter().any(|(name, _)| name == to), "{package} -> {to}");
            }
        }
    }
}
