//! Configuration of the loop.

use std::{collections::BTreeSet, time::Duration};

use ipnetwork::IpNetwork;
use lb_types::{IpFamily, LocalDetection, RulesLayout};
use planner::{Ownership, PlannerConfig};
use service_model::Node;

/// Way to recognise a pod of this node, as configured, before the Node's own prefixes are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalMode {
    /// Not at all.
    #[default]
    None,
    /// By the cluster's pod prefixes.
    ClusterCidr(Vec<IpNetwork>),
    /// By the Node's `spec.podCIDRs`.
    NodeCidr,
    /// By the bridge that its packets come in through.
    BridgeInterface(String),
    /// By the name of the interface that its packets come in through.
    InterfaceNamePrefix(String),
}

impl LocalMode {
    /// Configured part of the packet rules on this node.
    ///
    /// A family without prefixes has no detection, as in kube-proxy (cmd/kube-proxy/app/server_linux.go,
    /// `getLocalDetectors`).
    pub fn layout(&self, node: &Node, shared_links: &BTreeSet<String>, current: &RulesLayout) -> RulesLayout {
        let detect = |family| match self {
            LocalMode::None => LocalDetection::None,
            LocalMode::ClusterCidr(cidrs) => by_prefix(cidrs, family, LocalDetection::ClusterCidr),
            LocalMode::NodeCidr => by_prefix(&node.pod_cidrs, family, LocalDetection::NodeCidr),
            LocalMode::BridgeInterface(name) => LocalDetection::BridgeInterface(name.clone()),
            LocalMode::InterfaceNamePrefix(prefix) => LocalDetection::InterfaceNamePrefix(prefix.clone()),
        };
        let arp = current.arp.is_some().then(|| shared_links.iter().cloned().collect());
        RulesLayout { local_v4: detect(IpFamily::V4), local_v6: detect(IpFamily::V6), arp, ..*current }
    }
}

fn by_prefix(
    cidrs: &[IpNetwork],
    family: IpFamily,
    detection: fn(Vec<IpNetwork>) -> LocalDetection,
) -> LocalDetection {
    let cidrs: Vec<_> = cidrs.iter().filter(|net| IpFamily::of(net.ip()) == family).copied().collect();
    if cidrs.is_empty() { LocalDetection::None } else { detection(cidrs) }
}

/// Configuration of the loop; valid by construction.
#[derive(Clone, Debug)]
pub struct Config {
    /// Configuration of the desired state; its layout follows `local_mode` and the Node.
    pub planner: PlannerConfig,
    /// Way to recognise a pod of this node.
    pub local_mode: LocalMode,
    /// Predicate for the virtual servers that are ours.
    pub ownership: Ownership,
    /// Settings of drains.
    pub drain: drain::Settings,
    /// Period of the audit, which is longer where the tables are so large that it would take more than half a
    /// percent of a core.
    pub sync_period: Duration,
    /// Least distance between two plans of changed Services; zero for at once. Changes that arrive meanwhile
    /// are planned together, as are those that arrive while the loop is at work.
    pub min_sync_period: Duration,
    /// Counts the traffic of each Service, with one more dump in each round of the audit.
    pub service_traffic: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            planner: PlannerConfig::default(),
            local_mode: LocalMode::None,
            ownership: Ownership::default(),
            drain: drain::Settings::default(),
            sync_period: Duration::from_secs(30),
            min_sync_period: Duration::ZERO,
            service_traffic: false,
        }
    }
}
