//! VIPs that another program has put on an interface of the node, as NodeLocal DNSCache does with the address of the
//! cluster DNS: its ports stay the program's, those on which nobody listens are served.

use std::{collections::BTreeSet, time::Duration};

use dataplane::TableError;
use drain::Time;
use lb_types::ServiceName;
use tracing::warn;

use crate::{Reconciler, adopt::chain};

/// How often sockets are looked at while there are such VIPs: the kernel does not tell when one begins to listen.
const PERIOD: Duration = Duration::from_secs(1);

/// Services with such VIPs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    services: BTreeSet<ServiceName>,
    /// When sockets are looked at next.
    next: Time,
    /// Whether the kernel did not tell last time, which is said once.
    failed: bool,
}

impl Shared {
    /// When sockets are to be looked at.
    pub(crate) fn due(&self) -> Option<Time> {
        (!self.services.is_empty()).then_some(self.next)
    }
}

impl Reconciler {
    /// Looks again which ports belong to the node, if that is due.
    pub(crate) fn recheck_shared(&mut self, now: Time) {
        if self.shared.due().is_none_or(|due| now < due) {
            return;
        }
        self.shared.next = now + PERIOD;
        for name in self.shared.services.clone() {
            if self.look_for_listeners(&name) {
                self.model.mark_dirty(name);
            }
        }
    }

    /// Finds out which ports of a Service belong to the node; returns whether that has changed.
    pub(crate) fn look_for_listeners(&mut self, name: &ServiceName) -> bool {
        let ports =
            self.model.service(name).map(|service| self.facts.shared_ports(service)).unwrap_or_default();
        if ports.is_empty() {
            self.shared.services.remove(name);
            return false;
        }
        let known = !self.shared.services.insert(name.clone());
        let found = match self.tables.vips.listeners(&ports) {
            Ok(found) => {
                self.shared.failed = false;
                found
            }
            Err(error) => {
                self.report_unknown_listeners(&error);
                if known {
                    return false;
                }
                // Whoever has put the address there must not be robbed.
                ports.iter().copied().collect()
            }
        };
        let own = &mut self.facts.own_ports;
        let before: BTreeSet<_> = ports.iter().filter(|port| own.contains(port)).copied().collect();
        own.retain(|port| !ports.contains(port));
        own.extend(&found);
        before != found
    }

    fn report_unknown_listeners(&mut self, error: &TableError) {
        if !std::mem::replace(&mut self.shared.failed, true) {
            warn!(
                "{}; a Service whose ClusterIP is an address of this node is not served here before that is known; \
                 load the kernel modules tcp_diag and udp_diag if they are missing",
                chain(error)
            );
        }
    }
}
