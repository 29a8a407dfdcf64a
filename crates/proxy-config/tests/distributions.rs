//! Files as kubeadm, kubespray and others write them.

use std::path::Path;

use proxy_config::{ConfigFile, Conntrack, Ipvs, Parsed};

fn read(name: &str) -> Parsed {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    ConfigFile::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Paths of the fields that are warned of.
fn warned(parsed: &Parsed) -> Vec<&str> {
    parsed.warnings.iter().map(|problem| problem.path.as_str()).collect()
}

/// Conformance: app TestLoadConfig
#[test]
fn kubeadm_means_the_defaults() {
    let mut defaults = ConfigFile::default();
    defaults.proxy.client_connection.kubeconfig = "/var/lib/kube-proxy/kubeconfig.conf".to_owned();
    defaults.proxy.cluster_cidr = "10.244.0.0/16".to_owned();
    defaults.proxy.mode = "ipvs".to_owned();
    for minor in 24..=36 {
        let parsed = read(&format!("kubeadm-1.{minor}.yaml"));
        assert_eq!(parsed.file, defaults, "1.{minor}");
        let removed: &[&str] = if minor < 26 { &["udpIdleTimeout"] } else { &[] };
        assert_eq!(warned(&parsed), removed, "1.{minor}");
    }
}

#[test]
fn files_of_old_releases_have_fields_that_are_gone() {
    let parsed = read("kubeadm-1.9.yaml");
    assert_eq!(warned(&parsed), ["conntrack.max", "resourceContainer", "udpTimeoutMilliseconds"]);
    assert!(parsed.file.proxy.feature_gates["SupportIPVSProxyMode"]);
    let parsed = read("zalando.yaml");
    assert_eq!(warned(&parsed), ["resourceContainer", "udpIdleTimeout"]);
    let proxy = parsed.file.proxy;
    assert_eq!(proxy.conntrack, Conntrack { max_per_core: 131_072, min: 524_288, ..Conntrack::default() });
    assert_eq!((proxy.ipvs, proxy.feature_gates.len()), (Ipvs::default(), 2));
    assert_eq!(proxy.healthz_bind_address, "127.0.0.1:10256");
}

#[test]
fn kubespray_writes_out_the_defaults() {
    let parsed = read("kubespray.yaml");
    assert_eq!(warned(&parsed), [""; 0]);
    let proxy = parsed.file.proxy;
    assert_eq!(proxy.ipvs, Ipvs { strict_arp: true, ..Ipvs::default() });
    assert_eq!(proxy.conntrack, Conntrack::default());
    assert_eq!(proxy.cluster_cidr, "10.233.64.0/18,fd85:ee78:d8a6:8607::1:0000/112");
}
