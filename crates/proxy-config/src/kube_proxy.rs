//! `KubeProxyConfiguration` v1alpha1 with kube-proxy's defaults (pkg/proxy/apis/config/v1alpha1/defaults.go).

use std::{collections::BTreeMap, time::Duration};

use crate::{
    schema::section,
    value::{MaybeNanoseconds, VModule},
};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

section! {
    /// kube-proxy's configuration: every field of v1alpha1.
    KubeProxyConfiguration {
        /// Feature gates by name.
        feature_gates: BTreeMap<String, bool> = BTreeMap::new() => "featureGates" flag "feature-gates";
        /// Name of this node; without it, the host name.
        hostname_override: String = String::new() => "hostnameOverride" flag "hostname-override";
        /// Address whose family decides where the servers listen.
        bind_address: String = "0.0.0.0".to_owned() => "bindAddress" flag "bind-address";
        /// Address of the health server.
        healthz_bind_address: String = String::new() => "healthzBindAddress" flag "healthz-bind-address";
        /// Address of the metrics server.
        metrics_bind_address: String = String::new() => "metricsBindAddress" flag "metrics-bind-address";
        /// Ends the process if one of them cannot be bound.
        bind_address_hard_fail: bool = false => "bindAddressHardFail" flag "bind-address-hard-fail";
        /// Serves profiles of the process beside the metrics.
        enable_profiling: bool = false => "enableProfiling" flag "profiling";
        /// Release whose hidden metrics are shown.
        show_hidden_metrics_for_version: String = String::new()
            => "showHiddenMetricsForVersion" flag "show-hidden-metrics-for-version";
        /// Proxy mode.
        mode: String = String::new() => "mode" flag "proxy-mode";
        /// Way to recognise pods of this node.
        detect_local_mode: String = "ClusterCIDR".to_owned() => "detectLocalMode" flag "detect-local-mode";
        /// Pod ranges of the cluster, with a comma between those of two families.
        cluster_cidr: String = String::new() => "clusterCIDR" flag "cluster-cidr";
        /// Addresses of this node at which node ports are served.
        node_port_addresses: Vec<String> = Vec::new() => "nodePortAddresses" flag "nodeport-addresses";
        /// Order in which the kernel kills processes when memory is short.
        oom_score_adj: i32 = -999 => "oomScoreAdj" flag "oom-score-adj" if null;
        /// Time after which informers deliver all objects again.
        config_sync_period: Duration = seconds(15 * 60) => "configSyncPeriod" flag "config-sync-period";
        /// Ports of the userspace mode of old releases.
        port_range: String = String::new() => "portRange";
        /// Runs the process as a service of Windows.
        windows_run_as_service: bool = false => "windowsRunAsService";
    }
    {
        /// Connection to the API server.
        client_connection: ClientConnection => "clientConnection";
        /// Log lines.
        logging: Logging => "logging";
        /// The iptables mode; two fields count in every mode.
        iptables: Iptables => "iptables";
        /// The IPVS mode.
        ipvs: Ipvs => "ipvs";
        /// The nftables mode.
        nftables: Nftables => "nftables";
        /// The mode for Windows.
        winkernel: Winkernel => "winkernel";
        /// Names of interfaces for `detectLocalMode`.
        detect_local: DetectLocal => "detectLocal";
        /// Connection tracking.
        conntrack: Conntrack => "conntrack";
    }
}

section! {
    /// Connection to the API server.
    ClientConnection {
        /// File with address and credentials of the API server.
        kubeconfig: String = String::new() => "kubeconfig" flag "kubeconfig";
        /// Media types of objects from the API server, the best one first, instead of contentType.
        accept_content_types: String = String::new() => "acceptContentTypes";
        /// Media type of objects from the API server: application/vnd.kubernetes.protobuf or application/json.
        content_type: String = "application/vnd.kubernetes.protobuf".to_owned()
            => "contentType" flag "kube-api-content-type";
        /// Requests per second.
        qps: f32 = 5.0 => "qps" flag "kube-api-qps";
        /// Requests at once.
        burst: i32 = 10 => "burst" flag "kube-api-burst";
    }
}

section! {
    /// Log lines.
    Logging {
        /// Format of log lines: text or json.
        format: String = "text".to_owned() => "format" flag "logging-format";
        /// Time after which buffered log lines are written.
        flush_frequency: MaybeNanoseconds = MaybeNanoseconds(seconds(5))
            => "flushFrequency" flag "log-flush-frequency";
        /// Verbosity of the log.
        verbosity: u32 = 0 => "verbosity" flag "v";
        /// Verbosity by source file.
        vmodule: Vec<VModule> = Vec::new() => "vmodule" flag "vmodule";
    }
    {
        /// Options of the formats.
        options: LoggingOptions => "options";
    }
}

section! {
    /// Options of the formats of log lines.
    LoggingOptions {}
    {
        /// Options of the text format.
        text: TextOptions => "text";
        /// Options of the JSON format.
        json: JsonOptions => "json";
    }
}

section! {
    /// Options of the text format.
    TextOptions {
        /// Writes errors to standard error and other lines to standard output.
        split_stream: bool = false => "splitStream" flag "log-text-split-stream";
        /// Size of the buffer of other lines.
        info_buffer_size: String = "0".to_owned() => "infoBufferSize" flag "log-text-info-buffer-size";
    }
}

section! {
    /// Options of the JSON format.
    JsonOptions {
        /// Writes errors to standard error and other lines to standard output.
        split_stream: bool = false => "splitStream" flag "log-json-split-stream";
        /// Size of the buffer of other lines.
        info_buffer_size: String = "0".to_owned() => "infoBufferSize" flag "log-json-info-buffer-size";
    }
}

section! {
    /// The iptables mode; the first two fields count in the IPVS mode as well.
    Iptables {
        /// Bit of the packet mark for masquerading.
        masquerade_bit: i32 = 14 => "masqueradeBit" flag "iptables-masquerade-bit" if null;
        /// Masquerades all connections to ClusterIPs.
        masquerade_all: bool = false => "masqueradeAll" flag "masquerade-all";
        /// Serves node ports at loopback addresses.
        localhost_node_ports: bool = true => "localhostNodePorts" flag "iptables-localhost-nodeports" if null;
        /// Longest time between two syncs of the iptables mode.
        sync_period: Duration = seconds(30) => "syncPeriod" flag "iptables-sync-period";
        /// Shortest time between two syncs of the iptables mode.
        min_sync_period: Duration = seconds(1) => "minSyncPeriod" flag "iptables-min-sync-period";
    }
}

section! {
    /// The IPVS mode.
    Ipvs {
        /// Interval between two audits.
        sync_period: Duration = seconds(30) => "syncPeriod" flag "ipvs-sync-period";
        /// Shortest time between two syncs.
        min_sync_period: Duration = seconds(0) => "minSyncPeriod" flag "ipvs-min-sync-period";
        /// Scheduler of Services that name none.
        scheduler: String = "rr".to_owned() => "scheduler" flag "ipvs-scheduler";
        /// Ranges in which virtual servers are left alone.
        exclude_cidrs: Vec<String> = Vec::new() => "excludeCIDRs" flag "ipvs-exclude-cidrs";
        /// Answers ARP only for addresses of the interface that is asked.
        strict_arp: bool = false => "strictARP" flag "ipvs-strict-arp";
        /// Timeout of idle TCP connections.
        tcp_timeout: Duration = seconds(0) => "tcpTimeout" flag "ipvs-tcp-timeout";
        /// Timeout of TCP connections after a FIN.
        tcp_fin_timeout: Duration = seconds(0) => "tcpFinTimeout" flag "ipvs-tcpfin-timeout";
        /// Timeout of UDP flows.
        udp_timeout: Duration = seconds(0) => "udpTimeout" flag "ipvs-udp-timeout";
    }
}

section! {
    /// The nftables mode.
    Nftables {
        /// Bit of the packet mark for masquerading.
        masquerade_bit: i32 = 14 => "masqueradeBit" if null;
        /// Masquerades all connections to ClusterIPs.
        masquerade_all: bool = false => "masqueradeAll";
        /// Longest time between two syncs.
        sync_period: Duration = seconds(30) => "syncPeriod";
        /// Shortest time between two syncs.
        min_sync_period: Duration = seconds(1) => "minSyncPeriod";
    }
}

section! {
    /// The mode for Windows.
    Winkernel {
        /// Network of the pods.
        network_name: String = String::new() => "networkName";
        /// Source address of packets to other nodes.
        source_vip: String = String::new() => "sourceVip";
        /// Lets answers go to clients directly.
        enable_dsr: bool = false => "enableDSR";
        /// Endpoint of the root network.
        root_hns_endpoint_name: String = String::new() => "rootHnsEndpointName";
        /// Passes health checks of load balancers on.
        forward_health_check_vip: bool = false => "forwardHealthCheckVip";
    }
}

section! {
    /// Names of interfaces for `detectLocalMode`.
    DetectLocal {
        /// Bridge of the pods.
        bridge_interface: String = String::new() => "bridgeInterface" flag "pod-bridge-interface";
        /// Prefix of the names of pod interfaces.
        interface_name_prefix: String = String::new() => "interfaceNamePrefix" flag "pod-interface-name-prefix";
    }
}

section! {
    /// Connection tracking.
    Conntrack {
        /// Tracked connections for each core; 0 leaves the limit alone.
        max_per_core: i32 = 32 << 10 => "maxPerCore" flag "conntrack-max-per-core" if null;
        /// Smallest limit of tracked connections.
        min: i32 = 128 << 10 => "min" flag "conntrack-min" if null;
        /// Time for which an idle TCP connection is tracked; 0 leaves it alone.
        tcp_established_timeout: Duration = seconds(24 * 3600)
            => "tcpEstablishedTimeout" flag "conntrack-tcp-timeout-established" if null;
        /// Time for which a TCP connection is tracked whose server has closed; 0 leaves it alone.
        tcp_close_wait_timeout: Duration = seconds(3600)
            => "tcpCloseWaitTimeout" flag "conntrack-tcp-timeout-close-wait" if null;
        /// Accepts TCP packets outside of the window.
        tcp_be_liberal: bool = false => "tcpBeLiberal" flag "conntrack-tcp-be-liberal";
        /// Time for which a UDP packet without an answer is tracked; 0 leaves it alone.
        udp_timeout: Duration = seconds(0) => "udpTimeout" flag "conntrack-udp-timeout";
        /// Time for which a UDP flow is tracked; 0 leaves it alone.
        udp_stream_timeout: Duration = seconds(0) => "udpStreamTimeout" flag "conntrack-udp-timeout-stream";
    }
}
