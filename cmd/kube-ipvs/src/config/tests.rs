use super::*;
use crate::invocation::testing;

fn settings(args: &[&str]) -> Result<Settings, String> {
    let args: Vec<_> = ["--hostname-override=N1 "].iter().chain(args).copied().collect();
    Settings::new(&testing::invocation(&args)).map_err(|error| error.to_string())
}

/// Conformance: app TestProcessHostnameOverrideFlag
#[test]
fn defaults_are_those_of_the_design() {
    let settings = settings(&[]).unwrap();
    assert_eq!(settings.node_name, "n1");
    assert_eq!(settings.reconcile.planner.node_name, "n1", "decides what is local");
    assert_eq!(settings.reconcile.drain, drain::Settings::default());
    assert_eq!(settings.reconcile.planner.scheduler, Scheduler::RR);
    assert_eq!(settings.reconcile.local_mode, LocalMode::ClusterCidr(Vec::new()));
    assert!(settings.reconcile.min_sync_period.is_zero(), "every change at once");
}

#[test]
fn a_silence_below_the_age_of_counters_is_raised_with_a_warning() {
    for (given, used, warns) in [
        ("0", None, false),
        ("1ms", Some(2500), true),
        ("2s", Some(2500), true),
        ("2500ms", Some(2500), false),
        ("1m", Some(60_000), false),
    ] {
        let settings = settings(&[&format!("--graceful-silence={given}")]).unwrap();
        assert_eq!(settings.reconcile.drain.silence, used.map(Duration::from_millis), "{given}");
        let named = settings.warnings.iter().any(|line| line.starts_with("--graceful-silence: "));
        assert_eq!(named, warns, "{given}: {:?}", settings.warnings);
    }
}

#[test]
fn every_mistake_is_listed_with_its_flag() {
    let error = settings(&[
        "--cluster-cidr=10.0.0.1,10.1.0.0/16,10.2.0.0/16",
        "--detect-local-mode=Magic",
        "--ipvs-scheduler=fair",
        "--service-overrides=some",
        "--allowed-schedulers=rr,best",
        "--graceful-timeout=0",
        "--graceful-timeout-max=1h",
        "--ipvs-sync-period=0",
        "--ipvs-min-sync-period=1s",
        "--graceful-policy=never",
        "--graceful-endpoint-gone=ignore",
        "--conn-reuse-mode=7",
        "--logging-format=xml",
        "--iptables-masquerade-bit=32",
        "--service-cidrs=fd00::/129",
        "--nodeport-addresses=primary,10.0.0.0/8",
        "--mark-range=0x100",
        "--node-port-servers=Address",
        "--healthz-bind-address=here",
        "--metrics-bind-address=10249",
        "--manifests=/m",
        "--master=https://10.0.0.1",
    ])
    .unwrap_err();
    for flag in [
        "--cluster-cidr: invalid CIDR \"10.0.0.1\"",
        "--cluster-cidr: 2 IPv4 ranges",
        "--detect-local-mode: unknown mode \"Magic\"",
        "--ipvs-scheduler: unknown IPVS scheduler \"fair\"",
        "--service-overrides: unknown value \"some\"",
        "--allowed-schedulers: unknown IPVS scheduler \"best\"",
        "--graceful-timeout: 0 (no limit) exceeds --graceful-timeout-max (3600s)",
        "--ipvs-sync-period: must",
        "--ipvs-min-sync-period: 1s is longer than --ipvs-sync-period (0ns)",
        "--graceful-policy: unknown",
        "--graceful-endpoint-gone: unknown",
        "--conn-reuse-mode: ",
        "--logging-format: ",
        "--iptables-masquerade-bit: 32",
        "--service-cidrs: invalid CIDR",
        "--nodeport-addresses: primary stands",
        "--mark-range: \"0x100\": the mask is missing",
        "--node-port-servers: unknown value \"Address\": expected mark or address",
        "--healthz-bind-address: \"here\"",
        "--metrics-bind-address: \"10249\"",
        "--manifests: objects come from one place",
    ] {
        assert!(error.contains(flag), "{flag} is missing in\n{error}");
    }
}

#[test]
fn annotations_name_the_usual_schedulers_unless_others_are_listed() {
    let allowed = |args: &[&str]| {
        let settings = settings(args).unwrap();
        let names = settings.reconcile.planner.allowed_schedulers.iter().map(Scheduler::to_string);
        (names.collect::<Vec<_>>().join(" "), settings.allow_loaded_schedulers)
    };
    assert_eq!(allowed(&[]), ("lc mh rr sh wlc wrr".into(), true));
    assert_eq!(allowed(&["--ipvs-scheduler=sed"]), ("lc mh rr sed sh wlc wrr".into(), true));
    assert_eq!(allowed(&["--allowed-schedulers=dh, lc"]), ("dh lc".into(), false));
}

#[test]
fn bindings_are_those_of_the_flags() {
    let bindings = |args: &[&str]| settings(args).map(|settings| settings.reconcile.planner.bindings);
    assert_eq!(bindings(&[]), Ok(planner::Bindings::default()));
    let given = bindings(&[
        "--cluster-ip-binding=address",
        "--external-ip-binding=none",
        "--load-balancer-ip-binding=route",
        "--exclude-external-ips=192.0.2.7, fd00::/64,::ffff:192.0.2.80",
        "--external-ip-cidrs=198.51.100.0/24,::ffff:203.0.113.0/120",
    ]);
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let expect = planner::Bindings {
        cluster_ip: VipBinding::Address,
        external_ip: VipBinding::None,
        load_balancer: VipBinding::Route,
        excluded: nets(&["192.0.2.7/32", "fd00::/64", "192.0.2.80/32"]),
        external_cidrs: nets(&["198.51.100.0/24", "203.0.113.0/24"]),
    };
    assert_eq!(given, Ok(expect));
    for (flag, part) in [
        ("--cluster-ip-binding=none", "without a binding no Service is served"),
        ("--external-ip-binding=bind", "unknown binding \"bind\": expected steer, route, address or none"),
        ("--load-balancer-ip-binding=Route", "unknown binding \"Route\""),
        ("--exclude-external-ips=192.0.2.0/33", "invalid CIDR"),
        ("--external-ip-cidrs=here", "invalid CIDR \"here\""),
        ("--steer-mark-bit=-1", "-1 is not in 0..31"),
        ("--kube-proxy-rules=flush", "unknown value \"flush\": expected remove or keep"),
        ("--steer-mark-bit=14", "14 is also the bit of --iptables-masquerade-bit"),
    ] {
        let error = settings(&[flag]).unwrap_err();
        let name = flag.split('=').next().unwrap();
        assert!(error.contains(&format!("{name}: {part}")), "{flag}: {error}");
    }
}

/// A bit that kube-proxy takes is no mistake: ours gives way.
#[test]
fn the_bit_of_steering_gives_way_to_that_of_masquerading() {
    let bits = |args: &[&str]| {
        settings(args)
            .map(|settings| settings.reconcile.planner.layout)
            .map(|l| (l.masquerade_bit, l.steer_bit))
    };
    assert_eq!(bits(&[]), Ok((14, 12)));
    assert_eq!(bits(&["--iptables-masquerade-bit=12"]), Ok((12, 13)));
    assert_eq!(bits(&["--iptables-masquerade-bit=12", "--steer-mark-bit=14"]), Ok((12, 14)));
    assert!(bits(&["--iptables-masquerade-bit=12", "--steer-mark-bit=12"]).is_err());
}

/// Conformance: util TestGetNodeIPs
#[test]
fn node_ports_are_served_at_all_addresses_unless_some_are_named() {
    let addresses =
        |args: &[&str]| settings(args).map(|settings| settings.reconcile.planner.node_port_addresses);
    assert_eq!(addresses(&[]), Ok(NodePortAddresses::All));
    assert_eq!(addresses(&["--nodeport-addresses="]), Ok(NodePortAddresses::All));
    assert_eq!(addresses(&["--nodeport-addresses= primary "]), Ok(NodePortAddresses::Primary));
    let prefixes = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec();
    assert_eq!(
        addresses(&["--nodeport-addresses=10.0.0.1/8,fd00::/8"]),
        Ok(NodePortAddresses::Prefixes(prefixes))
    );
    let error = addresses(&["--nodeport-addresses=10.0.0.1,Primary"]).unwrap_err();
    assert!(error.contains("\"10.0.0.1\"") && error.contains("\"Primary\""), "{error}");
}

#[test]
fn objects_come_from_the_cluster_unless_a_directory_is_given() {
    let source = |args: &[&str]| settings(args).unwrap().source;
    assert_eq!(source(&[]), Source::Api { kubeconfig: None, master: None });
    assert_eq!(
        source(&["--kubeconfig=/k", "--master=https://m"]),
        Source::Api { kubeconfig: Some("/k".into()), master: Some("https://m".into()) }
    );
    assert_eq!(source(&["--manifests=/m", "--kubeconfig=", "--master="]), Source::Manifests("/m".into()));
    assert_eq!(settings(&["--healthz-bind-address="]).unwrap().healthz, None);
}

/// Conformance: app Test_getLocalDetectors
#[test]
fn modes_need_their_interface() {
    let error = settings(&["--detect-local-mode=BridgeInterface"]).unwrap_err();
    assert!(error.contains("--pod-bridge-interface"), "{error}");
    let settings = settings(&["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali"]);
    assert_eq!(settings.unwrap().reconcile.local_mode, LocalMode::InterfaceNamePrefix("cali".into()));
}

/// Conformance: app TestAddressFromDeprecatedFlags
/// Conformance: util TestAppendPortIfNeeded
#[test]
fn servers_listen_at_addresses_that_follow_from_four_flags() {
    for (args, healthz, metrics) in [
        (&[][..], "[::]:10256", "127.0.0.1:10249"),
        (&["--bind-address=0.0.0.0"], "[::]:10256", "127.0.0.1:10249"),
        (&["--bind-address=192.168.0.1"], "0.0.0.0:10256", "127.0.0.1:10249"),
        (&["--bind-address=::"], "[::]:10256", "[::1]:10249"),
        (&["--healthz-port=1", "--metrics-port=2"], "[::]:1", "127.0.0.1:2"),
        (&["--healthz-port=0", "--metrics-port=0"], "", ""),
        (&["--healthz-bind-address=127.0.0.1:9", "--healthz-port=0"], "", "127.0.0.1:10249"),
        (&["--healthz-bind-address=", "--metrics-bind-address="], "", ""),
        (
            &["--healthz-bind-address=127.0.0.1", "--metrics-bind-address=::1"],
            "127.0.0.1:10256",
            "[::1]:10249",
        ),
        (&["--metrics-bind-address=[::1]", "--metrics-port=7"], "[::]:10256", "[::1]:7"),
        (&["--metrics-bind-address=0.0.0.0:8", "--metrics-port=7"], "[::]:10256", "0.0.0.0:8"),
    ] {
        let settings = settings(args).unwrap();
        let text = |addr: Option<SocketAddr>| addr.map(|addr| addr.to_string()).unwrap_or_default();
        assert_eq!(
            (text(settings.healthz).as_str(), text(settings.metrics).as_str()),
            (healthz, metrics),
            "{args:?}"
        );
    }
    for flag in ["healthz", "metrics"] {
        let error = settings(&[&format!("--{flag}-bind-address=127.0.0.1:0")]).unwrap_err();
        assert!(error.contains(&format!("--{flag}-bind-address")) && error.contains("1 to 65535"), "{error}");
    }
}

#[test]
fn only_ipvs_is_served() {
    assert!(settings(&[]).unwrap().mode_is_default);
    assert!(!settings(&["--proxy-mode=ipvs"]).unwrap().mode_is_default);
    for mode in ["iptables", "nftables", "IPVS"] {
        let error = settings(&[&format!("--proxy-mode={mode}")]).unwrap_err();
        assert!(error.contains("--proxy-mode: ") && error.contains("serves ipvs only"), "{error}");
    }
}

#[test]
fn one_feature_gate_has_an_effect() {
    let of = |gates: &str| {
        let settings = settings(&[&format!("--feature-gates={gates}")]).unwrap();
        (settings.reconcile.planner.serve_external_ips, settings.warnings.len())
    };
    assert_eq!(of(""), (true, 0));
    assert_eq!(of("AllowServiceExternalIPs=false,TopologyAwareHints=true"), (false, 0));
    assert_eq!(of("AllowServiceExternalIPs=true,Unheard=true"), (true, 1));
    assert_eq!(of("TopologyAwareHints=false,AllAlpha=false,ProxyTerminatingEndpoints=false"), (true, 2));
}

#[test]
fn an_address_to_bind_is_the_nodes() {
    let node_ip = |address: &str| {
        settings(&[&format!("--bind-address={address}")])
            .unwrap()
            .reconcile
            .planner
            .node_ip
            .map(|ip| ip.to_string())
    };
    assert_eq!((node_ip("0.0.0.0"), node_ip("::"), node_ip("")), (None, None, None));
    assert_eq!(node_ip("192.168.0.1").as_deref(), Some("192.168.0.1"));
}

#[test]
fn connection_tracking_is_configured() {
    assert_eq!(settings(&[]).unwrap().tracking, ConnectionTracking::defaults(kernel::cores()));
    let tracking = settings(&["--conntrack-max-per-core=0", "--conntrack-udp-timeout=90s"]).unwrap().tracking;
    assert_eq!((tracking.max_per_core, tracking.udp), (0, 90));
}

/// As `strconv.ParseBool` and `ParseInt` of Go spell them.
#[test]
fn values_of_flags_are_those_of_go() {
    let flags = [
        "masquerade-all",
        "ipvs-strict-arp",
        "conntrack-tcp-be-liberal",
        "bind-address-hard-fail",
        "profiling",
        "iptables-localhost-nodeports",
        "service-metrics",
    ];
    for flag in flags {
        for value in ["1", "t", "T", "TRUE", "0", "f", "F", "False"] {
            let result = settings(&[&format!("--{flag}={value}")]);
            assert!(result.is_ok(), "{flag}={value}: {:?}", result.err());
        }
    }
    assert!(settings(&["--feature-gates=AllowServiceExternalIPs=0"]).is_ok());
    for flag in
        ["--iptables-masquerade-bit=0xe", "--conntrack-min=0x20000", "--conntrack-max-per-core=131_072"]
    {
        let result = settings(&[flag]);
        assert!(result.is_ok(), "{flag}: {:?}", result.err());
    }
}

/// On the way back to kube-proxy its file has its mode already.
#[test]
fn cleanup_needs_no_mode() {
    let of_kube_proxy =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n";
    let check = |args: &[&str]| Settings::new(&testing::with_file(args, of_kube_proxy).unwrap()).is_ok();
    assert!(check(&["--config=/c", "cleanup"]) && check(&["--config=/c", "--cleanup"]));
    assert!(!check(&["--config=/c"]) && !check(&["--config=/c", "plan"]));
}

#[test]
fn what_is_missing_in_a_file_is_named_by_its_field() {
    for (mode, field) in [
        ("BridgeInterface", "detectLocal.bridgeInterface"),
        ("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix"),
    ] {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\ndetectLocalMode: {mode}\n"
        );
        let error = Settings::new(&testing::with_file(&["--config=/c"], &text).unwrap()).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn a_mapped_bind_address_is_one_of_ipv4() {
    let settings = settings(&["--bind-address=::ffff:192.168.0.1"]).unwrap();
    assert_eq!(settings.metrics.unwrap().to_string(), "127.0.0.1:10249");
}

#[test]
fn flags_that_are_tasks_and_commands_exclude_each_other() {
    let parse = |args: &[&str]| {
        let args = ["kube-ipvs"].iter().chain(args).map(std::ffi::OsString::from);
        crate::invocation::CommandLine::parse(args).map(drop).map_err(|error| error.to_string())
    };
    for (args, flag) in [
        (["--cleanup", "plan"], "--cleanup"),
        (["--init-only", "drains"], "--init-only"),
        (["--write-config-to=f", "plan"], "--write-config-to"),
    ] {
        let error = parse(&args).unwrap_err();
        assert!(error.contains(flag) && error.contains(args[1]), "{error}");
    }
    for args in [["--cleanup", "cleanup"], ["--write-config-to=", "plan"]] {
        assert_eq!(parse(&args), Ok(()), "{args:?}");
    }
}
