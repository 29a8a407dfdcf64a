//! VIPs that another program has put on an interface of the node, as NodeLocal DNSCache does with the address
//! of the cluster DNS. The ports on which the program listens stay the program's, and the others are served.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dataplane::TableError;
use drain::Time;
use lb_types::{Front, ServiceName, VipPort};
use planner::NodeFacts;
use service_model::Service;
use tracing::warn;

use crate::{kernel::Kernel, problems::chain};

/// Time between two looks at sockets while there are such VIPs: the kernel does not report when a socket
/// begins to listen.
const PERIOD: Duration = Duration::from_secs(1);

/// Services with such VIPs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listeners {
    /// Each with the ports that its intent leaves to the node. Two Services may share a port, and each has to be
    /// planned again by itself when that changes.
    services: BTreeMap<ServiceName, BTreeSet<VipPort>>,
    /// Time of the next look at sockets.
    next: Time,
    /// True if the kernel gave no answer last time, which is logged once.
    failed: bool,
}

impl Listeners {
    /// Time of the next look at sockets; `None` if no Service has such a VIP.
    pub(crate) fn due(&self) -> Option<Time> {
        (!self.services.is_empty()).then_some(self.next)
    }

    /// Takes the Services whose ports are to be looked at now.
    pub(crate) fn take_due(&mut self, now: Time) -> BTreeSet<ServiceName> {
        if self.due().is_none_or(|due| now < due) {
            return BTreeSet::new();
        }
        self.next = now + PERIOD;
        self.services.keys().cloned().collect()
    }

    /// Finds out which ports of a Service belong to the node; returns whether that has changed.
    pub(crate) fn look(
        &mut self,
        service: Option<&Service>,
        name: &ServiceName,
        facts: &mut NodeFacts,
        kernel: &mut Kernel,
    ) -> bool {
        let ports = service.map(|service| facts.shared_ports(service)).unwrap_or_default();
        let before = self.services.get(name).cloned();
        self.release(before.iter().flatten().filter(|port| !ports.contains(port)), name, facts);
        if ports.is_empty() {
            self.services.remove(name);
            return false;
        }
        let found = match kernel.tables.vips.listeners(&ports) {
            Ok(found) => {
                self.failed = false;
                found
            }
            Err(error) => {
                self.report_failure(&error);
                if before.is_some() {
                    return false;
                }
                // Whoever has put the address there must not lose its ports. What is served goes on.
                let is_served = |port: &VipPort| kernel.mirror.server(&Front::from(*port)).is_some();
                ports.iter().copied().filter(|port| !is_served(port)).collect()
            }
        };
        let own = &mut facts.own_ports;
        own.retain(|port| !ports.contains(port));
        own.extend(&found);
        let has_changed = before.as_ref() != Some(&found);
        self.services.insert(name.clone(), found);
        has_changed
    }

    /// Forgets ports that a Service has given up, but for those that another one has.
    fn release<'a>(
        &self,
        ports: impl Iterator<Item = &'a VipPort>,
        name: &ServiceName,
        facts: &mut NodeFacts,
    ) {
        let is_of_other = |port: &VipPort| {
            self.services.iter().any(|(service, found)| service != name && found.contains(port))
        };
        for port in ports.filter(|port| !is_of_other(port)) {
            facts.own_ports.remove(port);
        }
    }

    fn report_failure(&mut self, error: &TableError) {
        if !std::mem::replace(&mut self.failed, true) {
            warn!(
                "{}; a Service whose ClusterIP is an address of this node is not served here before that is known; \
                 load the kernel modules tcp_diag and udp_diag if they are missing",
                chain(error)
            );
        }
    }
}
