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

/// Gates of what is always on here.
const ALWAYS_ON: [&str; 12] = [
    "EndpointSlice",
    "EndpointSliceProxying",
    "IPv6DualStack",
    "KubeProxyDrainingTerminatingNodes",
    "LoadBalancerIPMode",
    "MultiCIDRServiceAllocator",
    "PreferSameTrafficDistribution",
    "ProxyTerminatingEndpoints",
    "SCTPSupport",
    "ServiceInternalTrafficPolicy",
    "ServiceTrafficDistribution",
    "TopologyAwareHints",
];

/// Warnings of gates that nobody knows, and of those whose value does not count.
pub fn warnings<'a>(
    gates: &'a BTreeMap<String, bool>,
    names: &'a Names,
) -> impl Iterator<Item = String> + 'a {
    let unknown = gates.keys().filter(|gate| !KNOWN_GATES.contains(&gate.as_str()));
    let unknown = unknown.map(|gate| {
        format!(
            "{}: {gate} is no feature gate that kube-ipvs knows; it has no effect",
            names.of("feature-gates")
        )
    });
    let off = gates.iter().filter(|(gate, on)| !**on && ALWAYS_ON.contains(&gate.as_str()));
    let off = off.map(|(gate, _)| {
        format!("{}: {gate}=false has no effect: what it switches is always on", names.of("feature-gates"))
    });
    unknown.chain(off)
}
