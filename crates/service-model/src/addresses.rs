//! Index of Services by what two may have: an external address may be a ClusterIP of another Service, and a port at
//! one that is an address of the node may be another's node port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
};

use lb_types::{Front, IpFamily, ServiceName};
use tally::Tallied;

use crate::{Service, ServicePort};

/// ClusterIPs and node ports, and the Services with external addresses.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Number of Services with each ClusterIP, which is one in a sound cluster. Those of IPv6 come last.
    cluster_ips: Tallied<BTreeMap<IpAddr, u32>>,
    /// External addresses, each with the Services that have it.
    external: BTreeSet<(IpAddr, ServiceName)>,
    /// Node ports, each with the Services that have it, one in a sound cluster.
    node_ports: BTreeSet<(Front, ServiceName)>,
    /// Ports of Services with external addresses, as if they were node ports.
    external_ports: BTreeSet<(Front, ServiceName)>,
}

impl Addresses {
    /// Tells whether a Service has an address as a ClusterIP.
    pub fn is_cluster_ip(&self, addr: IpAddr) -> bool {
        self.cluster_ips.contains_key(&addr)
    }

    /// Tells whether any Service has an IPv6 ClusterIP.
    pub fn has_ipv6(&self) -> bool {
        self.cluster_ips.last_key_value().is_some_and(|(last, _)| last.is_ipv6())
    }

    /// Another Service than `name` that has a node port.
    pub fn node_port_of_other(&self, node_port: Front, name: &ServiceName) -> Option<&ServiceName> {
        services_at(&self.node_ports, node_port).find(|owner| *owner != name)
    }

    /// Replaces what a Service has. Returns the Services with an external address that is a ClusterIP from now on, or is
    /// none any more, or with a port there that is another's node port or is none any more.
    pub(crate) fn replace(
        &mut self,
        name: &ServiceName,
        old: Option<&Service>,
        new: Option<&Service>,
    ) -> BTreeSet<ServiceName> {
        replace(&mut self.external, name, &external(old), &external(new));
        replace(&mut self.external_ports, name, &external_ports(old), &external_ports(new));
        let changed = replace(&mut self.node_ports, name, &node_ports(old), &node_ports(new));
        let at_ports = changed.into_iter().flat_map(|port| services_at(&self.external_ports, port));
        let mut concerned: BTreeSet<_> = at_ports.cloned().collect();
        let (went, came) = (cluster_ips(old), cluster_ips(new));
        for addr in came.difference(&went) {
            let count = self.cluster_ips.entry(*addr).or_default();
            *count += 1;
            if *count == 1 {
                concerned.extend(services_at(&self.external, *addr).cloned());
            }
        }
        for addr in went.difference(&came) {
            if self.release(*addr) {
                concerned.extend(services_at(&self.external, *addr).cloned());
            }
        }
        concerned.remove(name);
        concerned
    }

    /// Counts one Service out that had a ClusterIP; returns whether none has it any more.
    fn release(&mut self, addr: IpAddr) -> bool {
        let Some(count) = self.cluster_ips.get_mut(&addr) else { return false };
        *count -= 1;
        let is_free = *count == 0;
        if is_free {
            self.cluster_ips.remove(&addr);
        }
        is_free
    }
}

/// Services that an index has at a key.
fn services_at<K: Copy + Ord>(
    index: &BTreeSet<(K, ServiceName)>,
    at: K,
) -> impl Iterator<Item = &ServiceName> {
    let from = index.range((at, ServiceName::new("", ""))..);
    from.take_while(move |(key, _)| *key == at).map(|(_, service)| service)
}

/// Replaces what an index has of a Service; returns the keys that came or went.
fn replace<K: Copy + Ord>(
    index: &mut BTreeSet<(K, ServiceName)>,
    name: &ServiceName,
    old: &BTreeSet<K>,
    new: &BTreeSet<K>,
) -> Vec<K> {
    for key in old.difference(new) {
        index.remove(&(*key, name.clone()));
    }
    index.extend(new.difference(old).map(|key| (*key, name.clone())));
    old.symmetric_difference(new).copied().collect()
}

fn external(service: Option<&Service>) -> BTreeSet<IpAddr> {
    service.into_iter().flat_map(|service| &service.external_ips).map(|ip| ip.addr).collect()
}

fn cluster_ips(service: Option<&Service>) -> BTreeSet<IpAddr> {
    service.into_iter().flat_map(|service| &service.cluster_ips).copied().collect()
}

/// Node ports of a Service, in each family in which it has a ClusterIP.
fn node_ports(service: Option<&Service>) -> BTreeSet<Front> {
    as_node_ports(service, |service, family| service.cluster_ip(family).is_some(), |port| port.node_port)
}

/// Ports of a Service with external addresses, in each family, as if they were node ports.
fn external_ports(service: Option<&Service>) -> BTreeSet<Front> {
    as_node_ports(service, |service, _| !service.external_ips.is_empty(), |port| Some(port.port))
}

fn as_node_ports(
    service: Option<&Service>,
    has: impl Fn(&Service, IpFamily) -> bool,
    number: impl Fn(&ServicePort) -> Option<NonZeroU16>,
) -> BTreeSet<Front> {
    let mut fronts = BTreeSet::new();
    let Some(service) = service else { return fronts };
    for family in IpFamily::ALL.into_iter().filter(|family| has(service, *family)) {
        let of_port = |port: &ServicePort| Some(Front::node(family, port.protocol, number(port)?));
        fronts.extend(service.ports.iter().filter_map(of_port));
    }
    fronts
}
