//! Our copy of what the kernel holds.
//!
//! The mirror starts from a dump, follows every write that the kernel executed ([`Mirror::record`]), and is
//! corrected by audits. It also owns the encoding of a [`Front`] as a key of the kernel ([`Mirror::key`]). It
//! never asks the kernel and never decides anything: whoever dumps or writes tells it the result.
//!
//! Reading order: [`Mirror`], [`MirrorServer`], [`Mirror::record`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use lb_types::{
    FastMap, FastSet, ForwardingMethod, Front, IpFamily, IpvsOp, Operation, RealServer, RealServerId,
    RouteTable, RuleElement, RulesOp, VipOp, VipPort, VirtualServer, VirtualServerId,
};
use tally::Tallied;

use crate::{Marks, MirrorSysctls};

/// A virtual server as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorServer {
    /// Settings, as dumped or written last.
    pub settings: VirtualServer,
    /// Real servers, sorted by key.
    pub real_servers: Vec<(RealServerId, RealServer)>,
}

impl MirrorServer {
    /// Settings of a real server.
    pub fn real_server(&self, rs: &RealServerId) -> Option<&RealServer> {
        self.position(rs).ok().map(|at| &self.real_servers[at].1)
    }

    fn position(&self, rs: &RealServerId) -> Result<usize, usize> {
        self.real_servers.binary_search_by(|(id, _)| id.cmp(rs))
    }

    fn put(&mut self, rs: RealServerId, settings: RealServer) {
        match self.position(&rs) {
            Ok(at) => self.real_servers[at].1 = settings,
            Err(at) => self.real_servers.insert(at, (rs, settings)),
        }
    }

    fn put_all(&mut self, added: impl Iterator<Item = (RealServerId, RealServer)>, count: usize) {
        self.real_servers.reserve_exact(count);
        if self.real_servers.is_empty() {
            self.real_servers.extend(added);
            self.real_servers.sort_unstable_by_key(|(one, _)| *one);
        } else {
            for (rs, settings) in added {
                self.put(rs, settings);
            }
        }
    }

    fn remove(&mut self, rs: &RealServerId) {
        if let Ok(at) = self.position(rs) {
            self.real_servers.remove(at);
        }
    }
}

/// Contents of the kernel, as far as we know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// All virtual servers of the namespace, foreign ones included.
    pub servers: Tallied<BTreeMap<VirtualServerId, MirrorServer>>,
    /// True if `kube-ipvs0` is a dummy link; a link of another type is somebody else's.
    pub link_ours: bool,
    /// True if it is also up.
    pub link_ready: bool,
    /// Our local routes, by VIP, with their source.
    pub routes: Tallied<FastMap<IpAddr, Option<IpAddr>>>,
    /// VIPs with a route of ours in the table of steered packets.
    pub steered: FastSet<IpAddr>,
    /// Our rules of the routing policy that lead there, by family and bit of the packet mark.
    pub rules: BTreeSet<(IpFamily, u8)>,
    /// Addresses on `kube-ipvs0`.
    pub addresses: Tallied<BTreeSet<IpAddr>>,
    /// Addresses on the node's other links; packets to them come without a route of ours.
    pub node_addresses: BTreeSet<IpAddr>,
    /// True if our nftables table has the wanted chains.
    pub layout_current: bool,
    /// All elements of our sets.
    pub elements: Tallied<FastSet<RuleElement>>,
    /// Addresses of this node at which node ports are served, as elements of ours say.
    pub node_ports: BTreeSet<IpAddr>,
    /// Clients that may connect to VIP ports, as elements of ours say.
    pub allowed: BTreeMap<VipPort, BTreeSet<IpNetwork>>,
    /// Virtual servers whose element somebody has taken away: they stay ours.
    pub untagged: BTreeSet<VirtualServerId>,
    /// Virtual servers at single addresses that were there at the start, are not ours and look like kube-proxy's.
    pub left: BTreeSet<VirtualServerId>,
    /// Virtual servers with a mark of our range that were there at the start and look like ours, but for the element.
    pub lost: BTreeSet<VirtualServerId>,
    /// Packet marks by which virtual servers are selected.
    pub marks: Marks,
    /// Kernel parameters.
    pub sysctls: MirrorSysctls,
}

impl Mirror {
    /// Key of the virtual server of a front: the only place where a front is encoded for the kernel. `None` if it
    /// needs a packet mark and has none ([`Mirror::assign_mark`]), so that there is no virtual server either.
    pub fn key(&self, front: &Front) -> Option<VirtualServerId> {
        if !front.is_marked() {
            return Some(front.port.into());
        }
        let mark = self.marks.get(front)?;
        Some(VirtualServerId::FwMark { family: front.family(), mark })
    }

    /// Front whose virtual server has a key; `None` for a virtual server that cannot be ours.
    pub fn front(&self, vs: &VirtualServerId) -> Option<Front> {
        match vs {
            VirtualServerId::Address(port) => Some(Front::from(*port)),
            VirtualServerId::FwMark { family, mark } => self.marks.front(*family, *mark),
        }
    }

    /// Draws a packet mark for a front that needs one; returns false if none is left. Nobody's virtual server has that
    /// mark.
    pub fn assign_mark(&mut self, front: &Front) -> bool {
        let (servers, family) = (&self.servers, front.family());
        let is_taken = |mark| servers.contains_key(&VirtualServerId::FwMark { family, mark });
        !front.is_marked() || self.marks.assign(*front, is_taken)
    }

    /// Takes over the virtual server that a front had in an earlier run, and whose element is lost: it has the number
    /// that the front draws first, and a real server that is the front's, or none at all.
    pub fn recover_mark(&mut self, front: &Front, is_its: impl Fn(&RealServerId) -> bool) {
        if self.lost.is_empty() || !front.is_marked() || self.marks.get(front).is_some() {
            return;
        }
        let Some(mark) = self.marks.own(front) else { return };
        let vs = VirtualServerId::FwMark { family: front.family(), mark };
        let Some(server) = self.servers.get(&vs).filter(|_| self.lost.contains(&vs)) else { return };
        if server.real_servers.is_empty() || server.real_servers.iter().any(|(rs, _)| is_its(rs)) {
            self.marks.insert(*front, mark);
            self.lost.remove(&vs);
            self.untagged.insert(vs);
        }
    }

    /// Virtual server of a front.
    pub fn server(&self, front: &Front) -> Option<&MirrorServer> {
        self.servers.get(&self.key(front)?)
    }

    /// Tells whether the kernel has real servers for a front.
    pub fn has_real_servers(&self, front: &Front) -> bool {
        self.server(front).is_some_and(|server| !server.real_servers.is_empty())
    }

    /// Tells whether an element of ours names a virtual server: we wrote that, or took it over.
    ///
    /// IPVS entries carry no tag. The element that names one is written before it and deleted after it, so
    /// that even a crash in between leaves no virtual server of ours without its element.
    pub fn names(&self, vs: &VirtualServerId) -> bool {
        self.tags(vs).any(|tag| self.elements.contains(&tag)) || self.untagged.contains(vs)
    }

    /// Notes which virtual servers may be kube-proxy's, and which may be ours without their element; to be called after
    /// the first dump. kube-proxy has none without real servers but those of Services without endpoints, which are
    /// nobody's loss, masquerades all and limits none.
    pub fn note_left(&mut self) {
        let masquerades = |server: &RealServer| server.forwarding == ForwardingMethod::Masquerade;
        let is_like_its = |server: &RealServer| masquerades(server) && server.upper_threshold == 0;
        let (mut left, mut lost) = (BTreeSet::new(), BTreeSet::new());
        for (vs, server) in self.servers.iter().filter(|(vs, _)| !self.names(vs)) {
            let mut real_servers = server.real_servers.iter().map(|(_, server)| server);
            match vs {
                VirtualServerId::Address(_) if real_servers.len() > 0 && real_servers.all(is_like_its) => {
                    left.insert(*vs);
                }
                VirtualServerId::FwMark { mark, .. }
                    if self.marks.draws(*mark) && real_servers.all(masquerades) =>
                {
                    lost.insert(*vs);
                }
                _ => {}
            }
        }
        (self.left, self.lost) = (left, lost);
    }

    /// Tells whether a virtual server is one that kube-proxy has left for a node port at one address, and packets to that
    /// port get a mark, by which they come to another one.
    pub(crate) fn is_superseded(&self, vs: &VirtualServerId) -> bool {
        let Some(at) = vs.vip_port().filter(|_| self.left.contains(vs)) else { return false };
        let front = Front::from(at);
        let node_port = front.as_node_port();
        let has_mark = |mark| self.elements.contains(&RuleElement::Mark(node_port, mark));
        self.elements.contains(&RuleElement::NodeAddress(at.addr))
            && self.marks.get(&node_port).is_some_and(has_mark)
    }

    /// Tells whether an element is all that names the existing virtual server of a mark.
    pub fn is_last_tag(&self, element: &RuleElement) -> bool {
        let Some((front, mark)) = element.marked() else { return false };
        let vs = VirtualServerId::FwMark { family: front.family(), mark };
        let is_another = |tag: &RuleElement| tag != element && self.elements.contains(tag);
        self.servers.contains_key(&vs) && !self.tags(&vs).any(|tag| is_another(&tag))
    }

    /// Elements of ours that name a virtual server, if they exist.
    pub(crate) fn tags(&self, vs: &VirtualServerId) -> impl Iterator<Item = RuleElement> + use<> {
        let tags = match (vs, self.front(vs)) {
            (VirtualServerId::Address(port), _) => [Some(RuleElement::Service(*port)), None],
            (VirtualServerId::FwMark { mark, .. }, Some(front)) => {
                [Some(RuleElement::Mark(front, *mark)), Some(RuleElement::Unmarked(front, *mark))]
            }
            (VirtualServerId::FwMark { .. }, None) => [None, None],
        };
        tags.into_iter().flatten()
    }

    /// Elements that name the virtual server of a front by its mark: the one that gives it to packets, and the one without
    /// effect.
    pub(crate) fn mark_elements(&self, front: &Front) -> Option<[RuleElement; 2]> {
        let mark = self.marks.get(front)?;
        Some([RuleElement::Mark(*front, mark), RuleElement::Unmarked(*front, mark)])
    }

    /// Virtual server that an element names, if it is a tag.
    fn tagged(element: &RuleElement) -> Option<VirtualServerId> {
        match element {
            RuleElement::Service(port) if !Front::from(*port).is_marked() => Some((*port).into()),
            _ => {
                let (front, mark) = element.marked()?;
                Some(VirtualServerId::FwMark { family: front.family(), mark })
            }
        }
    }

    /// Takes over the elements of a dump, and returns those that only one side has. What an element named before stays
    /// ours, whoever has taken it away, until its virtual server is gone.
    pub fn replace_elements(&mut self, elements: FastSet<RuleElement>) -> Vec<RuleElement> {
        let changed: Vec<_> = elements.symmetric_difference(&self.elements).copied().collect();
        let gone = changed.iter().filter(|element| self.elements.contains(element));
        self.untagged.extend(gone.filter_map(Mirror::tagged));
        self.untagged.retain(|vs| self.servers.contains_key(vs));
        self.elements = elements.into();
        for element in &changed {
            self.index(element);
        }
        changed
    }

    /// Keeps the indexes and the marks as the elements are.
    fn index(&mut self, element: &RuleElement) {
        let is_there = self.elements.contains(element);
        match element {
            RuleElement::Mark(front, mark) | RuleElement::Unmarked(front, mark) if is_there => {
                self.marks.insert(*front, *mark);
            }
            RuleElement::Mark(front, _) | RuleElement::Unmarked(front, _) => self.release_mark(front),
            RuleElement::NodeAddress(addr) if is_there => _ = self.node_ports.insert(*addr),
            RuleElement::NodeAddress(addr) => _ = self.node_ports.remove(addr),
            RuleElement::Allow(port, clients) if is_there => {
                self.allowed.entry(*port).or_default().insert(*clients);
            }
            RuleElement::Allow(port, clients) => {
                if let Some(all) = self.allowed.get_mut(port) {
                    all.remove(clients);
                    if all.is_empty() {
                        self.allowed.remove(port);
                    }
                }
            }
            _ => {}
        }
    }

    /// Gives the mark of a front back once neither an element nor a virtual server has it.
    pub fn release_mark(&mut self, front: &Front) {
        let Some(vs) = self.key(front).filter(|_| front.is_marked()) else { return };
        if !self.servers.contains_key(&vs) && !self.names(&vs) {
            self.marks.release(front);
        }
    }

    /// Tells whether packets to a VIP come to IPVS: it has a route of ours, or is an address of the node.
    pub fn reaches(&self, vip: &IpAddr) -> bool {
        self.routes.contains_key(vip)
            || self.is_steered(vip)
            || self.addresses.contains(vip)
            || self.node_addresses.contains(vip)
    }

    fn is_steered(&self, vip: &IpAddr) -> bool {
        let family = IpFamily::of(*vip);
        self.steered.contains(vip) && self.rules.iter().any(|(of, _)| *of == family)
    }

    /// Fronts on a VIP that have a virtual server.
    pub fn fronts_on(&self, vip: IpAddr) -> impl Iterator<Item = Front> {
        // Keys are sorted by address first, so that the fronts of a VIP are one range of the map.
        let lowest = VirtualServerId::from(Front::lowest_on(vip).port);
        let from = self.servers.range(lowest..).map(|(vs, _)| vs);
        let ports = from.map_while(move |vs| vs.vip_port().filter(|port| port.addr == vip));
        let marked = self.marks.fronts_on(vip).filter(|front| self.server(front).is_some());
        ports.map(Front::from).chain(marked.copied())
    }

    /// Records a write that the kernel executed.
    pub fn record(&mut self, op: &Operation) {
        match op {
            Operation::Ipvs(op) => self.record_ipvs_op(op),
            Operation::Vip(op) => self.record_vip(op),
            Operation::Rules(op) => self.record_rules(op),
            Operation::Sysctl(op) => _ = self.sysctls.values.insert(op.name.clone(), op.value),
            Operation::Conntrack(_) => {}
        }
    }

    /// Records writes to IPVS that the kernel executed, in order.
    ///
    /// Additions to one virtual server stand side by side: it is looked up once for all of them, and their
    /// list gets the right size at once.
    pub fn record_ipvs(&mut self, ops: &[IpvsOp]) {
        for together in ops.chunk_by(add_to_the_same) {
            match together {
                [op] => self.record_ipvs_op(op),
                [first, ..] => {
                    let Some(server) = self.servers.get_mut(&first.virtual_server()) else { continue };
                    let added = together.iter().filter_map(|op| match *op {
                        IpvsOp::AddRealServer { rs, settings, .. } => Some((rs, settings)),
                        _ => None,
                    });
                    server.put_all(added, together.len());
                }
                [] => {}
            }
        }
    }

    fn record_ipvs_op(&mut self, op: &IpvsOp) {
        match *op {
            IpvsOp::AddVirtualServer { vs, settings } => {
                self.servers.insert(vs, MirrorServer { settings, real_servers: Vec::new() });
            }
            IpvsOp::SetVirtualServer { vs, settings } => {
                if let Some(server) = self.servers.get_mut(&vs) {
                    server.settings = settings;
                }
            }
            IpvsOp::DeleteVirtualServer { vs } => {
                self.untagged.remove(&vs);
                self.servers.remove(&vs);
                self.left.remove(&vs);
                self.lost.remove(&vs);
                if let Some(front) = self.front(&vs) {
                    self.release_mark(&front);
                }
            }
            IpvsOp::AddRealServer { vs, rs, settings } | IpvsOp::SetRealServer { vs, rs, settings } => {
                if let Some(server) = self.servers.get_mut(&vs) {
                    server.put(rs, settings);
                }
            }
            IpvsOp::DeleteRealServer { vs, rs } => {
                if let Some(server) = self.servers.get_mut(&vs) {
                    server.remove(&rs);
                }
            }
        }
    }

    fn record_vip(&mut self, op: &VipOp) {
        match *op {
            VipOp::EnsureLink => (self.link_ours, self.link_ready) = (true, true),
            VipOp::EnsureRoute { vip, table: RouteTable::Local, source } => {
                self.routes.insert(vip, source);
            }
            VipOp::EnsureRoute { vip, table: RouteTable::Steering, .. } => _ = self.steered.insert(vip),
            VipOp::DeleteRoute { vip, table: RouteTable::Local } => {
                self.routes.remove(&vip);
            }
            VipOp::DeleteRoute { vip, table: RouteTable::Steering } => _ = self.steered.remove(&vip),
            VipOp::EnsureRule { family, bit } => _ = self.rules.insert((family, bit)),
            VipOp::DeleteRule { family, bit } => _ = self.rules.remove(&(family, bit)),
            VipOp::EnsureAddress { addr } => _ = self.addresses.insert(addr),
            VipOp::DeleteAddress { addr } => {
                self.addresses.remove(&addr);
            }
            VipOp::DeleteLink => {
                (self.link_ours, self.link_ready) = (false, false);
                self.routes.clear();
                self.steered.clear();
                self.addresses.clear();
            }
        }
    }

    fn record_rules(&mut self, op: &RulesOp) {
        match op {
            RulesOp::InstallLayout(_) => self.layout_current = true,
            RulesOp::AddElement(element) => {
                self.elements.insert(*element);
                self.index(element);
            }
            RulesOp::DeleteElement(element) => {
                self.elements.remove(element);
                let left =
                    Mirror::tagged(element).filter(|vs| self.servers.contains_key(vs) && !self.names(vs));
                self.untagged.extend(left);
                self.index(element);
            }
            RulesOp::DeleteTable => {
                self.layout_current = false;
                self.elements.clear();
                self.allowed.clear();
                self.node_ports.clear();
            }
        }
    }
}

/// Tells whether both operations add real servers to the same virtual server.
fn add_to_the_same(one: &IpvsOp, other: &IpvsOp) -> bool {
    match (one, other) {
        (IpvsOp::AddRealServer { vs: one, .. }, IpvsOp::AddRealServer { vs: other, .. }) => one == other,
        _ => false,
    }
}
