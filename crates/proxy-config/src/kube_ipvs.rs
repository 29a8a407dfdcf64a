//! `KubeIpvsConfiguration` v1alpha1: the settings that kube-proxy does not have. What is unset leaves the flag's
//! default.

use std::time::Duration;

use crate::schema::section;

section! {
    /// Settings that kube-proxy does not have; `None` where the flag or its default counts.
    KubeIpvsConfiguration {
        /// Directory with objects, instead of an API server.
        manifests: Option<String> = None => "manifests" flag "manifests";
        /// ClusterIP ranges.
        service_cidrs: Option<Vec<String>> = None => "serviceCIDRs" flag "service-cidrs";
        /// Keys of the virtual servers of node ports.
        node_port_servers: Option<String> = None => "nodePortServers" flag "node-port-servers";
        /// Packet marks that may be used.
        mark_range: Option<String> = None => "markRange" flag "mark-range";
        /// Way by which packets to ClusterIPs come to IPVS.
        cluster_ip_binding: Option<String> = None => "clusterIPBinding" flag "cluster-ip-binding";
        /// Way by which packets to external IPs come to IPVS.
        external_ip_binding: Option<String> = None => "externalIPBinding" flag "external-ip-binding";
        /// Way by which packets to ingress IPs of load balancers come to IPVS.
        load_balancer_ip_binding: Option<String> = None
            => "loadBalancerIPBinding" flag "load-balancer-ip-binding";
        /// External and load-balancer IPs that are bound to no node.
        exclude_external_ips: Option<Vec<String>> = None => "excludeExternalIPs" flag "exclude-external-ips";
        /// Ranges of the external IPs that Services may have.
        external_ip_cidrs: Option<Vec<String>> = None => "externalIPCIDRs" flag "external-ip-cidrs";
        /// Bit of the packet mark of steered packets.
        steer_mark_bit: Option<i32> = None => "steerMarkBit" flag "steer-mark-bit";
        /// Annotations of Services that count.
        service_overrides: Option<String> = None => "serviceOverrides" flag "service-overrides";
        /// Schedulers that annotations may name.
        allowed_schedulers: Option<Vec<String>> = None => "allowedSchedulers" flag "allowed-schedulers";
        /// Fate of the packet rules that kube-proxy has left.
        kube_proxy_rules: Option<String> = None => "kubeProxyRules" flag "kube-proxy-rules";
        /// Rule by which a draining real server is removed.
        graceful_policy: Option<String> = None => "gracefulPolicy" flag "graceful-policy";
        /// Time for which a draining real server must be quiet.
        graceful_linger: Option<Duration> = None => "gracefulLinger" flag "graceful-linger";
        /// Time after which a draining real server is removed in any case.
        graceful_timeout: Option<Duration> = None => "gracefulTimeout" flag "graceful-timeout";
        /// Longest timeout that an annotation may ask for.
        graceful_timeout_max: Option<Duration> = None => "gracefulTimeoutMax" flag "graceful-timeout-max";
        /// Time without an answer after which a draining real server is removed.
        graceful_silence: Option<Duration> = None => "gracefulSilence" flag "graceful-silence";
        /// Effect of the deletion of its pod on a draining real server.
        graceful_endpoint_gone: Option<String> = None => "gracefulEndpointGone" flag "graceful-endpoint-gone";
        /// Value of `net.ipv4.vs.conn_reuse_mode`.
        conn_reuse_mode: Option<String> = None => "connReuseMode" flag "conn-reuse-mode";
        /// Exports the traffic of each Service.
        service_metrics: Option<bool> = None => "serviceMetrics" flag "service-metrics";
        /// Directory for state that must survive a restart.
        state_dir: Option<String> = None => "stateDir" flag "state-dir";
    }
}
