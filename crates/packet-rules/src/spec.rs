//! The table as plain values: what `render` decides, what `install` compares and what `encode` writes.

use std::time::Duration;

use ipnetwork::IpNetwork;
use lb_types::{IpFamily, RuleSet};

/// Name of our table; its family is `inet`. Nothing outside it is ever written.
pub const TABLE_NAME: &str = "kube-ipvs";

/// All chains and sets of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
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
    /// Elements that follow the Services: added and deleted by operations, compared by audits.
    Planned(RuleSet),
    /// Endpoints to which connections of Services went lately: packets add them, time deletes them, and
    /// nobody else ever writes or dumps them. Key: address, protocol, port, and the address once more.
    Endpoints,
}

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
    /// The packet is the first of a connection, or a rule keeps conntrack from tracking it.
    NewOrUntracked,
    /// Conntrack could not place the packet, for instance because it lies outside of the window of its
    /// connection.
    Invalid,
    /// A connected socket of this node is waiting for the packet. Known in the input hook, by early
    /// demultiplexing.
    HasSocket,
    /// The packet stays on this node: it leaves through the loopback link.
    ToLoopback,
    /// The packet is an error about a connection, whose tuple and status count then.
    Related,
    /// The connection's server has answered.
    SeenReply,
    /// The connection's transport protocol is any but this one; unlike the packet's own it is known of an
    /// error too.
    ConnectionNot(u8),
    /// The connection's client has an address outside this prefix.
    ClientNotIn(IpNetwork),
    /// The packet did not come in through such an interface; one made on this node never did.
    NotFrom(Interface),
    /// The packet mark has this bit.
    Marked(u8),
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
    /// Destination address, transport protocol, destination port, source address.
    DestinationPortAndSource,
    /// Source address, transport protocol, source port, and the source address once more: what a packet's
    /// sender is in a set of endpoints.
    Sender,
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

    /// All sets whose elements follow the Services.
    pub fn all_planned() -> impl Iterator<Item = SetId> {
        RuleSet::ALL.into_iter().flat_map(|set| IpFamily::ALL.map(|family| SetId::planned(set, family)))
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
            SetKind::Endpoints => format!("endpoints-{suffix}"),
        }
    }
}
