//! Which tracked connections a plan must put an end to, because they stand on what it has changed.
//!
//! Only UDP: a connection of TCP or SCTP ends by itself, a UDP client that keeps its port keeps its entry for ever.

use std::{collections::BTreeSet, net::IpAddr};

use lb_types::{FlowFilter, FlowTarget, FlowsOp, IpvsOp, Protocol, VipOp, VipPort, VirtualServerId};

use crate::{Desired, Inputs, Mirror, Plan, ServerIntent};

/// The deletions that follow from the writes of a plan.
///
/// - A real server goes: connections that were translated to it. IPVS itself deletes them where
///   `expire_nodest_conn=1` flushes its own table (`ip_vs_conn_expire` in net/netfilter/ipvs/ip_vs_conn.c, Linux 5.9),
///   but only those that it still has a connection for.
/// - The first real server comes, or the VIP gets its route: connections of clients that have sent to the VIP before.
///   IPVS never alters an entry that is confirmed already (`ip_vs_update_conntrack` in ip_vs_nfct.c), so that such a
///   client would neither be masqueraded nor get an answer, for as long as it keeps sending.
pub(crate) fn follow(plan: &Plan, inputs: &Inputs<'_>) -> Vec<FlowsOp> {
    let mirror = inputs.mirror();
    let mut filters = BTreeSet::new();
    for op in plan.ipvs_evict.iter().chain(&plan.ipvs_remove) {
        match *op {
            IpvsOp::DeleteRealServer { vs, rs } => {
                filters.extend(udp_port(&vs).map(|port| FlowFilter::of_real_server(port, rs)));
            }
            IpvsOp::DeleteVirtualServer { vs } => filters.extend(translated(&vs, mirror)),
            _ => {}
        }
    }
    for op in &plan.ipvs_add {
        if let IpvsOp::AddRealServer { vs, .. } = op
            && let Some(port) = udp_port(vs)
            && !mirror.serves(vs)
        {
            filters.insert(FlowFilter::untranslated(port));
        }
    }
    for op in &plan.vips_add {
        if let VipOp::EnsureRoute { vip, .. } = op
            && !mirror.routes.contains_key(vip)
        {
            filters.extend(untranslated_on(*vip, inputs.desired(), mirror));
        }
    }
    filters.into_iter().map(FlowsOp::Delete).collect()
}

/// Connections that no served UDP port of ours may have, whatever its history: a process that died just after it had
/// programmed the port may have left some.
pub fn untranslated(desired: &Desired, mirror: &Mirror) -> Vec<FlowsOp> {
    let served = mirror.servers.iter().filter(|(_, server)| !server.real_servers.is_empty());
    let ports = served.filter_map(|(vs, _)| udp_port(vs).filter(|_| desired.server(vs).is_some()));
    ports.map(|port| FlowsOp::Delete(FlowFilter::untranslated(port))).collect()
}

impl Mirror {
    /// Whether what the kernel holds is a reason to delete these connections: their real server is really gone, or
    /// their port is really served.
    pub fn justifies(&self, filter: &FlowFilter) -> bool {
        let vs = filter.service.into();
        match filter.target {
            FlowTarget::RealServer(rs) => {
                self.servers.get(&vs).is_none_or(|server| server.real_server(&rs).is_none())
            }
            FlowTarget::Untranslated => self.serves(&vs) && self.routes.contains_key(&filter.service.addr),
        }
    }

    fn serves(&self, vs: &VirtualServerId) -> bool {
        self.servers.get(vs).is_some_and(|server| !server.real_servers.is_empty())
    }
}

/// Connections to all real servers of a virtual server.
fn translated<'a>(vs: &VirtualServerId, mirror: &'a Mirror) -> impl Iterator<Item = FlowFilter> + 'a {
    let real_servers = mirror.servers.get(vs).into_iter().flat_map(|server| &server.real_servers);
    let port = udp_port(vs);
    real_servers.filter_map(move |(rs, _)| Some(FlowFilter::of_real_server(port?, *rs)))
}

/// Untranslated connections to the ports of a VIP that are served already.
fn untranslated_on<'a>(
    vip: IpAddr,
    desired: &'a Desired,
    mirror: &'a Mirror,
) -> impl Iterator<Item = FlowFilter> + 'a {
    let wanted = move |port: &VipPort| {
        let vs = (*port).into();
        desired.server(&vs).is_some_and(ServerIntent::has_real_servers) && mirror.serves(&vs)
    };
    mirror.servers_on(vip).filter_map(udp_port).filter(wanted).map(FlowFilter::untranslated)
}

fn udp_port(vs: &VirtualServerId) -> Option<VipPort> {
    vs.vip_port().filter(|port| port.protocol == Protocol::Udp)
}
