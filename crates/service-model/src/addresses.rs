//! Index of Services by what two may have: an external address may be a ClusterIP of another Service, and a port at
//! one that is an address of the node may be another's node port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
};

use lb_types::{Front, IpFamily, ServiceName};
use tally::Tallied;

use crate::{Service, ServiceIndex, ServicePort};

/// ClusterIPs and node ports, and the Services with external addresses.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Number of Services with each ClusterIP, which is one in a sound cluster. Those of IPv6 come last.
    cluster_ips: Tallied<BTreeMap<IpAddr, u32>>,
    /// External addresses, each with the Services that have it.
    external: ServiceIndex<IpAddr>,
    /// Node ports, each with the Services that have it, one in a sound cluster.
    node_ports: ServiceIndex<Front>,
    /// Ports of Services with external addresses, as if they were node ports.
    external_ports: ServiceIndex<Front>,
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
        self.node_ports.at(node_port).find(|owner| *owner != name)
    }

    /// Replaces what a Service has. Returns the Services with an external address that is a ClusterIP from now on, or is
    /// none any more, or with a port there that is another's node port or is none any more.
    pub(crate) fn replace(
        &mut self,
        name: &ServiceName,
        old: Option<&Service>,
        new: Option<&Service>,
    ) -> BTreeSet<ServiceName> {
        self.external.replace(name, [old, new], external);
        self.external_ports.replace(name, [old, new], external_ports);
        let changed = self.node_ports.replace(name, [old, new], node_ports);
        let at_ports = changed.into_iter().flat_map(|port| self.external_ports.at(port));
        let mut concerned: BTreeSet<_> = at_ports.cloned().collect();
        let [went, came] = [old, new].map(|service| service.map(cluster_ips).unwrap_or_default());
        for addr in came.difference(&went) {
            let count = self.cluster_ips.entry(*addr).or_default();
            *count += 1;
            if *count == 1 {
                concerned.extend(self.external.at(*addr).cloned());
            }
        }
        for addr in went.difference(&came) {
            if self.release(*addr) {
                concerned.extend(self.external.at(*addr).cloned());
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

fn external(service: &Service) -> BTreeSet<IpAddr> {
    service.external_ips.iter().map(|ip| ip.addr).collect()
}

fn cluster_ips(service: &Service) -> BTreeSet<IpAddr> {
    service.cluster_ips.iter().copied().collect()
}

/// Node ports of a Service, in each family in which it has a ClusterIP.
fn node_ports(service: &Service) -> BTreeSet<Front> {
    as_node_ports(service, |family| service.cluster_ip(family).is_some(), |port| port.node_port)
}

/// Ports of a Service with external addresses, in each family, as if they were node ports.
fn external_ports(service: &Service) -> BTreeSet<Front> {
    as_node_ports(service, |_| !service.external_ips.is_empty(), |port| Some(port.port))
}

fn as_node_ports(
    service: &Service,
    has: impl Fn(IpFamily) -> bool,
    number: impl Fn(&ServicePort) -> Option<NonZeroU16>,
) -> BTreeSet<Front> {
    let mut fronts = BTreeSet::new();
    for family in IpFamily::ALL.into_iter().filter(|family| has(*family)) {
        let of_port = |port: &ServicePort| Some(Front::node(family, port.protocol, number(port)?));
        fronts.extend(service.ports.iter().filter_map(of_port));
    }
    fronts
}
