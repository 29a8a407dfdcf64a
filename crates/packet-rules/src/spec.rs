//! The table as plain values: what `render` decides, what `install` compares and what `encode` writes.

use std::time::Duration;

use ipnetwork::IpNetwork;
use lb_types::{IpFamily, MarkRange, RuleSet};

/// Name of our tables, one of each [`TableFamily`]. Nothing outside them is ever written, but for the removal of
/// [`crate::Leftovers`].
pub const TABLE_NAME: &str = "kube-ipvs";

/// Family of a table of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableFamily {
    /// Packets of IPv4 and IPv6.
    Inet,
    /// Requests and answers of ARP.
    Arp,
}

impl TableFamily {
    pub(crate) const ALL: [TableFamily; 2] = [TableFamily::Inet, TableFamily::Arp];

    /// Name in nft.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            TableFamily::Inet => "inet",
            TableFamily::Arp => "arp",
        }
    }
}

/// All chains and sets of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Family of the table.
    pub family: TableFamily,
    /// Sets, in the order in which they are created.
    pub sets: Vec<SetId>,
    /// Chains, in the order in which they are created: targets of jumps first.
    pub chains: Vec<ChainSpec>,
}

/// One of our sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId {
    /// Kind of its elements.
    pub kind: SetKind,
    /// Family of its addresses.
    pub family: IpFamily,
}

/// Kind of the elements of a set, and of whoever writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Elements that follow the Services: added and deleted by operations, compared by audits. Key: address, protocol,
    /// port, or the address alone.
    Planned(RuleSet),
    /// The same for node ports, whose address is whichever of the node's. Key: protocol, port.
    NodePorts(RuleSet),
    /// Endpoints to which connections of Services went lately: packets add them, time deletes them, and
    /// nobody else ever writes or dumps them. Key: address, protocol, port, and the address once more.
    Endpoints,
}

/// Sets that exist for node ports, too.
pub(crate) const NODE_PORT_SETS: [RuleSet; 9] = [
    RuleSet::Services,
    RuleSet::NoEndpoints,
    RuleSet::Masquerade,
    RuleSet::MasqueradePods,
    RuleSet::NoLocalEndpoints,
    RuleSet::Marks,
    RuleSet::MarksExternal,
    RuleSet::Unmarked,
    RuleSet::UnmarkedExternal,
];

/// Sets that exist for node ports only.
const ONLY_NODE_PORTS: [RuleSet; 2] = [RuleSet::Marks, RuleSet::Unmarked];

/// Time for which a set of kind [`SetKind::Endpoints`] remembers an endpoint after the last new connection to
/// it.
///
/// For that time a packet that conntrack cannot place is recognised as an endpoint's; for a pod that reaches
/// itself, the memory is needed during the evaluation of one rule only.
pub(crate) const ENDPOINT_MEMORY: Duration = Duration::from_secs(60 * 60);
/// Time between two deletions of expired elements by the kernel.
pub(crate) const ENDPOINT_SWEEP: Duration = Duration::from_secs(60);
/// Bound of such a set. The kernel allocates buckets for all of them at once: 1 MiB for each family. In a
/// full set those remembered stay, and the rules do nothing for others.
pub(crate) const ENDPOINTS_MAX: u32 = 1 << 16;

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainSpec {
    /// Name, unique in the table.
    pub name: &'static str,
    /// Hook where packets enter it; `None` if only rules lead here.
    pub base: Option<BaseChain>,
    /// Rules in order of evaluation.
    pub rules: Vec<RuleSpec>,
}

/// Place where a chain is hooked into the stack; the policy is always accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// Chain type.
    pub kind: ChainKind,
    /// Netfilter hook.
    pub hook: Hook,
    /// Order among the chains of a hook; IPVS stands at 98 and 99 of input, 99 and 100 of forward, -99
    /// and -98 of output.
    pub priority: i32,
}

/// Type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of every connection.
    Nat,
}

/// Netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// NF_INET_PRE_ROUTING
    Prerouting,
    /// NF_INET_LOCAL_IN
    Input,
    /// NF_INET_FORWARD
    Forward,
    /// NF_INET_LOCAL_OUT
    Output,
    /// NF_INET_POST_ROUTING
    Postrouting,
    /// NF_ARP_IN
    ArpInput,
}

/// A rule: statements that are evaluated until one does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// Reason for the rule, for readers of `nft list`.
    pub about: &'static str,
    /// Statements in order.
    pub statements: Vec<Statement>,
}

/// One statement of a rule. `Display` prints it as `nft list` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The packet is of this family. Must precede every [`Selector`]: headers are read at the family's
    /// offsets.
    Family(IpFamily),
    /// The transport protocol is this one (IP protocol number).
    Protocol(u8),
    /// The packet is an ICMP error of this family that ends no connection.
    SoftError(IpFamily, SoftError),
    /// The packet runs against the direction of its connection's first packet.
    Reply,
    /// The packet runs in the direction of its connection's first packet; conntrack knows the connection.
    Original,
    /// The packet of TCP does not ask for a connection: of SYN and ACK it has another one than SYN alone.
    NoRequest,
    /// The packet is the first of a connection, or a rule keeps conntrack from tracking it.
    NewOrUntracked,
    /// The packet is not the first of its connection, and no error about it.
    Established,
    /// The packet is the first of its connection, and the destination of that is settled: it passed the prerouting hook,
    /// or this one before.
    Resent,
    /// Conntrack could not place the packet, for instance because it lies outside of the window of its
    /// connection.
    Invalid,
    /// A connected socket of this node is waiting for the packet. Known in the input hook, by early
    /// demultiplexing.
    HasSocket,
    /// The packet stays on this node: it leaves through the loopback link.
    ToLoopback,
    /// The packet belongs to no connection, or is not tracked.
    InvalidOrUntracked,
    /// The packet is an error about a connection, whose tuple and status count then.
    Related,
    /// The connection's server has answered.
    SeenReply,
    /// The connection's transport protocol is any but this one; unlike the packet's own it is known of an
    /// error too.
    ConnectionNot(u8),
    /// The connection's client has an address in this prefix.
    ClientIn(IpNetwork),
    /// The connection's client has an address outside this prefix.
    ClientNotIn(IpNetwork),
    /// The packet did not come in through such an interface; one made on this node never did.
    NotFrom(Interface),
    /// The packet mark has this bit.
    Marked(u8),
    /// The packet mark is in this range.
    MarkIn(MarkRange),
    /// The message of ARP is a request.
    ArpRequest,
    /// The packet came in through such an interface.
    From(Interface),
    /// A field of the packet is in a set.
    In(Selector, SetId),
    /// A field of the packet is not in a set.
    NotIn(Selector, SetId),
    /// Adds the packet's destination to a set of endpoints, or renews it there; ends the rule if the set is
    /// full.
    Remember(SetId),
    /// Sets a bit of the packet mark.
    SetMark(u8),
    /// Clears a bit of the packet mark.
    ClearMark(u8),
    /// Sets the whole packet mark to what a map has for a field of the packet; ends the rule if it has nothing.
    MapMark(Selector, SetId),
    /// Sets the whole packet mark to 0.
    ZeroMark,
    /// Translates the destination address to itself: no chain of type nat that follows translates the connection.
    KeepDestination(IpFamily),
    /// Rewrites the source to an address of the outgoing interface, with a random port.
    Masquerade,
    /// Answers with a reset, as a closed TCP port does.
    RejectReset,
    /// Answers with ICMP port unreachable.
    RejectPort,
    /// Answers with ICMP protocol unreachable; for rules that match IPv4 only.
    RejectProtocol,
    /// Ends this base chain.
    Accept,
    /// Nobody sees the packet any more.
    Drop,
    /// Continues in another chain, and behind this rule where that has no verdict.
    Jump(&'static str),
    /// Continues in another chain and does not come back.
    Goto(&'static str),
}

/// Kinds of ICMP errors that TCP and SCTP take for a passing trouble once they are connected (RFC 5461,
/// section 2.2, and `tcp_v4_err`, `sctp_v4_err`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftError {
    /// Destination unreachable in any way, except that the protocol is refused, which ends SCTP associations,
    /// and that the packet is too big, which is about the packet.
    Unreachable,
    /// Time exceeded: the packet has gone in circles.
    TimeExceeded,
}

/// Part of a packet that is looked up in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Destination address.
    Destination,
    /// Destination address, transport protocol, destination port.
    DestinationPort,
    /// The same of the connection's first packet, before IPVS or NAT rewrote it.
    OriginalDestinationPort,
    /// The same, but with the connection's protocol, not the packet's.
    OriginalService,
    /// Source address of the connection's first packet.
    OriginalClient,
    /// Destination address, twice: a packet's in a set of addresses paired with themselves.
    DestinationPair,
    /// Destination address, and source address of the connection's answers as they come: that of the endpoint where IPVS
    /// or NAT chose one.
    DestinationAndServer,
    /// Destination address, transport protocol, destination port, source address.
    DestinationPortAndSource,
    /// Source address, transport protocol, source port, and the source address once more: what a packet's
    /// sender is in a set of endpoints.
    Sender,
    /// Transport protocol, destination port.
    NodePort,
    /// The same of the connection's first packet.
    OriginalNodePort,
    /// The same, but with the connection's protocol, not the packet's.
    OriginalNodeService,
    /// Destination address of the connection's first packet.
    OriginalDestination,
    /// Address whose owner a message of ARP asks for.
    ArpTarget,
}

/// Incoming interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// The one of this name.
    Name(String),
    /// Those whose names start so.
    Prefix(String),
}

impl SetId {
    /// The set that holds the elements of a kind and family.
    pub const fn planned(set: RuleSet, family: IpFamily) -> Self {
        SetId { kind: SetKind::Planned(set), family }
    }

    /// The set of the endpoints of a family.
    pub const fn endpoints(family: IpFamily) -> Self {
        SetId { kind: SetKind::Endpoints, family }
    }

    /// The set that holds the elements of a kind and family about node ports.
    pub const fn node_ports(set: RuleSet, family: IpFamily) -> Self {
        SetId { kind: SetKind::NodePorts(set), family }
    }

    /// All sets whose elements follow the Services.
    pub fn all_planned() -> impl Iterator<Item = SetId> {
        // An address for all clients selects its virtual server by itself.
        let of_vips =
            RuleSet::ALL.into_iter().filter(|set| !ONLY_NODE_PORTS.contains(set)).map(SetKind::Planned);
        let kinds = of_vips.chain(NODE_PORT_SETS.map(SetKind::NodePorts));
        kinds
            .flat_map(|kind| IpFamily::ALL.map(|family| SetId { kind, family }))
            .filter(|id| id.table() == TableFamily::Inet || id.family == IpFamily::V4)
    }

    /// Family of the table that has the set.
    pub const fn table(self) -> TableFamily {
        match self.kind {
            SetKind::Planned(RuleSet::UnansweredVips) => TableFamily::Arp,
            _ => TableFamily::Inet,
        }
    }

    /// All our sets.
    pub fn all() -> impl Iterator<Item = SetId> {
        SetId::all_planned().chain(IpFamily::ALL.map(SetId::endpoints))
    }

    /// Name in the table.
    pub fn name(self) -> String {
        let suffix = match self.family {
            IpFamily::V4 => "v4",
            IpFamily::V6 => "v6",
        };
        match self.kind {
            SetKind::Planned(set) => format!("{set}-{suffix}"),
            SetKind::NodePorts(set) => format!("node-{set}-{suffix}"),
            SetKind::Endpoints => format!("endpoints-{suffix}"),
        }
    }
}
