//! Traffic by Service, for metrics: sums over the virtual servers of each Service that only grow.
//!
//! The kernel counts for each virtual server since it was made. Here the differences between two dumps are added up, so
//! that a virtual server that is made anew takes nothing away.

use std::collections::BTreeMap;

use lb_types::{FastMap, ServiceName, TrafficCounters, VirtualServerId};

/// Services with traffic that are counted each by itself; the others are counted together, because every Service costs five series.
const MOST_SERVICES: usize = 1000;

/// Traffic of Services since the start.
#[derive(Debug, Default)]
pub(crate) struct ServiceTraffic {
    /// Counters of each virtual server at the last dump.
    last: FastMap<VirtualServerId, TrafficCounters>,
    services: BTreeMap<ServiceName, TrafficCounters>,
    /// Traffic of the Services that are not counted by themselves.
    others: TrafficCounters,
    /// True once there was a dump: what was counted before it is nobody's news.
    begun: bool,
}

impl ServiceTraffic {
    /// Takes in a dump. `service_of` names the Service of a virtual server, if it is ours.
    pub(crate) fn take(
        &mut self,
        dump: Vec<(VirtualServerId, TrafficCounters)>,
        service_of: impl Fn(&VirtualServerId) -> Option<ServiceName>,
    ) {
        let mut now = FastMap::default();
        for (vs, counters) in dump {
            let last = self.last.get(&vs).copied();
            now.insert(vs, counters);
            let Some(service) = service_of(&vs) else { continue };
            let before = if self.begun { last.unwrap_or_default() } else { counters };
            let more = difference(counters, before);
            // A Service takes a place only once it has traffic.
            if more.connections > 0 || more.packets_in > 0 {
                add(self.sum_of(service), more);
            }
        }
        self.last = now;
        self.begun = true;
    }

    fn sum_of(&mut self, service: ServiceName) -> &mut TrafficCounters {
        if self.services.len() >= MOST_SERVICES && !self.services.contains_key(&service) {
            return &mut self.others;
        }
        self.services.entry(service).or_default()
    }

    /// Forgets Services that are gone, so that others get their places.
    pub(crate) fn retain(&mut self, exists: impl Fn(&ServiceName) -> bool) {
        self.services.retain(|service, _| exists(service));
    }

    /// Sums by Service; without a name, that of all others.
    pub(crate) fn sums(&self) -> impl Iterator<Item = (Option<&ServiceName>, TrafficCounters)> {
        let services = self.services.iter().map(|(service, sum)| (Some(service), *sum));
        services.chain([(None, self.others)])
    }
}

/// Growth since `before`. Counters that have shrunk are those of a virtual server that was made anew.
fn difference(now: TrafficCounters, before: TrafficCounters) -> TrafficCounters {
    let is_older = before.connections > now.connections || before.packets_in > now.packets_in;
    let before = if is_older { TrafficCounters::default() } else { before };
    TrafficCounters {
        connections: now.connections - before.connections,
        packets_in: now.packets_in - before.packets_in,
        packets_out: now.packets_out.saturating_sub(before.packets_out),
        bytes_in: now.bytes_in.saturating_sub(before.bytes_in),
        bytes_out: now.bytes_out.saturating_sub(before.bytes_out),
    }
}

fn add(sum: &mut TrafficCounters, more: TrafficCounters) {
    sum.connections += more.connections;
    sum.packets_in += more.packets_in;
    sum.packets_out += more.packets_out;
    sum.bytes_in += more.bytes_in;
    sum.bytes_out += more.bytes_out;
}

#[cfg(test)]
mod tests {
    use lb_types::{Protocol, VipPort};

    use super::*;

    fn vs(n: u16) -> VirtualServerId {
        let [high, low] = n.to_be_bytes();
        let port = 80.try_into().unwrap();
        VirtualServerId::Address(VipPort { addr: [10, 96, high, low].into(), protocol: Protocol::Tcp, port })
    }

    /// Counters after some connections of 10 packets of 100 bytes in either direction.
    fn counters(connections: u64) -> TrafficCounters {
        let (packets, bytes) = (connections * 10, connections * 1000);
        TrafficCounters {
            connections,
            packets_in: packets,
            packets_out: packets,
            bytes_in: bytes,
            bytes_out: bytes,
        }
    }

    fn shown(traffic: &ServiceTraffic) -> Vec<(String, u64, u64)> {
        let name = |service: Option<&ServiceName>| service.map_or_else(String::new, ToString::to_string);
        traffic.sums().map(|(service, sum)| (name(service), sum.connections, sum.bytes_out)).collect()
    }

    #[test]
    fn a_service_has_the_sum_of_its_virtual_servers_since_the_first_dump() {
        let mut traffic = ServiceTraffic::default();
        let a = |vs: &VirtualServerId| (*vs != self::vs(9)).then(|| ServiceName::new("ns", "a"));
        traffic.take(vec![(vs(1), counters(100)), (vs(9), counters(1))], a);
        assert_eq!(shown(&traffic), [(String::new(), 0, 0)], "what was before");
        traffic.take(vec![(vs(1), counters(103)), (vs(2), counters(4)), (vs(9), counters(50))], a);
        assert_eq!(shown(&traffic)[0], ("ns/a".into(), 7, 7000), "a new one counts in full");
        traffic.take(vec![(vs(1), counters(2)), (vs(2), counters(4))], a);
        assert_eq!(shown(&traffic)[0], ("ns/a".into(), 9, 9000), "one that was made anew");
        traffic.take(vec![], a);
        assert_eq!(shown(&traffic)[0].1, 9);
        traffic.retain(|_| false);
        assert_eq!(shown(&traffic), [(String::new(), 0, 0)]);
    }

    #[test]
    fn services_beyond_the_limit_are_counted_together() {
        let mut traffic = ServiceTraffic::default();
        let all = || (0..1200).map(vs);
        let names: BTreeMap<_, _> =
            all().enumerate().map(|(n, vs)| (vs, ServiceName::new("ns", &format!("s{n:04}")))).collect();
        let of = |vs: &VirtualServerId| names.get(vs).cloned();
        for connections in [1, 2] {
            traffic.take(all().map(|vs| (vs, counters(connections))).collect(), of);
        }
        let shown = shown(&traffic);
        assert_eq!(shown.len(), MOST_SERVICES + 1);
        assert_eq!(shown[0], ("ns/s0000".into(), 1, 1000));
        assert_eq!(shown[MOST_SERVICES], (String::new(), 200, 200_000));
    }
}
