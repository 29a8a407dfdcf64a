//! Findings about the node: settings that keep Services from working and are not ours to change.
//!
//! The loop looks at start, with every audit, and when a notification reports a change of links or addresses.
//! It logs each finding once with the remedy, and once when it is gone.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::{BridgeFilters, ForwardDrop};
use ipnetwork::IpNetwork;
use lb_types::{IpFamily, words};
use tracing::{debug, info, warn};

use crate::{LocalMode, intents::Intents, kernel::Kernel, problems::chain};

words! {
    /// Kind of finding, by its code.
    NodeFinding {
        /// Somebody else's chain drops the answers of pods.
        ForwardPolicyDrop = "forward-policy-drop",
        /// Pods are on a bridge whose packets do not pass netfilter.
        BridgeNotFiltered = "bridge-not-filtered",
        /// A kernel parameter cannot be written.
        ParameterRefused = "parameter-refused",
    }
}

/// Findings of the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeFindings {
    /// Objects concerned, each with the text for the log.
    found: BTreeMap<NodeFinding, BTreeMap<String, String>>,
    /// Bridges, as seen last.
    pub(crate) bridges: BTreeMap<String, BridgeFilters>,
}

impl NodeFindings {
    /// Replaces the findings of one kind and logs what changed; returns whether anything did.
    fn replace(&mut self, finding: NodeFinding, now: BTreeMap<String, String>) -> bool {
        let before = self.found.entry(finding).or_default();
        for (_, text) in now.iter().filter(|(object, _)| !before.contains_key(*object)) {
            warn!(finding = finding.as_str(), "{text}");
        }
        for object in before.keys().filter(|object| !now.contains_key(*object)) {
            info!(finding = finding.as_str(), "no longer: {object}");
        }
        let changed = before.keys().ne(now.keys());
        *before = now;
        changed
    }

    /// Takes over the kernel parameters that could not be written; the reasons are in the log already.
    /// Returns whether they have changed.
    pub(crate) fn replace_parameters(&mut self, refused: impl Iterator<Item = String>) -> bool {
        let refused: BTreeSet<_> = refused.collect();
        let before = self.found.entry(NodeFinding::ParameterRefused).or_default();
        let changed = !before.keys().eq(refused.iter());
        *before = refused.into_iter().map(|name| (name, String::new())).collect();
        changed
    }

    /// Objects concerned by a finding.
    pub(crate) fn objects(&self, finding: NodeFinding) -> impl Iterator<Item = &str> {
        self.found.get(&finding).into_iter().flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// Looks for chains that drop the answers of pods; returns whether the findings have changed. The next
    /// audit reads again what cannot be read now.
    pub(crate) fn check_forwarding(&mut self, kernel: &mut Kernel, intents: &Intents) -> bool {
        let drops = match kernel.tables.rules.forward_drops() {
            Ok(drops) => drops,
            Err(error) => {
                debug!("{}; will be tried again", chain(&error));
                return false;
            }
        };
        let ipv6 = intents.model.addresses().has_ipv6();
        let concerned = drops.into_iter().filter(|drop| ipv6 || drop.family != Some(IpFamily::V6));
        let found = concerned.map(|drop| (drop.to_string(), forward_text(&drop))).collect();
        self.replace(NodeFinding::ForwardPolicyDrop, found)
    }

    /// Checks that connections between pods of this node pass netfilter; returns whether the findings have
    /// changed.
    pub(crate) fn check_bridges(&mut self, kernel: &mut Kernel, intents: &Intents) -> bool {
        let mut found = BTreeMap::new();
        for family in IpFamily::ALL {
            if family == IpFamily::V6 && !intents.model.addresses().has_ipv6() {
                continue;
            }
            let unfiltered: Vec<_> = self.bridges_of_pods(intents, family).into_iter().collect();
            if unfiltered.is_empty() {
                continue;
            }
            let name = bridge_parameter(family);
            // A parameter that cannot be read cannot be judged.
            let Ok(value) = kernel.tables.sysctls.read(name) else { continue };
            if value == Some(1) {
                continue;
            }
            for bridge in unfiltered {
                let text = bridge_text(&bridge, family, value.is_none());
                found.insert(format!("{bridge} {family}"), text);
            }
        }
        self.replace(NodeFinding::BridgeNotFiltered, found)
    }

    /// Bridges that have pods, recognised by a bridge address in the pods' prefixes, and that do not pass
    /// packets to netfilter by a setting of their own.
    fn bridges_of_pods(&self, intents: &Intents, family: IpFamily) -> BTreeSet<String> {
        let filters = |filters: &BridgeFilters| match family {
            IpFamily::V4 => filters.ipv4,
            IpFamily::V6 => filters.ipv6,
        };
        let Intents { local_mode, model, facts, .. } = intents;
        let unfiltered = self.bridges.iter().filter(|(_, own)| !filters(own));
        let configured: &[IpNetwork] = match local_mode {
            LocalMode::ClusterCidr(cidrs) => cidrs,
            _ => &[],
        };
        // Pods have addresses in the configured prefixes or in those of the Node.
        let prefixes = || configured.iter().chain(&model.node().pod_cidrs);
        let has_pods = |bridge: &str| {
            if *local_mode == LocalMode::BridgeInterface(bridge.to_owned()) {
                return true;
            }
            let mut addresses = facts.addresses.iter().filter(|(_, link)| *link == bridge);
            addresses
                .any(|(addr, _)| IpFamily::of(*addr) == family && prefixes().any(|net| net.contains(*addr)))
        };
        unfiltered.map(|(name, _)| name).filter(|name| has_pods(name)).cloned().collect()
    }
}

const fn bridge_parameter(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "net/bridge/bridge-nf-call-iptables",
        IpFamily::V6 => "net/bridge/bridge-nf-call-ip6tables",
    }
}

fn forward_text(drop: &ForwardDrop) -> String {
    let tool = match &*drop.table {
        "ip filter" => Some("iptables"),
        "ip6 filter" => Some("ip6tables"),
        _ => None,
    };
    let by_tool = tool.map(|tool| {
        format!(" ({tool} -I {} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT)", drop.chain)
    });
    format!(
        "chain {drop} has the policy drop and accepts no answers of established connections: clients in other pods, on \
         other nodes and outside time out at Services whose endpoints are on this node; let it accept them: nft insert \
         rule {} {} ct state established,related accept{}",
        drop.table,
        drop.chain,
        by_tool.unwrap_or_default()
    )
}

fn bridge_text(bridge: &str, family: IpFamily, absent: bool) -> String {
    let parameter = bridge_parameter(family).replace('/', ".");
    let remedy = if absent {
        format!("load the module br_netfilter (modprobe br_netfilter) and set sysctl -w {parameter}=1")
    } else {
        format!("sysctl -w {parameter}=1")
    };
    format!(
        "the bridge {bridge} has pods, and {family} packets between them do not pass netfilter: a pod that reaches \
         another pod of this node through a ClusterIP times out; {remedy}"
    )
}
