//! Feature gates of kube-proxy: one has an effect here.

use std::collections::BTreeMap;

use crate::invocation::Names;

/// Feature gates that kube-proxy has or had, and that may stand in its configuration.
const KNOWN_GATES: [&str; 24] = [
    "AllAlpha",
    "AllBeta",
    EXTERNAL_IPS_GATE,
    "ComponentFlagz",
    "ComponentStatusz",
    "ContextualLogging",
    "EndpointSlice",
    "EndpointSliceProxying",
    "IPv6DualStack",
    "KubeProxyDrainingTerminatingNodes",
    "KubeProxyIPVS",
    "LoadBalancerIPMode",
    "LoggingAlphaOptions",
    "LoggingBetaOptions",
    "MultiCIDRServiceAllocator",
    "NFTablesProxyMode",
    "NativeHistograms",
    "PreferSameTrafficDistribution",
    "ProxyTerminatingEndpoints",
    "SCTPSupport",
    "ServiceInternalTrafficPolicy",
    "ServiceTrafficDistribution",
    "SupportIPVSProxyMode",
    "TopologyAwareHints",
];

/// The feature gate that has an effect: false leaves `spec.externalIPs` out.
const EXTERNAL_IPS_GATE: &str = "AllowServiceExternalIPs";

/// Tells whether `spec.externalIPs` of Services count.
pub fn serve_external_ips(gates: &BTreeMap<String, bool>) -> bool {
    gates.get(EXTERNAL_IPS_GATE).copied().unwrap_or(true)
}

/// Warnings of gates that kube-proxy does not have.
pub fn warnings(gates: &BTreeMap<String, bool>, names: &Names) -> impl Iterator<Item = String> {
    let unknown = gates.keys().filter(|gate| !KNOWN_GATES.contains(&gate.as_str()));
    unknown.map(|gate| {
        format!("{}: {gate} is not a feature gate of kube-proxy; it has no effect", names.of("feature-gates"))
    })
}
