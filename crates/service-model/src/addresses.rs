//! Index of Services by address: an external address may be a ClusterIP of another Service.

use std::{collections::BTreeSet, net::IpAddr};

use lb_types::{FastMap, ServiceName};
use tally::Tallied;

use crate::Service;

/// ClusterIPs, and the Services with external addresses.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// Number of Services with each ClusterIP, which is one in a sound cluster.
    cluster_ips: Tallied<FastMap<IpAddr, u32>>,
    /// External addresses, each with the Services that have it.
    external: BTreeSet<(IpAddr, ServiceName)>,
}

impl Addresses {
    /// Tells whether a Service has an address as a ClusterIP.
    pub(crate) fn is_cluster_ip(&self, addr: IpAddr) -> bool {
        self.cluster_ips.contains_key(&addr)
    }

    /// Replaces what a Service has. Returns the Services with an external address that is a ClusterIP from now on, or is
    /// none any more.
    pub(crate) fn replace(
        &mut self,
        name: &ServiceName,
        old: Option<&Service>,
        new: Option<&Service>,
    ) -> BTreeSet<ServiceName> {
        let (went, came) = (external(old), external(new));
        for addr in went.difference(&came) {
            self.external.remove(&(*addr, name.clone()));
        }
        self.external.extend(came.difference(&went).map(|addr| (*addr, name.clone())));
        let (went, came) = (cluster_ips(old), cluster_ips(new));
        let mut concerned = BTreeSet::new();
        for addr in came.difference(&went) {
            let count = self.cluster_ips.entry(*addr).or_default();
            *count += 1;
            if *count == 1 {
                concerned.extend(self.services_at(*addr).cloned());
            }
        }
        for addr in went.difference(&came) {
            if self.release(*addr) {
                concerned.extend(self.services_at(*addr).cloned());
            }
        }
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

    /// Services that have an external address.
    fn services_at(&self, addr: IpAddr) -> impl Iterator<Item = &ServiceName> {
        let at = self.external.range((addr, ServiceName::new("", ""))..);
        at.take_while(move |(at, _)| *at == addr).map(|(_, service)| service)
    }
}

fn external(service: Option<&Service>) -> BTreeSet<IpAddr> {
    service.into_iter().flat_map(|service| &service.external_ips).map(|ip| ip.addr).collect()
}

fn cluster_ips(service: Option<&Service>) -> BTreeSet<IpAddr> {
    service.into_iter().flat_map(|service| &service.cluster_ips).copied().collect()
}
