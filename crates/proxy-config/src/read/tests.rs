use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::VModule;

const PROXY: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
const IPVS: &str = "apiVersion: kube-ipvs.io/v1alpha1\nkind: KubeIpvsConfiguration\n";

fn read(fields: &str) -> Result<Parsed, InvalidFile> {
    ConfigFile::parse(&format!("{PROXY}{fields}"))
}

/// Conformance: app TestLoadConfig
#[test]
fn null_and_zero_mean_the_default_but_where_zero_is_a_value() {
    let nothing = read("").unwrap();
    assert_eq!(nothing.file, ConfigFile::default());
    let null = read("mode:\nipvs: ~\nconntrack: {min: null}\nfeatureGates: null\nnodePortAddresses: []\n");
    assert_eq!(null.unwrap(), nothing);
    let zeros = "configSyncPeriod: 0s\nipvs: {syncPeriod: 0s, scheduler: ''}\nclientConnection: {qps: 0}\n";
    assert_eq!(read(zeros).unwrap(), nothing);
    let counts =
        read("conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s}\noomScoreAdj: 0\n").unwrap().file;
    assert_eq!((counts.proxy.conntrack.max_per_core, counts.proxy.oom_score_adj), (0, 0));
    assert_eq!(counts.proxy.conntrack.tcp_established_timeout, Duration::ZERO);
}

#[test]
fn spellings_that_go_takes() {
    let text = "iptables: {masqueradeAll: yes, masqueradeBit: '15'}\nconntrack: {min: \"7\"}\n\
                ipvs: {syncPeriod: \"1m30s\", tcpTimeout: 0}\nlogging: {flushFrequency: 1000, verbosity: 4}\n\
                hostnameOverride: 10\nfeatureGates: {A: true, B: \"false\"}\n";
    let file = read(text).unwrap().file.proxy;
    assert_eq!((file.iptables.masquerade_all, file.iptables.masquerade_bit), (true, 15));
    assert_eq!((file.conntrack.min, file.ipvs.sync_period), (7, Duration::from_secs(90)));
    assert_eq!(file.logging.flush_frequency.0, Duration::from_micros(1));
    assert_eq!(file.hostname_override, "10");
    assert_eq!(file.feature_gates, BTreeMap::from([("A".to_owned(), true), ("B".to_owned(), false)]));
    let json = r#"{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "ipvs", "ipvs": {"excludeCIDRs": ["10.0.0.0/8"]}}"#;
    assert_eq!(ConfigFile::parse(json).unwrap().file.proxy.ipvs.exclude_cidrs, ["10.0.0.0/8"]);
}

#[test]
fn whole_numbers_in_every_form_that_go_takes() {
    let min = |text: &str| {
        read(&format!("conntrack: {{min: {text}}}\n")).map(|parsed| parsed.file.proxy.conntrack.min)
    };
    for (text, expected) in [
        ("131072", 131_072),
        ("1.048576e+06", 1_048_576),
        ("14.0", 14),
        ("0x8000", 0x8000),
        ("0X1f", 31),
        ("0o17", 15),
        ("017", 15),
        ("0b101", 5),
        ("32_768", 32_768),
        ("+5", 5),
        ("-2", -2),
        ("-0x10", -16),
    ] {
        assert_eq!(min(text).unwrap(), expected, "{text}");
    }
    let qps = read("clientConnection: {qps: 0x32}\n").unwrap().file.proxy.client_connection.qps;
    assert!((qps - 50.0).abs() < f32::EPSILON, "{qps}");
    for text in ["1.5", "1e10", "0x", "--5", "0x-5", "five", "1 2", "nan", "inf", "''"] {
        assert!(min(text).is_err(), "{text}");
    }
}

/// Conformance: app TestLoadConfig
#[test]
fn unknown_fields_and_duplicates_are_warned_of_with_path_and_line() {
    let text = "conntrack:\n  max: 0\n  min: 1\n  min: 2\nresourceContainer: /kube-proxy\n\
                ipvs: {strictArp: true}\nmode: a\nmode: ipvs\n";
    let parsed = read(text).unwrap();
    assert_eq!((parsed.file.proxy.conntrack.min, parsed.file.proxy.mode.as_str()), (2, "ipvs"));
    let none = "KubeProxyConfiguration has no such field; it is ignored";
    assert_eq!(
        parsed.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            format!("line 4: conntrack.max: {none}"),
            "line 6: conntrack.min: stands in line 5 as well; the last one counts".to_owned(),
            format!("line 7: resourceContainer: {none}"),
            format!("line 8: ipvs.strictArp: {none}; the field is ipvs.strictARP"),
            "line 10: mode: stands in line 9 as well; the last one counts".to_owned(),
        ]
    );
}

/// Conformance: app TestLoadConfigFailures
#[test]
fn wrong_types_are_listed_all_at_once_with_their_field() {
    let text = "mode: [ipvs]\nipvs: {syncPeriod: soon, excludeCIDRs: 10.0.0.0/8, strictARP: 7}\n\
                conntrack: 5\niptables: {masqueradeBit: 99999999999}\nlogging: {vmodule: [a]}\n";
    let errors = read(text).unwrap_err().to_string();
    assert_eq!(
        errors.lines().collect::<Vec<_>>(),
        [
            "line 3: mode: expected a text, found a list",
            "line 7: logging.vmodule: expected a list of {filePattern: TEXT, verbosity: NUMBER}, found \"a\"",
            "line 6: iptables.masqueradeBit: expected a whole number of 32 bits, found \"99999999999\"",
            "line 4: ipvs.syncPeriod: invalid duration \"soon\": expected a form like 30s, 1m30s or 500ms",
            "line 4: ipvs.excludeCIDRs: expected a list of texts, found \"10.0.0.0/8\"",
            "line 4: ipvs.strictARP: expected true or false, found \"7\"",
            "line 5: conntrack: expected a mapping, found \"5\"",
        ]
    );
}

/// Conformance: app TestLoadConfigFailures
#[test]
fn documents_of_other_kinds_are_refused_with_the_remedy() {
    for (text, part) in [
        ("", "line 1: the file is empty"),
        ("# nothing\n---\n", "the file is empty"),
        (
            "mode: ipvs\n",
            "line 1: the document has no kind: expected apiVersion: kubeproxy.config.k8s.io/v1alpha1",
        ),
        (
            "kind: KubeProxyConfiguration\n",
            "apiVersion \"\" of a KubeProxyConfiguration: expected kubeproxy.config",
        ),
        ("apiVersion: v1\nkind: ConfigMap\n", "kind \"ConfigMap\" is no configuration"),
        ("[]\n", "the document has no kind"),
        ("a: [\n", "correct the YAML"),
    ] {
        let error = ConfigFile::parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text:?}: {error}");
    }
    let twice = ConfigFile::parse(&format!("{PROXY}---\n{PROXY}")).unwrap_err().to_string();
    assert_eq!(
        twice,
        "line 4: a second KubeProxyConfiguration, after the one in line 1; leave one of them out"
    );
}

#[test]
fn own_settings_are_a_document_of_their_own() {
    let own = "gracefulTimeout: 0\nserviceCIDRs: [10.96.0.0/16]\nipvs: {}\n";
    let parsed = ConfigFile::parse(&format!("{PROXY}mode: ipvs\n---\n{IPVS}{own}")).unwrap();
    assert_eq!(parsed.file.ipvs.graceful_timeout, Some(Duration::ZERO));
    assert_eq!(parsed.file.ipvs.graceful_linger, None);
    assert_eq!(parsed.file.ipvs.service_cidrs, Some(vec!["10.96.0.0/16".to_owned()]));
    assert_eq!(
        parsed.warnings[0].to_string(),
        "line 9: ipvs: KubeIpvsConfiguration has no such field; it is ignored"
    );
    assert_eq!(ConfigFile::parse(IPVS).unwrap().file, ConfigFile::default(), "the other kind may be missing");
}

#[test]
fn a_flag_sets_its_field() {
    let mut file = ConfigFile::default();
    let set = |file: &mut ConfigFile, flag, value: &str| file.set_flag(flag, &[value.to_owned()]);
    set(&mut file, "ipvs-sync-period", "10s").unwrap();
    set(&mut file, "feature-gates", "A=true, B=false").unwrap();
    set(&mut file, "graceful-linger", "1s").unwrap();
    file.set_flag("nodeport-addresses", &["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()]).unwrap();
    assert_eq!(file.proxy.ipvs.sync_period, Duration::from_secs(10));
    assert_eq!(file.proxy.feature_gates.len(), 2);
    assert_eq!(file.ipvs.graceful_linger, Some(Duration::from_secs(1)));
    assert_eq!(file.proxy.node_port_addresses, ["10.0.0.0/8", "fd00::/8"]);
    assert!(set(&mut file, "kube-api-burst", "many").is_err());
    assert!(set(&mut file, "feature-gates", "A").is_err());
    set(&mut file, "no-field-has-it", "x").unwrap();
}

prop_compose! {
    fn files()(
        texts in proptest::array::uniform4("\\PC{0,12}"),
        list in proptest::collection::vec("\\PC{0,12}", 0..3),
        gates in proptest::collection::btree_map("[A-Za-z:]{1,8}", any::<bool>(), 0..3),
        numbers in any::<(i32, u32, bool, f32)>().prop_filter("JSON has no others", |(.., f)| f.is_normal()),
        milliseconds in proptest::array::uniform3(1_u64..1_000_000_000),
        own in any::<(bool, bool)>(),
    ) -> ConfigFile {
        let mut file = ConfigFile::default();
        let [a, b, c, d] = texts;
        let [x, y, z] = milliseconds.map(Duration::from_millis);
        let proxy = &mut file.proxy;
        if !d.is_empty() {
            proxy.ipvs.scheduler = d.clone();
        }
        (proxy.hostname_override, proxy.mode, proxy.cluster_cidr) = (a, b, c);
        (proxy.node_port_addresses, proxy.feature_gates) = (list.clone(), gates);
        (proxy.conntrack.min, proxy.logging.verbosity) = (numbers.0, numbers.1);
        (proxy.iptables.localhost_node_ports, proxy.client_connection.qps) = (numbers.2, numbers.3);
        (proxy.ipvs.sync_period, proxy.logging.flush_frequency.0) = (x, y);
        proxy.logging.vmodule = list.iter().map(|text| VModule {
            file_pattern: text.clone(),
            verbosity: numbers.1,
        }).collect();
        file.ipvs.graceful_timeout = own.0.then_some(z);
        file.ipvs.service_cidrs = own.1.then_some(list);
        file.ipvs.state_dir = own.0.then_some(d);
        file
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(file in files()) {
        let text = file.to_yaml();
        let parsed = ConfigFile::parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(&parsed.file, &file, "{}", text);
        prop_assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
    }

    #[test]
    fn no_text_is_a_panic(text in "\\PC*", lines in proptest::collection::vec("[-a-z:&*!{}\\[\\]'\" ]{0,8}", 0..8)) {
        let _any = ConfigFile::parse(&text);
        let _any = ConfigFile::parse(&format!("{PROXY}{}", lines.join("\n")));
    }
}
