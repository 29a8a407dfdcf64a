use std::path::{Path, PathBuf};

use proxy_config::ConfigFile;

use super::{
    testing::{command_line, invocation, with_file},
    *,
};
use crate::config::Settings;

const PROXY: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
const IPVS: &str = "---\napiVersion: kube-ipvs.io/v1alpha1\nkind: KubeIpvsConfiguration\n";

fn file(fields: &str) -> String {
    format!("{PROXY}{fields}")
}

fn with_fields(args: &[&str], fields: &str) -> Invocation {
    with_file(args, &file(fields)).unwrap()
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/proxy-config/testdata").join(name)
}

/// Conformance: app TestProcessV1Alpha1Flags
/// Conformance: app TestOptionsComplete
#[test]
fn a_file_replaces_the_flags_of_kube_proxy_but_for_a_few() {
    let args = [
        "--config=/c",
        "--ipvs-scheduler=lc",
        "--cluster-cidr=10.0.0.0/8",
        "--nodeport-addresses=10.0.0.0/8",
        "--masquerade-all",
        "--healthz-port=1",
        "--kubeconfig=/flag",
        "--master=https://m",
        "--hostname-override=Flag",
        "--logging-format=json",
        "-v=4",
    ];
    let fields = "ipvs: {scheduler: wlc, tcpTimeout: 1m}\nclientConnection: {kubeconfig: /file}\n\
                  hostnameOverride: file\nlogging: {verbosity: 7}\nclusterCIDR: 10.244.0.0/16,fd00::/56\n";
    let joined = with_fields(&args, fields);
    let flags = &joined.cli.flags;
    assert_eq!(flags.ipvs_scheduler, "wlc");
    assert_eq!(flags.cluster_cidr, ["10.244.0.0/16", "fd00::/56"]);
    assert_eq!(flags.nodeport_addresses, [""; 0], "counts for nothing although the file does not set it");
    assert_eq!((flags.masquerade_all, flags.healthz_port), (false, 10256));
    assert_eq!((flags.kubeconfig.as_deref(), flags.master.as_deref()), (Some("/file"), Some("https://m")));
    assert_eq!(flags.hostname_override.as_deref(), Some("Flag"));
    assert_eq!((flags.logging_format.as_str(), flags.verbosity), ("json", 4));
    let unset = with_fields(&["--config=/c", "--hostname-override="], fields);
    assert_eq!(unset.cli.flags.hostname_override.as_deref(), Some("file"), "an empty one is none");
    let hidden = "--show-hidden-metrics-for-version=1.35";
    assert_eq!(with_fields(&["--config=/c", hidden], "").warnings.len(), 1, "is ignored, and nothing else");
    let [ignored] = &joined.warnings[..] else { panic!("{:?}", joined.warnings) };
    for flag in [
        "ipvs-scheduler",
        "cluster-cidr",
        "nodeport-addresses",
        "masquerade-all",
        "kubeconfig",
        "healthz-port",
    ] {
        assert!(ignored.contains(&format!("--{flag}")), "{flag}: {ignored}");
    }
    assert!(!ignored.contains("--hostname-override") && !ignored.contains("--master"), "{ignored}");
}

#[test]
fn own_flags_win_over_the_file() {
    let text =
        file(&format!("{IPVS}gracefulTimeout: 1m\ngracefulPolicy: immediate\nserviceCIDRs: [10.1.0.0/16]\n"));
    let joined = with_file(&["--config=/c", "--graceful-timeout=2m", "--service-cidrs=10.2.0.0/16"], &text);
    let joined = joined.unwrap();
    let flags = &joined.cli.flags;
    assert_eq!((flags.graceful_timeout.as_secs(), flags.graceful_policy.as_str()), (120, "immediate"));
    assert_eq!(flags.service_cidrs, ["10.2.0.0/16"], "lists are not joined");
    assert_eq!(joined.names.of("graceful-timeout"), "--graceful-timeout");
    assert_eq!(joined.names.of("graceful-policy"), "gracefulPolicy");
    assert_eq!(joined.names.of("graceful-linger"), "--graceful-linger");
    assert_eq!(joined.warnings, [""; 0]);
}

#[test]
fn commands_keep_their_own_flags_beside_a_file() {
    let joined = with_fields(&["drains", "-w", "-o", "json", "--config=/c"], "ipvs: {scheduler: lc}\n");
    let expect = crate::flags::Command::Drains { output: crate::flags::Output::Json, watch: true };
    assert_eq!((joined.cli.command, joined.cli.flags.ipvs_scheduler.as_str()), (Some(expect), "lc"));
}

/// Conformance: app apis/config/validation
#[test]
fn every_mistake_of_a_file_is_listed_with_its_field() {
    let fields = "mode: iptables\nbindAddress: here\nhealthzBindAddress: localhost:1\nmetricsBindAddress: '1'\n\
                  clusterCIDR: 10.0.0.1\nconfigSyncPeriod: 1m\noomScoreAdj: 1001\nhostnameOverride: ' '\n\
                  nodePortAddresses: [primary, 10.0.0.0/8]\ndetectLocalMode: BridgeInterface\n\
                  conntrack: {maxPerCore: -1, min: -2}\nclientConnection: {burst: -1}\nlogging: {format: xml}\n\
                  iptables: {masqueradeBit: 32}\n\
                  ipvs: {scheduler: fair, syncPeriod: 1s, minSyncPeriod: 2s, excludeCIDRs: [x]}\n";
    let own = format!(
        "{IPVS}gracefulPolicy: soft\nmarkRange: 0x100\ngracefulTimeout: 2h\ngracefulTimeoutMax: 1h\n"
    );
    let invocation =
        with_file(&["--config=/c", "--graceful-endpoint-gone=x"], &file(&format!("{fields}{own}")));
    let errors = Settings::new(&invocation.unwrap());
    // The flag of the tests' own names the node.
    let errors = errors.unwrap_err().to_string();
    for part in [
        "mode: \"iptables\" is not supported",
        "bindAddress: \"here\"",
        "healthzBindAddress: \"localhost:1\"",
        "metricsBindAddress: \"1\"",
        "clusterCIDR: invalid CIDR",
        "oomScoreAdj: 1001 is not in",
        "nodePortAddresses: primary stands",
        "detectLocal.bridgeInterface",
        "conntrack.maxPerCore: -1 is negative",
        "conntrack.min: -2 is negative",
        "clientConnection.burst: -1 is negative",
        "logging.format: unknown log format",
        "iptables.masqueradeBit: 32 is not in",
        "ipvs.scheduler: unknown IPVS scheduler",
        "ipvs.minSyncPeriod: 2s is longer than ipvs.syncPeriod (1s)",
        "ipvs.excludeCIDRs: invalid CIDR",
        "gracefulPolicy: unknown",
        "markRange: ",
        "gracefulTimeout: 7200s exceeds gracefulTimeoutMax (3600s)",
        "--graceful-endpoint-gone: unknown",
    ] {
        assert!(
            errors.contains(&format!("\n  {part}")) || part == "detectLocal.bridgeInterface",
            "{part} is missing in\n{errors}"
        );
    }
}

#[test]
fn errors_of_the_text_name_file_and_line_and_hide_no_others() {
    let text = file("ipvs: {syncPeriod: soon, scheduler: fair}\nmode: {}\n");
    let line = ["--config=/etc/c.yaml", "--graceful-policy=soft"];
    let errors = Settings::new(&with_file(&line, &text).unwrap()).unwrap_err().to_string();
    let expected = [
        "invalid configuration",
        "  /etc/c.yaml: line 4: mode: expected a text, found a mapping",
        "  /etc/c.yaml: line 3: ipvs.syncPeriod: invalid duration \"soon\": expected a form like 30s, 1m30s or 500ms",
        "  ipvs.scheduler: unknown IPVS scheduler",
        "  --graceful-policy: unknown",
    ];
    for (line, start) in errors.lines().zip(expected) {
        assert!(line.starts_with(start), "{line:?} does not start with {start:?} in\n{errors}");
    }
    assert_eq!(errors.lines().count(), expected.len(), "{errors}");
    let error = with_file(&["--config=/etc/c.yaml"], "a: [\n").unwrap_err().to_string();
    assert!(error.starts_with("/etc/c.yaml: line 1: "), "{error}");
}

/// Flags of kube-proxy and a file with our settings alone go together.
#[test]
fn a_file_without_a_configuration_of_kube_proxy_leaves_its_flags_alone() {
    let line = ["--config=/c", "--cluster-cidr=10.244.0.0/16", "--healthz-port=0", "--graceful-timeout=2m"];
    let joined = with_file(&line, &format!("{IPVS}gracefulTimeout: 1m\nstateDir: /s\n")).unwrap();
    assert_eq!(joined.config.proxy.cluster_cidr, "10.244.0.0/16");
    assert_eq!(joined.warnings, [""; 0]);
    let settings = Settings::new(&joined).unwrap();
    assert_eq!((settings.healthz, settings.state_dir), (None, "/s".into()));
    assert_eq!(joined.config.ipvs.graceful_timeout, Some(std::time::Duration::from_mins(2)));
}

/// kops starts kube-proxy by way of another program of its image.
#[test]
fn flags_of_go_runner_are_none_of_ours() {
    let typed = |text: &str| CommandLine::parse(text.split_whitespace().map(OsString::from)).unwrap();
    let line = typed(
        "/go-runner --log-file=/var/log/kube-proxy.log --also-stdout /usr/local/bin/kube-proxy \
         --hostname-override=n1 --proxy-mode=ipvs --v=2",
    );
    assert_eq!(line.args()[0], "/usr/local/bin/kube-proxy");
    let invocation = Invocation::new(&line, None).unwrap();
    assert_eq!(invocation.cli.flags.proxy_mode, "ipvs");
    assert_eq!(
        invocation.warnings,
        [
            "--log-file=/var/log/kube-proxy.log of go-runner has no effect: the log goes to standard error",
            "--also-stdout of go-runner has no effect: the log goes to standard error",
        ]
    );
    assert_eq!(
        typed("/go-runner /usr/local/bin/kube-proxy version").args(),
        ["/usr/local/bin/kube-proxy", "version"]
    );
    for text in
        ["/go-runner", "/go-runner --version", "/go-runner version", "/go-runner --hostname-override=n1"]
    {
        assert_eq!(typed(text).args().len(), text.split(' ').count(), "{text}");
    }
}

#[test]
fn what_has_no_effect_is_warned_of_once() {
    let warnings =
        invocation(&["--kube-api-qps=20", "--profiling", "--logtostderr=false", "--log-file=/l"]).warnings;
    let named = |flag: &str| {
        warnings.iter().filter(|line| line.starts_with(&format!("--{flag} has no effect: "))).count()
    };
    assert_eq!(["kube-api-qps", "profiling", "logtostderr", "log-file"].map(named), [1; 4], "{warnings:?}");
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    let fields = "nftables: {syncPeriod: 1m}\niptables: {syncPeriod: 30s}\nresourceContainer: /x\n";
    let warnings = with_fields(&["--config=/c"], fields).warnings;
    assert_eq!(warnings[0], "nftables.syncPeriod has no effect: it is for kube-proxy's nftables mode");
    assert!(warnings[1].starts_with("/c: line 5: resourceContainer: "), "{warnings:?}");
    assert_eq!(warnings.len(), 2, "a default is not mentioned");
    let error = Settings::new(&invocation(&["--kube-api-burst=many"])).unwrap_err().to_string();
    assert!(error.contains("--kube-api-burst: expected a whole number"), "{error}");
}

/// Each flag with a field has the field's default, but where the program says otherwise.
#[test]
fn flags_and_fields_have_the_same_defaults() {
    let different = ["v"];
    let command = flags::command();
    for field in ConfigFile::default().fields() {
        let Some(flag) = field.flag.filter(|flag| !different.contains(flag)) else { continue };
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
        let arg = arg.unwrap_or_else(|| panic!("there is no --{flag}"));
        let default: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        if default.is_empty() {
            continue;
        }
        let mut set = ConfigFile::default();
        set.set_flag(flag, &default).unwrap_or_else(|error| panic!("--{flag}: {error}"));
        if field.document == Kind::KubeProxy {
            assert_eq!(set, ConfigFile::default(), "--{flag}");
        }
    }
}

#[test]
fn every_field_has_its_flag_and_every_flag_its_field() {
    let fields = ConfigFile::default().fields();
    let without_field = [
        "config",
        "write-config-to",
        "cleanup",
        "init-only",
        "version",
        "master",
        "healthz-port",
        "metrics-port",
    ];
    let old: Vec<_> = without_effect::old_flags().map(|(flag, _)| flag).collect();
    for arg in flags::command().get_arguments().filter_map(clap::Arg::get_long) {
        let has_field = fields.iter().any(|field| field.flag == Some(arg));
        assert!(has_field || without_field.contains(&arg) || old.contains(&arg), "--{arg} has no field");
    }
}

#[test]
fn the_complete_configuration_reads_back_and_means_the_same() {
    let line = command_line(&["--ipvs-scheduler=lc", "--kube-api-qps=7", "--graceful-timeout=1m", "--v=4"]);
    let first = Invocation::new(&line, None).unwrap();
    let text = first.complete_config(&line).to_yaml();
    let again = with_file(&["--config=/c"], &text).unwrap();
    assert_eq!(again.complete_config(&line).to_yaml(), text);
    assert_eq!(again.config.proxy.client_connection.qps, 7.0);
    assert_eq!(again.cli.flags.ipvs_scheduler, "lc");
    assert_eq!(again.cli.flags.graceful_timeout.as_secs(), 60);
    assert_eq!(again.config.ipvs.graceful_policy.as_deref(), Some("active-only"), "a default is written");
    let (first, again) = (Settings::new(&first).unwrap(), Settings::new(&again).unwrap());
    assert_eq!(format!("{:?}", first.reconcile), format!("{:?}", again.reconcile));
}

#[test]
fn flags_of_distributions_are_accepted() {
    for (name, text) in [
        ("kops", include_str!("../../tests/flags/kops.txt")),
        ("k3s", include_str!("../../tests/flags/k3s.txt")),
        ("rke2", include_str!("../../tests/flags/rke2.txt")),
    ] {
        let flags: Vec<_> = text.lines().filter(|line| line.starts_with("--")).collect();
        let invocation = invocation(&flags);
        let settings = Settings::new(&invocation).unwrap_or_else(|error| panic!("{name}: {error}"));
        let klog =
            ["--logtostderr", "--alsologtostderr", "--log-file", "--log-file-max-size", "--stderrthreshold"];
        let expect =
            klog.iter().filter(|flag| flags.iter().any(|given| given.split('=').next() == Some(flag)));
        assert_eq!(settings.warnings.len(), expect.count(), "{name}: {:?}", settings.warnings);
        let (healthz, metrics) = (settings.healthz.unwrap(), settings.metrics.unwrap());
        match name {
            "kops" => {
                assert_eq!((settings.tracking.max_per_core, settings.oom_score_adj), (131_072, -998));
                assert_eq!(settings.reconcile.min_sync_period.as_secs(), 5);
            }
            _ => {
                assert_eq!((settings.tracking.max_per_core, settings.tracking.established), (0, 0));
                assert_eq!(healthz.to_string(), "127.0.0.1:10256");
                assert_eq!(
                    metrics.to_string(),
                    if name == "k3s" { "0.0.0.0:10249" } else { "127.0.0.1:10249" }
                );
            }
        }
    }
}

#[test]
fn files_of_distributions_are_accepted() {
    for name in ["kubeadm-1.24", "kubeadm-1.36", "kubeadm-1.9", "kubespray", "zalando"] {
        let text = std::fs::read_to_string(testdata(&format!("{name}.yaml"))).unwrap();
        let settings = Settings::new(&with_file(&["--config=/c"], &text).unwrap()).unwrap();
        assert!(!settings.mode_is_default, "{name}");
        assert_eq!(settings.node_name, "n1", "{name}");
        let gates = settings
            .warnings
            .iter()
            .filter(|line| line.contains("no feature gate that kube-ipvs knows"))
            .count();
        assert_eq!(gates, usize::from(name == "zalando"), "{name}: {:?}", settings.warnings);
    }
}
