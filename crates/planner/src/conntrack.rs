//! Deletions of tracked connections that depend on what a plan has changed.
//!
//! Only UDP: a connection of TCP or SCTP ends by itself, but a UDP client that keeps its port keeps its
//! tracked connection for ever.

use std::{collections::BTreeSet, net::IpAddr};

use lb_types::{
    ConntrackFilter, ConntrackOp, ConntrackTarget, Front, IpFamily, IpvsOp, Operation, Protocol, RuleElement,
    RulesOp, VipOp, VirtualServerId,
};

use crate::{Desired, FrontIntent, Inputs, Mirror, Plan};

/// Deletions that follow from the writes of a plan.
///
/// - A real server goes: connections that were translated to it. IPVS itself deletes them where
///   `expire_nodest_conn=1` flushes its own table (`ip_vs_conn_expire` in net/netfilter/ipvs/ip_vs_conn.c,
///   Linux 5.9), but only those that it still has a connection for.
/// - The first real server comes, the VIP is bound, its port is steered, or node ports get another address:
///   connections of clients that have sent to the VIP before. IPVS never alters an entry that is confirmed already (`ip_vs_update_conntrack` in ip_vs_nfct.c),
///   so that such a client would neither be masqueraded nor get an answer, for as long as it keeps sending.
pub(crate) fn follow(plan: &Plan, inputs: &Inputs<'_>) -> Vec<ConntrackOp> {
    let mirror = inputs.mirror;
    let mut filters = BTreeSet::new();
    for op in plan.operations() {
        match op {
            Operation::Ipvs(IpvsOp::DeleteRealServer { vs, rs }) => {
                let front = udp_front(vs, mirror);
                filters.extend(front.map(|front| ConntrackFilter::of_real_server(front, *rs)));
            }
            Operation::Ipvs(IpvsOp::DeleteVirtualServer { vs }) => filters.extend(translated(vs, mirror)),
            Operation::Ipvs(IpvsOp::AddRealServer { vs, .. }) => {
                let front = udp_front(vs, mirror).filter(|front| !mirror.has_real_servers(front));
                filters.extend(front.map(ConntrackFilter::untranslated));
            }
            Operation::Vip(VipOp::EnsureRoute { vip, .. } | VipOp::EnsureAddress { addr: vip })
                if !mirror.reaches(vip) =>
            {
                filters.extend(untranslated_on(*vip, inputs.desired, mirror));
            }
            Operation::Vip(VipOp::EnsureRule { family, .. }) => {
                let steered = mirror.steered.iter().filter(|vip| IpFamily::of(**vip) == *family);
                filters.extend(steered.flat_map(|vip| untranslated_on(*vip, inputs.desired, mirror)));
            }
            Operation::Rules(RulesOp::AddElement(RuleElement::Steer(port))) => {
                let on_vip = untranslated_on(port.addr, inputs.desired, mirror);
                filters.extend(on_vip.filter(|filter| filter.front.port == *port));
            }
            Operation::Rules(RulesOp::AddElement(RuleElement::NodeAddress(addr))) => {
                let ports = IpFamily::of(*addr).unspecified();
                filters.extend(untranslated_on(ports, inputs.desired, mirror));
            }
            _ => {}
        }
    }
    filters.into_iter().map(ConntrackOp::Delete).collect()
}

/// Deletions of untranslated connections to all served UDP ports of ours, whatever their history: a process
/// that died just after it had programmed a port may have left some.
pub fn untranslated(desired: &Desired, mirror: &Mirror) -> Vec<ConntrackOp> {
    let fronts = mirror.servers.keys().filter_map(|vs| udp_front(vs, mirror));
    let served = fronts.filter(|front| mirror.has_real_servers(front) && desired.front(front).is_some());
    served.map(|front| ConntrackOp::Delete(ConntrackFilter::untranslated(front))).collect()
}

impl Mirror {
    /// Tells whether what the kernel holds justifies deleting these connections: their real server is really
    /// gone, or their port is really served.
    pub fn justifies(&self, filter: &ConntrackFilter) -> bool {
        let front = filter.front;
        match filter.target {
            ConntrackTarget::RealServer(rs) => {
                self.server(&front).is_none_or(|server| server.real_server(&rs).is_none())
            }
            ConntrackTarget::Untranslated => {
                self.has_real_servers(&front) && front.vip().is_none_or(|vip| self.reaches(&vip))
            }
        }
    }
}

/// Tracked connections to all real servers of a virtual server.
fn translated<'a>(vs: &VirtualServerId, mirror: &'a Mirror) -> impl Iterator<Item = ConntrackFilter> + 'a {
    let real_servers = mirror.servers.get(vs).into_iter().flat_map(|server| &server.real_servers);
    let front = udp_front(vs, mirror);
    real_servers.filter_map(move |(rs, _)| Some(ConntrackFilter::of_real_server(front?, *rs)))
}

/// Untranslated connections to those ports of a VIP that are served already.
fn untranslated_on<'a>(
    vip: IpAddr,
    desired: &'a Desired,
    mirror: &'a Mirror,
) -> impl Iterator<Item = ConntrackFilter> + 'a {
    let is_served = move |front: &Front| {
        let is_wanted = desired.front(front).is_some_and(FrontIntent::has_real_servers);
        front.protocol() == Protocol::Udp && is_wanted && mirror.has_real_servers(front)
    };
    mirror.fronts_on(vip).filter(is_served).map(ConntrackFilter::untranslated)
}

fn udp_front(vs: &VirtualServerId, mirror: &Mirror) -> Option<Front> {
    mirror.front(vs).filter(|front| front.protocol() == Protocol::Udp)
}
