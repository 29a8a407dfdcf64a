//! Chains and rules of the table, with the reason for each.
//!
//! ```text
//! from outside    prerouting [prerouting-mark] -> input [input 90, IPVS 98/99, input-late 101]
//!                     -> output -> postrouting [postrouting 100]
//! answers         prerouting -> forward [forward 90, IPVS 99/100] -> postrouting
//! from this node  output [output -110, output-mark -100, IPVS -98] -> output again
//!                     -> postrouting [postrouting 100]
//! ```
//!
//! Masquerading is decided by the original tuple of the connection (client -> VIP:port), which IPVS leaves
//! alone, so no packet mark is spent on it; only the two interface modes of local detection need one, because
//! postrouting does not know where a packet came in.
//!
//! No packet of an established connection meets a refusal: `reply` packets pass at the top, services without
//! endpoints are refused to new connections only (their draining real servers keep theirs), and what IPVS
//! forwards leaves the input hook before `input-late`.
//!
//! A pod that reaches itself through a Service shows in the packet: its source equals its destination
//! once IPVS has translated it. nftables cannot compare two fields of a packet (the kernel can since 6.13, by
//! an xor of two registers), but it can look both up in a set: the destination of every connection of a
//! Service is added to `endpoints` as a pair with itself, and the rule behind asks for the pair of source and
//! destination.
//!
//! IPVS never sees ICMP errors that end no connection, because it would count them as packets of the real
//! server: whether anything comes back from a real server that drains is how `drain` tells a living one from
//! a dead one.

use ipnetwork::IpNetwork;
use lb_types::{IpFamily, LocalDetection, RuleSet, RulesLayout};

use crate::{
    expr::{ICMP, ICMPV6, SCTP, TCP, UDP},
    spec::{
        BaseChain, ChainKind, ChainSpec, Hook, Interface, RuleSpec, Selector, SetId, SoftError, Statement,
        TableSpec,
    },
};

/// Between the host's own filter chains (0, security 50), which have the first word, and IPVS (98).
const INPUT: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 90 };
/// Behind IPVS (99).
const INPUT_LATE: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 101 };
/// Before IPVS (99 for errors, 100 for answers), behind the host's own filter chains, as in the input hook.
const FORWARD: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: 90 };
/// Behind conntrack (-200), before destination NAT (-100) and IPVS (-99, -98).
const OUTPUT: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Output, priority: -110 };
/// Wherever their priority, nat chains run in the order of priorities at 100 here, and at -100 in the next
/// two hooks.
const POSTROUTING: BaseChain = BaseChain { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 100 };
/// A nat chain, because the mark is for the first packet only, and because a packet that IPVS forwards passes
/// the output hook too, where it must not be taken for one of this node: its destination is settled, so
/// `output-mark` does not see it.
const PREROUTING_MARK: BaseChain = BaseChain { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -110 };
const OUTPUT_MARK: BaseChain = BaseChain { kind: ChainKind::Nat, hook: Hook::Output, priority: -110 };

/// Name of the chain that refuses whatever gets there.
const REFUSE: &str = "refuse";
/// Name of the chain for packets of endpoints that belong to no connection.
const MISPLACED: &str = "misplaced";
/// Name of the chain that all ICMP packets pass.
const ICMP_PACKETS: &str = "icmp";
/// Name of the chain for ICMP errors that end no connection.
const SOFT_ERRORS: &str = "soft-errors";
/// Longest name of an interface (IFNAMSIZ without the NUL).
const INTERFACE_NAME_MAX: usize = 15;

/// The whole table for a layout.
pub fn render_table(layout: &RulesLayout) -> TableSpec {
    let mut chains = vec![
        ChainSpec { name: REFUSE, base: None, rules: refuse() },
        ChainSpec { name: SOFT_ERRORS, base: None, rules: per_family(|family| vec![unheard(family)]) },
        ChainSpec { name: MISPLACED, base: None, rules: misplaced() },
        ChainSpec { name: ICMP_PACKETS, base: None, rules: per_family(soft_errors) },
        chain("input", INPUT, input(layout)),
        chain("input-late", INPUT_LATE, input_late()),
        chain("forward", FORWARD, icmp()),
        chain("output", OUTPUT, output()),
        chain("postrouting", POSTROUTING, postrouting(layout)),
    ];
    if marks(layout) {
        chains.push(chain("prerouting-mark", PREROUTING_MARK, mark_from_outside(layout)));
        chains.push(chain("output-mark", OUTPUT_MARK, mark_from_this_node(layout)));
    }
    TableSpec { sets: SetId::all().collect(), chains }
}

/// `meta l4proto tcp reject with tcp reset`
///
/// `meta nfproto ipv4 meta l4proto sctp reject with icmp prot-unreachable`
///
/// `reject`
///
/// SCTP clients ignore "port unreachable" and retry for a minute, but abort on IPv4's "protocol unreachable"
/// (sctp_v4_err in net/sctp/protocol.c; RFC 9260 section 10).
///
/// TODO-correctness: over IPv6 they abort on "unrecognized next header" only, which nft cannot send: such a
/// client learns of the refusal when its own retries are used up.
fn refuse() -> Vec<RuleSpec> {
    vec![
        rule("as a closed port does", [Statement::Protocol(TCP), Statement::RejectReset]),
        rule(
            "the one ICMP code that ends an association",
            [Statement::Family(IpFamily::V4), Statement::Protocol(SCTP), Statement::RejectProtocol],
        ),
        rule("port unreachable", [Statement::RejectPort]),
    ]
}

/// `meta l4proto icmp goto icmp`
///
/// `meta l4proto ipv6-icmp goto icmp`
///
/// In every hook where IPVS looks at packets; all others pay for the two comparisons only. No refusal is for
/// ICMP.
fn icmp() -> Vec<RuleSpec> {
    let rules = [ICMP, ICMPV6].map(|protocol| {
        let about = "errors that IPVS would count";
        rule(about, [Statement::Protocol(protocol), Statement::Goto(ICMP_PACKETS)])
    });
    rules.into()
}

/// `icmp type destination-unreachable icmp code != prot-unreachable icmp code != frag-needed
/// goto soft-errors`
///
/// `icmp type time-exceeded goto soft-errors`
///
/// Errors that routers and firewalls send about the address of a pod that is gone. "Protocol unreachable" ends SCTP
/// associations, "too big" must reach the client.
fn soft_errors(family: IpFamily) -> Vec<RuleSpec> {
    let rules = [SoftError::Unreachable, SoftError::TimeExceeded].map(|error| {
        let about = "ends no connection";
        rule(about, [Statement::SoftError(family, error), Statement::Goto(SOFT_ERRORS)])
    });
    rules.into()
}

/// `ct state related ct direction reply ct status seen-reply meta nfproto ipv4 ct protocol != udp
/// ct original ip daddr . ct protocol . ct original proto-dst @services-v4 drop`
///
/// TCP and SCTP disregard such an error once they are connected; before that it makes connect() fail at once,
/// so it passes, and it always does for UDP, which has no other way to learn of it. Without this, IPVS counts
/// it as a packet of the real server (`handle_response_icmp`, net/netfilter/ipvs/ip_vs_core.c) as if that
/// were alive. Errors about a client, which go to its real server, are no such thing.
fn unheard(family: IpFamily) -> RuleSpec {
    rule(
        "an established connection does not need to know",
        [
            Statement::Related,
            Statement::Reply,
            Statement::SeenReply,
            Statement::Family(family),
            Statement::ConnectionNot(UDP),
            Statement::In(Selector::OriginalService, SetId::planned(RuleSet::Services, family)),
            Statement::Drop,
        ],
    )
}

fn input(layout: &RulesLayout) -> Vec<RuleSpec> {
    let mut rules = icmp();
    rules.push(replies());
    rules.extend(per_family(|family| {
        let mut rules = vec![no_endpoints(family)];
        rules.extend(no_local_endpoints(layout, family));
        rules.push(unserved(family));
        rules
    }));
    rules
}

fn output() -> Vec<RuleSpec> {
    let mut rules = icmp();
    rules.extend(per_family(|family| vec![no_endpoints(family)]));
    rules
}

fn input_late() -> Vec<RuleSpec> {
    let mut rules = vec![replies()];
    rules.extend(per_family(|family| vec![invalid(family), stray(family)]));
    rules
}

/// `ct state invalid meta nfproto ipv4 meta l4proto tcp
/// ip saddr . meta l4proto . th sport . ip saddr @endpoints-v4 goto misplaced`
///
/// Conntrack disowns a packet outside of its connection's window. Where the client was masqueraded, such a
/// packet of an endpoint is addressed to a port of this node that nobody has, the stack would answer with a
/// reset, and the endpoint would end the connection (kubernetes/kubernetes#74839). Behind IPVS, which knows
/// the connections of clients that are not masqueraded and translates their packets whatever conntrack says:
/// those have a VIP as their source by now, or went through the forward hook, where nothing need be dropped.
fn invalid(family: IpFamily) -> RuleSpec {
    rule(
        "of an endpoint, but of no connection",
        [
            Statement::Invalid,
            Statement::Family(family),
            Statement::Protocol(TCP),
            Statement::In(Selector::Sender, SetId::endpoints(family)),
            Statement::Goto(MISPLACED),
        ],
    )
}

/// `meta skuid >= 0 accept`
///
/// `drop`
fn misplaced() -> Vec<RuleSpec> {
    vec![
        rule("this node speaks to the endpoint itself", [Statement::HasSocket, Statement::Accept]),
        rule("a reset would end the connection of a masqueraded client", [Statement::Drop]),
    ]
}

/// `ct direction reply accept`
///
/// A node process may have a VIP as its source (a route without a source, or connections from before a
/// takeover); the answers to it are addressed to a port of the VIP that no service has.
fn replies() -> RuleSpec {
    rule("answers to this node, whose source may be a VIP", [Statement::Reply, Statement::Accept])
}

/// `ct state new,untracked meta nfproto ipv4 ip daddr . meta l4proto . th dport @no-endpoints-v4 goto refuse`
///
/// Before IPVS, which would answer with an ICMP error that is rate-limited per client.
fn no_endpoints(family: IpFamily) -> RuleSpec {
    rule(
        "service without endpoints",
        [
            Statement::NewOrUntracked,
            Statement::Family(family),
            Statement::In(Selector::DestinationPort, SetId::planned(RuleSet::NoEndpoints, family)),
            Statement::Goto(REFUSE),
        ],
    )
}

/// `ct state new,untracked meta nfproto ipv4 ip daddr . meta l4proto . th dport @no-local-endpoints-v4` and
/// then, by local detection, `ct original ip saddr != 10.244.0.0/16`, `iifname != "cbr0"` or nothing, and `drop`.
///
/// A client outside would see the answers of another node's endpoint come from an address that it has never
/// called. It is to time out, as the API has it, and to be sent elsewhere by the health check of its load
/// balancer. Pods and processes of this node are served by all endpoints.
fn no_local_endpoints(layout: &RulesLayout, family: IpFamily) -> Option<RuleSpec> {
    let set = SetId::planned(RuleSet::NoLocalEndpoints, family);
    let mut statements = vec![
        Statement::NewOrUntracked,
        Statement::Family(family),
        Statement::In(Selector::DestinationPort, set),
    ];
    statements.extend(not_local(layout.local(family))?.into_iter().filter(|statement| match statement {
        Statement::ClientNotIn(net) => IpFamily::of(net.ip()) == family,
        _ => true,
    }));
    statements.push(Statement::Drop);
    Some(RuleSpec { about: "Local policy, and no endpoint on this node", statements })
}

/// `meta nfproto ipv4 ip daddr @vips-v4 ip daddr . meta l4proto . th dport != @services-v4 goto refuse`
///
/// ICMP has left the chain: pings are answered by the local stack, errors belong to connections of IPVS.
fn unserved(family: IpFamily) -> RuleSpec {
    rule(
        "VIP, but no service on that port",
        [
            Statement::Family(family),
            Statement::In(Selector::Destination, SetId::planned(RuleSet::Vips, family)),
            Statement::NotIn(Selector::DestinationPort, SetId::planned(RuleSet::Services, family)),
            Statement::Goto(REFUSE),
        ],
    )
}

/// `meta nfproto ipv4 ip daddr . meta l4proto . th dport @services-v4 goto refuse`
///
/// What IPVS has taken is not here any more, or has a real server as its destination by now.
fn stray(family: IpFamily) -> RuleSpec {
    rule(
        "not taken by IPVS: stray packet of a connection that is gone",
        [
            Statement::Family(family),
            Statement::In(Selector::DestinationPort, SetId::planned(RuleSet::Services, family)),
            Statement::Goto(REFUSE),
        ],
    )
}

fn postrouting(layout: &RulesLayout) -> Vec<RuleSpec> {
    let mut rules = vec![stays_here(layout)];
    rules.extend(per_family(|family| {
        vec![
            remember(family),
            masquerade_nonlocal(layout, family),
            masquerade_external(layout, family),
            masquerade(family),
            hairpin(family),
        ]
    }));
    rules
}

/// `oif "lo" accept`, with `meta mark set meta mark & 0xffffbfff` before the verdict where packets are
/// marked.
///
/// Client and endpoint are this node. Masquerading would give the client the first address of any interface,
/// which the endpoint's firewall need not know; as it is, it has the source of the VIP's route.
fn stays_here(layout: &RulesLayout) -> RuleSpec {
    let mut statements = vec![Statement::ToLoopback];
    statements.extend(marks(layout).then_some(Statement::ClearMark(layout.masquerade_bit & 31)));
    statements.push(Statement::Accept);
    RuleSpec { about: "this node to itself", statements }
}

/// `meta nfproto ipv4 ct original ip daddr . meta l4proto . ct original proto-dst @services-v4
/// update @endpoints-v4 { ip daddr . meta l4proto . th dport . ip daddr }`
///
/// A rule of its own, so that a full set keeps nobody from being masqueraded. Its size follows from the
/// endpoints that there are, not from the clients, whom nobody knows.
fn remember(family: IpFamily) -> RuleSpec {
    rule(
        "where the connection was sent",
        [
            Statement::Family(family),
            Statement::In(Selector::OriginalDestinationPort, SetId::planned(RuleSet::Services, family)),
            Statement::Remember(SetId::endpoints(family)),
        ],
    )
}

/// `meta nfproto ipv4 ct original ip daddr . meta l4proto . ct original proto-dst @masquerade-nonlocal-v4`
/// and then, by local detection:
///
/// - CIDRs: `ct original ip saddr != 10.244.0.0/16 masquerade fully-random`
/// - interface: `meta mark & 0x4000 == 0x4000 meta mark set meta mark & 0xffffbfff masquerade fully-random`
/// - none: `ct original ip saddr @vips-v4 masquerade fully-random`; no answer would find its way to a VIP of
///   this node from another one.
fn masquerade_nonlocal(layout: &RulesLayout, family: IpFamily) -> RuleSpec {
    let set = SetId::planned(RuleSet::MasqueradeNonLocal, family);
    let vips = Statement::In(Selector::OriginalClient, SetId::planned(RuleSet::Vips, family));
    let unknown = ("client is this node under the address of a VIP", Some(vips));
    masquerade_unless_local(layout, set, unknown)
}

/// The same with `@masquerade-external-v4`, but without detection every connection is masqueraded: a client that
/// came in through an external address expects its answers from there, whatever node has the endpoint.
fn masquerade_external(layout: &RulesLayout, family: IpFamily) -> RuleSpec {
    let set = SetId::planned(RuleSet::MasqueradeExternal, family);
    masquerade_unless_local(layout, set, ("client may be outside of the cluster", None))
}

/// Masquerades connections to a set unless the client is a pod of this node; `unknown` is the purpose and the
/// condition where local pods cannot be told.
fn masquerade_unless_local(
    layout: &RulesLayout,
    set: SetId,
    unknown: (&'static str, Option<Statement>),
) -> RuleSpec {
    let family = set.family;
    let mut statements =
        vec![Statement::Family(family), Statement::In(Selector::OriginalDestinationPort, set)];
    let nets: Vec<_> = local_networks(layout.local(family), family).collect();
    let mut about = "client is not a pod of this node";
    if is_by_interface(layout.local(family)) {
        let bit = layout.masquerade_bit & 31;
        statements.extend([Statement::Marked(bit), Statement::ClearMark(bit)]);
    } else if nets.is_empty() {
        about = unknown.0;
        statements.extend(unknown.1);
    } else {
        statements.extend(nets.into_iter().map(Statement::ClientNotIn));
    }
    statements.push(Statement::Masquerade);
    RuleSpec { about, statements }
}

/// `meta nfproto ipv4 ct original ip daddr . meta l4proto . ct original proto-dst @masquerade-v4
/// masquerade fully-random`
fn masquerade(family: IpFamily) -> RuleSpec {
    let set = SetId::planned(RuleSet::Masquerade, family);
    rule(
        "always",
        [
            Statement::Family(family),
            Statement::In(Selector::OriginalDestinationPort, set),
            Statement::Masquerade,
        ],
    )
}

/// `meta nfproto ipv4 ct original ip daddr . meta l4proto . ct original proto-dst @services-v4
/// ip daddr . meta l4proto . th dport . ip saddr @endpoints-v4 masquerade fully-random`
fn hairpin(family: IpFamily) -> RuleSpec {
    rule(
        "pod that reaches itself through a service",
        [
            Statement::Family(family),
            Statement::In(Selector::OriginalDestinationPort, SetId::planned(RuleSet::Services, family)),
            Statement::In(Selector::DestinationPortAndSource, SetId::endpoints(family)),
            Statement::Masquerade,
        ],
    )
}

/// `meta nfproto ipv4 iifname != "cbr0" ip daddr . meta l4proto . th dport @masquerade-nonlocal-v4
/// meta mark set meta mark | 0x4000`, and the same for `@masquerade-external-v4`.
fn mark_from_outside(layout: &RulesLayout) -> Vec<RuleSpec> {
    per_family(|family| match not_local(layout.local(family)) {
        Some(from) if is_by_interface(layout.local(family)) => mark(layout, family, &from),
        _ => vec![],
    })
}

/// `meta nfproto ipv4 ip daddr . meta l4proto . th dport @masquerade-nonlocal-v4
/// meta mark set meta mark | 0x4000`, and the same for `@masquerade-external-v4`.
fn mark_from_this_node(layout: &RulesLayout) -> Vec<RuleSpec> {
    per_family(
        |family| {
            if is_by_interface(layout.local(family)) { mark(layout, family, &[]) } else { vec![] }
        },
    )
}

fn mark(layout: &RulesLayout, family: IpFamily, from: &[Statement]) -> Vec<RuleSpec> {
    let rules = [RuleSet::MasqueradeNonLocal, RuleSet::MasqueradeExternal].map(|set| {
        let mut statements = vec![Statement::Family(family)];
        statements.extend_from_slice(from);
        statements.push(Statement::In(Selector::DestinationPort, SetId::planned(set, family)));
        statements.push(Statement::SetMark(layout.masquerade_bit & 31));
        RuleSpec { about: "client is not a pod of this node", statements }
    });
    rules.into()
}

/// Conditions for a client that came in and is not known to be a pod of this node; `None` where all clients are
/// local.
fn not_local(local: &LocalDetection) -> Option<Vec<Statement>> {
    let interface = match local {
        LocalDetection::None => return Some(vec![]),
        LocalDetection::Cidr(nets) => {
            return Some(nets.iter().copied().map(Statement::ClientNotIn).collect());
        }
        LocalDetection::BridgeInterface(name) => Interface::Name(name.clone()),
        LocalDetection::InterfaceNamePrefix(prefix) => Interface::Prefix(prefix.clone()),
    };
    match interface.coverage() {
        Coverage::All => None,
        Coverage::Some => Some(vec![Statement::NotFrom(interface)]),
        Coverage::None => Some(vec![]),
    }
}

/// Interfaces that a name or prefix stands for.
enum Coverage {
    /// Every interface.
    All,
    /// Some.
    Some,
    /// None: longer than any name.
    None,
}

impl Interface {
    fn coverage(&self) -> Coverage {
        match self {
            Interface::Prefix(prefix) if prefix.is_empty() => Coverage::All,
            Interface::Name(name) if name.is_empty() => Coverage::None,
            Interface::Name(word) | Interface::Prefix(word) if word.len() > INTERFACE_NAME_MAX => {
                Coverage::None
            }
            Interface::Name(_) | Interface::Prefix(_) => Coverage::Some,
        }
    }
}

/// Tells whether packets are marked on their way in.
fn marks(layout: &RulesLayout) -> bool {
    IpFamily::ALL.into_iter().any(|family| is_by_interface(layout.local(family)))
}

const fn is_by_interface(local: &LocalDetection) -> bool {
    matches!(local, LocalDetection::BridgeInterface(_) | LocalDetection::InterfaceNamePrefix(_))
}

/// Prefixes of local clients. Without any of the family nothing is known about it, as with detection `None`.
fn local_networks(local: &LocalDetection, family: IpFamily) -> impl Iterator<Item = IpNetwork> {
    let nets = match local {
        LocalDetection::Cidr(nets) => nets.as_slice(),
        _ => &[],
    };
    nets.iter().copied().filter(move |net| IpFamily::of(net.ip()) == family)
}

fn per_family(rules: impl FnMut(IpFamily) -> Vec<RuleSpec>) -> Vec<RuleSpec> {
    IpFamily::ALL.into_iter().flat_map(rules).collect()
}

fn rule<const N: usize>(about: &'static str, statements: [Statement; N]) -> RuleSpec {
    RuleSpec { about, statements: statements.into() }
}

fn chain(name: &'static str, base: BaseChain, rules: Vec<RuleSpec>) -> ChainSpec {
    ChainSpec { name, base: Some(base), rules }
}
