//! Chains and rules of the table, with the reason for each.
//!
//! ```text
//! from outside    prerouting [steer -140, prerouting-mark, prerouting-keep] -> input [input 90, IPVS 98/99, input-late 101]
//!                     -> output [output-first -500] -> postrouting [postrouting 100]
//! answers         prerouting -> forward [forward 90, IPVS 99/100] -> postrouting
//! from this node  output [output -110, output-mark and output-keep at -100, output-nodes -99, IPVS -98, output-late -97]
//!                     -> output again [output-first -500] -> postrouting [postrouting 100]
//! ```
//!
//! Masquerading is decided by the original tuple of the connection (client -> VIP:port), which IPVS leaves
//! alone, so no packet mark is spent on it; only the two interface modes of local detection need one, because
//! postrouting does not know where a packet came in.
//!
//! No packet of an established connection meets a refusal: `reply` packets and, in every hook, TCP packets that ask
//! for no connection pass at the top, services without endpoints are refused to new connections only (their draining
//! real servers keep theirs), and what IPVS forwards leaves the input hook before `input-late`.
//!
//! A node port is served at all addresses of `node-addresses` by one virtual server, which is selected by a packet
//! mark; so is what clients outside get under a Local policy, where all others get the virtual server of the
//! address. IPVS looks at the mark when it schedules, so that only packets have one that may have to be scheduled:
//! those of new connections, all that ask for a connection, and all of UDP and SCTP. It is the whole mark, set just
//! before IPVS and cleared before anybody else looks at it: IPVS sends what it has translated through the output
//! hook, where `output-first` is the first to see it, and what it gives to a socket of this node stays in its hook,
//! where the `-late` chain follows. Untracked packets get no mark, because nothing tells a request from an answer to
//! this node there.
//!
//! A steered VIP is no address of this node: nobody answers ARP for it, its other ports are wherever routing leads, and
//! packets may come from it. Only what is for a port of a Service gets a bit in its mark, before routing looks at it; a
//! rule of the routing policy looks for such packets in a table of their own, which says that they are for this node.
//! The bit goes before IPVS looks at the mark, and before IPVS has a packet routed once more.
//!
//! To others a VIP is an address of this node, and whoever publishes a port at all of those (a hostPort, Docker) would
//! translate connections to the same port of a VIP. So these get a translation that changes nothing, before anybody
//! else's: a connection has one.
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
        TableFamily, TableSpec,
    },
};

/// Behind conntrack (-200) and table mangle (-150), where others set or restore whole marks; before destination NAT
/// (-100) and routing.
const STEER: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -140 };
/// Between the host's own filter chains (0, security 50), which have the first word, and IPVS (98).
const INPUT: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 90 };
/// Behind IPVS (99).
const INPUT_LATE: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 101 };
/// Before IPVS (99 for errors, 100 for answers), behind the host's own filter chains, as in the input hook.
const FORWARD: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: 90 };
/// Behind conntrack (-200), before destination NAT (-100) and IPVS (-99, -98).
const OUTPUT: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Output, priority: -110 };
/// Before everybody else, above all before connection tracking, policy routing and chains of type route. Packets
/// that this node sends itself are not tracked yet, so that their marks are none of ours.
const OUTPUT_FIRST: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Output, priority: -500 };
/// Between destination NAT (-100) and IPVS (-98).
const OUTPUT_NODES: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Output, priority: -99 };
/// Behind IPVS (-98).
const OUTPUT_LATE: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::Output, priority: -97 };
const ARP_INPUT: BaseChain = BaseChain { kind: ChainKind::Filter, hook: Hook::ArpInput, priority: 0 };
/// Wherever their priority, nat chains run in the order of priorities at 100 here, and at -100 in the next
/// two hooks.
const POSTROUTING: BaseChain = BaseChain { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 100 };
/// A nat chain, because the mark is for the first packet only, and because a packet that IPVS forwards passes
/// the output hook too, where it must not be taken for one of this node: its destination is settled, so
/// `output-mark` does not see it.
const PREROUTING_MARK: BaseChain = BaseChain { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -110 };
const OUTPUT_MARK: BaseChain = BaseChain { kind: ChainKind::Nat, hook: Hook::Output, priority: -110 };
/// Behind the two for marks, before the chains of others (-100).
const PREROUTING_KEEP: BaseChain = BaseChain { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -105 };
const OUTPUT_KEEP: BaseChain = BaseChain { kind: ChainKind::Nat, hook: Hook::Output, priority: -105 };

/// Name of the chain that refuses whatever gets there.
const REFUSE: &str = "refuse";
/// Purpose of the rules for ports of VIPs that no Service has.
const NO_SERVICE: &str = "VIP: no service on that port";
/// Name of the chain for packets of endpoints that belong to no connection.
const MISPLACED: &str = "misplaced";
/// Name of the chain that all ICMP packets pass.
const ICMP_PACKETS: &str = "icmp";
/// Name of the chain for ICMP errors that end no connection.
const SOFT_ERRORS: &str = "soft-errors";
/// Name of the chain for packets that have the mark bit of steering.
const ARRIVED: &str = "arrived";
/// Name of the chain for packets that were steered here.
const STEERED: &str = "steered";
/// Names of the chains of a family, but for the hooks, so that no packet meets the rules of the other one.
struct FamilyChains {
    /// Chains for packets to addresses of this node.
    node: HookChains,
    /// Chains for all packets.
    all: HookChains,
    /// Chain for packets to steered VIPs.
    steer: &'static str,
    /// Chain for the same where nothing is to be refused.
    steer_on: &'static str,
    /// Chain for packets to ports of ClusterIPs.
    cluster_ips: &'static str,
    /// Chain for packets to other ports of Services.
    ports: &'static str,
    /// Chain for packets to other ports of VIPs.
    other_ports: &'static str,
    /// Chain for connections to ports of Services.
    services: &'static str,
    /// Chain for connections whose clients are masqueraded unless they are pods of this node.
    nonlocal: &'static str,
    /// Chain for the same where clients outside are expected.
    external: &'static str,
}

/// Names of chains, by hook.
struct HookChains {
    input: &'static str,
    output: &'static str,
    postrouting: &'static str,
}

impl FamilyChains {
    const fn of(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => FamilyChains {
                node: HookChains {
                    input: "node-input-v4",
                    output: "node-output-v4",
                    postrouting: "node-postrouting-v4",
                },
                all: HookChains { input: "input-v4", output: "output-v4", postrouting: "postrouting-v4" },
                steer: "steer-v4",
                steer_on: "steer-on-v4",
                cluster_ips: "cluster-ips-v4",
                ports: "ports-v4",
                other_ports: "other-ports-v4",
                services: "services-v4",
                nonlocal: "nonlocal-v4",
                external: "external-v4",
            },
            IpFamily::V6 => FamilyChains {
                node: HookChains {
                    input: "node-input-v6",
                    output: "node-output-v6",
                    postrouting: "node-postrouting-v6",
                },
                all: HookChains { input: "input-v6", output: "output-v6", postrouting: "postrouting-v6" },
                steer: "steer-v6",
                steer_on: "steer-on-v6",
                cluster_ips: "cluster-ips-v6",
                ports: "ports-v6",
                other_ports: "other-ports-v6",
                services: "services-v6",
                nonlocal: "nonlocal-v6",
                external: "external-v6",
            },
        }
    }
}

/// Places where a port may be.
#[derive(Clone, Copy)]
enum Place {
    /// At an address of its own.
    Vip,
    /// At all addresses of this node.
    Node,
}

impl Place {
    /// Set of the elements of a kind.
    const fn set(self, set: RuleSet, family: IpFamily) -> SetId {
        match self {
            Place::Vip => SetId::planned(set, family),
            Place::Node => SetId::node_ports(set, family),
        }
    }

    /// Where the packet goes.
    const fn destination(self) -> Selector {
        match self {
            Place::Vip => Selector::DestinationPort,
            Place::Node => Selector::NodePort,
        }
    }

    /// Condition: the first packet of the connection went to an element of a kind.
    const fn original_in(self, set: RuleSet, family: IpFamily) -> Statement {
        let selector = match self {
            Place::Vip => Selector::OriginalDestinationPort,
            Place::Node => Selector::OriginalNodePort,
        };
        Statement::In(selector, self.set(set, family))
    }
}

/// Longest name of an interface (IFNAMSIZ without the NUL).
const INTERFACE_NAME_MAX: usize = 15;

/// The whole table for a layout.
pub fn render_table(layout: &RulesLayout) -> TableSpec {
    let mut chains = vec![
        ChainSpec { name: REFUSE, base: None, rules: refuse() },
        ChainSpec { name: SOFT_ERRORS, base: None, rules: per_family(unheard) },
        ChainSpec { name: MISPLACED, base: None, rules: misplaced() },
        ChainSpec { name: ICMP_PACKETS, base: None, rules: per_family(soft_errors) },
    ];
    for family in IpFamily::ALL {
        let FamilyChains {
            node,
            all,
            steer,
            steer_on,
            cluster_ips,
            ports,
            other_ports,
            services,
            nonlocal,
            external,
        } = FamilyChains::of(family);
        // A chain comes behind those that its rules go to.
        let of_family = [
            (steer_on, steer_vips(layout, family)),
            (steer, ask_before_steering(layout, family)),
            (cluster_ips, vec![no_endpoints(Place::Vip, family)]),
            (node.input, node_input(layout, family)),
            (node.output, vec![mark_node_port(family)]),
            (node.postrouting, node_postrouting(layout, family)),
            (ports, input_of_port(layout, family)),
            (other_ports, vec![health_check(family), rule(NO_SERVICE, [Statement::Goto(REFUSE)])]),
            (nonlocal, vec![masquerade_nonlocal(layout, family), hairpin(None, family)]),
            (external, vec![masquerade_external(layout, family), hairpin(None, family)]),
            (services, of_services(layout, family)),
            (all.input, input_of(family)),
            (all.output, output_of(family)),
            (all.postrouting, postrouting_of(family)),
        ];
        chains.extend(of_family.map(|(name, rules)| ChainSpec { name, base: None, rules }));
    }
    chains.push(ChainSpec { name: STEERED, base: None, rules: steered(layout) });
    chains.push(ChainSpec { name: ARRIVED, base: None, rules: arrived(layout) });
    chains.extend([
        chain("steer", STEER, steer()),
        chain("input", INPUT, input(layout)),
        chain("input-late", INPUT_LATE, input_late(layout)),
        chain("forward", FORWARD, icmp()),
        chain("output-first", OUTPUT_FIRST, unmark(layout)),
        chain("output", OUTPUT, output()),
        chain("output-nodes", OUTPUT_NODES, output_nodes()),
        chain("output-late", OUTPUT_LATE, unmark(layout)),
        chain("postrouting", POSTROUTING, postrouting(layout)),
    ]);
    if marks(layout) {
        chains.push(chain("prerouting-mark", PREROUTING_MARK, mark_from_outside(layout)));
        chains.push(chain("output-mark", OUTPUT_MARK, mark_from_this_node(layout)));
    }
    chains.push(chain("prerouting-keep", PREROUTING_KEEP, per_family(keep)));
    chains.push(chain("output-keep", OUTPUT_KEEP, per_family(keep)));
    TableSpec { family: TableFamily::Inet, sets: sets_of(TableFamily::Inet), chains }
}

/// The table of family arp for a layout; `None` if the kernel has none.
///
/// A VIP that is local here, but nobody's address, is answered for by ARP on every link (`arp_process`,
/// net/ipv4/arp.c). On a network that others share, that captures an address which may be somebody else's; a machine
/// there that needs the VIP has a route or an announcement by a load balancer, which answers by itself. Links without a
/// network of their own are left alone: pods behind some network plugins have nobody else to ask.
pub fn render_arp_table(layout: &RulesLayout) -> Option<TableSpec> {
    let rules = layout.arp.as_deref()?.iter().map(|link| unanswered(link)).collect();
    let chains = vec![chain("input", ARP_INPUT, rules)];
    Some(TableSpec { family: TableFamily::Arp, sets: sets_of(TableFamily::Arp), chains })
}

/// The table of a family for a layout, if it has one.
pub(crate) fn render(family: TableFamily, layout: &RulesLayout) -> Option<TableSpec> {
    match family {
        TableFamily::Inet => Some(render_table(layout)),
        TableFamily::Arp => render_arp_table(layout),
    }
}

fn sets_of(family: TableFamily) -> Vec<SetId> {
    SetId::all().filter(|id| id.table() == family).collect()
}

/// `iifname "eth0" arp operation request arp daddr ip @unanswered-vips-v4 drop`
fn unanswered(link: &str) -> RuleSpec {
    let vips = SetId::planned(RuleSet::UnansweredVips, IpFamily::V4);
    rule(
        "VIP: nobody's address on this network",
        [
            Statement::From(Interface::Name(link.to_owned())),
            Statement::ArpRequest,
            Statement::In(Selector::ArpTarget, vips),
            Statement::Drop,
        ],
    )
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
/// and for node ports `ct original ip daddr @node-addresses-v4 ct protocol . ct original proto-dst
/// @node-services-v4` instead.
///
/// TCP and SCTP disregard such an error once they are connected; before that it makes connect() fail at once,
/// so it passes, and it always does for UDP, which has no other way to learn of it. Without this, IPVS counts
/// it as a packet of the real server (`handle_response_icmp`, net/netfilter/ipvs/ip_vs_core.c) as if that
/// were alive. Errors about a client, which go to its real server, are no such thing.
fn unheard(family: IpFamily) -> Vec<RuleSpec> {
    let services = |place: Place| place.set(RuleSet::Services, family);
    let vip = vec![Statement::In(Selector::OriginalService, services(Place::Vip))];
    let node = vec![
        to_node(Selector::OriginalDestination, family),
        Statement::In(Selector::OriginalNodeService, services(Place::Node)),
    ];
    let rules = [vip, node].map(|of_a_service| {
        let mut statements = vec![
            Statement::Related,
            Statement::Reply,
            Statement::SeenReply,
            Statement::Family(family),
            Statement::ConnectionNot(UDP),
        ];
        statements.extend(of_a_service);
        statements.push(Statement::Drop);
        RuleSpec { about: "an established connection does not need to know", statements }
    });
    rules.into()
}

/// `ip daddr @node-addresses-v4`, or the same of the connection's first packet.
fn to_node(selector: Selector, family: IpFamily) -> Statement {
    Statement::In(selector, SetId::planned(RuleSet::NodeAddresses, family))
}

/// `ct direction reply accept`
///
/// `meta nfproto ipv4 ip daddr . ip daddr @steered-vips-v4 goto steer-v4`
///
/// One look-up for every packet of a client that is not to such a VIP. Answers are never steered.
fn steer() -> Vec<RuleSpec> {
    let mut rules = vec![rule("answers go where routing leads", [Statement::Reply, Statement::Accept])];
    rules.extend(IpFamily::ALL.map(|family| to_steered_vip(family, FamilyChains::of(family).steer)));
    rules
}

fn to_steered_vip(family: IpFamily, chain: &'static str) -> RuleSpec {
    let vips = Statement::In(Selector::DestinationPair, SetId::planned(RuleSet::SteeredVips, family));
    lead("VIP that is not this node's", family, vips, chain)
}

/// Packets to a steered VIP. Those of connections that are under way come first
/// (`ct status seen-reply meta nfproto ipv4 ip daddr . meta l4proto . th dport @steered-v4 ct direction original
/// ip daddr . ct reply ip saddr != @steered-vips-v4 meta mark set meta mark | 0x1000 accept`). Of the others, those of
/// clients that are not allowed are dropped, and those to ports without endpoints refused, which the input hook does not
/// do again: from there no ICMP error could be sent, whose source would be the VIP. TCP packets that ask for no
/// connection are not asked about (`meta l4proto tcp tcp flags != syn / syn,ack goto steer-on-v4`), as in the input hook.
fn ask_before_steering(layout: &RulesLayout, family: IpFamily) -> Vec<RuleSpec> {
    let on = FamilyChains::of(family).steer_on;
    let mut running = vec![Statement::SeenReply];
    running.extend(packet_to(RuleSet::Steered, family));
    vec![
        steered_on(layout, "connection to a port of a Service", running, vec![by_ipvs(family)]),
        rule("asks for no connection", [Statement::Protocol(TCP), Statement::NoRequest, Statement::Goto(on)]),
        not_allowed(family),
        no_endpoints(Place::Vip, family),
        rule("nothing to refuse", [Statement::Goto(on)]),
    ]
}

/// Packets to a steered VIP that are neither of a known connection nor refused. Health checks of a load balancer
/// (`@health-checks-v4`) come here, too: this node answers them from the VIP. Packets of connections that began before the
/// VIP was steered go where they went
/// (`ct status seen-reply ct direction original ip daddr . ct reply ip saddr @steered-vips-v4 accept`). Then
///
/// `meta nfproto ipv4 ip daddr . meta l4proto . th dport @steered-v4 ct direction original
/// meta mark set meta mark | 0x1000 accept`,
///
/// the same for `@steered-known-v4` with `ip daddr . ct reply ip saddr != @steered-vips-v4`, and for errors about
/// packets of such connections
///
/// `meta l4proto icmp ct state related ct original ip daddr . ct protocol . ct original proto-dst @steered-v4
/// ct direction original meta mark set meta mark | 0x1000 accept`.
///
/// Answers to a client whose address is the VIP, as a load balancer that asks for health may have, are not for this
/// node. A connection that IPVS knows gets its answers from an endpoint, one that went where routing leads gets them
/// from the VIP itself; the endpoint may have the address of another VIP. What connection tracking disowns or was told to
/// leave alone is steered like a new connection (`ct state invalid,untracked`), because IPVS may know it.
fn steer_vips(layout: &RulesLayout, family: IpFamily) -> Vec<RuleSpec> {
    let icmp = match family {
        IpFamily::V4 => ICMP,
        IpFamily::V6 => ICMPV6,
    };
    let error = |of| {
        let of_connection = Statement::In(Selector::OriginalService, SetId::planned(of, family));
        vec![Statement::Protocol(icmp), Statement::Related, of_connection]
    };
    let steer = |about, statements, condition| steered_on(layout, about, statements, condition);
    let error_by_ipvs = vec![Statement::Family(family), by_ipvs(family)];
    let server_is_vip =
        Statement::In(Selector::DestinationAndServer, SetId::planned(RuleSet::SteeredVips, family));
    let mut untracked = vec![Statement::InvalidOrUntracked];
    untracked.extend(packet_to(RuleSet::Steered, family));
    untracked.extend([Statement::SetMark(layout.steer_bit & 31), Statement::Accept]);
    vec![
        steer("health check of a load balancer", packet_to(RuleSet::HealthChecks, family), vec![]),
        rule(
            "connection that goes where routing leads",
            [
                Statement::SeenReply,
                Statement::Original,
                Statement::Family(family),
                server_is_vip,
                Statement::Accept,
            ],
        ),
        steer("port of a Service", packet_to(RuleSet::Steered, family), vec![]),
        steer(
            "port of a Service that is gone: its connections alone",
            packet_to(RuleSet::SteeredKnown, family),
            vec![by_ipvs(family)],
        ),
        steer("error about a packet of a Service", error(RuleSet::Steered), vec![]),
        steer("error about a packet of a connection", error(RuleSet::SteeredKnown), error_by_ipvs),
        RuleSpec {
            about: "port of a Service, but of no connection: IPVS may know it",
            statements: untracked,
        },
    ]
}

/// `meta nfproto ipv4 ip daddr . meta l4proto . th dport` in a set.
fn packet_to(of: RuleSet, family: IpFamily) -> Vec<Statement> {
    let port = Statement::In(Selector::DestinationPort, SetId::planned(of, family));
    vec![Statement::Family(family), port]
}

/// `ip daddr . ct reply ip saddr != @steered-vips-v4`
fn by_ipvs(family: IpFamily) -> Statement {
    Statement::NotIn(Selector::DestinationAndServer, SetId::planned(RuleSet::SteeredVips, family))
}

/// `ct direction original`, then a condition, and `meta mark set meta mark | 0x1000 accept`.
fn steered_on(
    layout: &RulesLayout,
    about: &'static str,
    mut statements: Vec<Statement>,
    condition: Vec<Statement>,
) -> RuleSpec {
    statements.push(Statement::Original);
    statements.extend(condition);
    statements.extend([Statement::SetMark(layout.steer_bit & 31), Statement::Accept]);
    RuleSpec { about, statements }
}

/// Packets that were steered here: source ranges and refusals were for the prerouting hook.
fn steered(layout: &RulesLayout) -> Vec<RuleSpec> {
    let mut rules = vec![settled()];
    rules.extend(icmp());
    rules.extend(per_family(|family| {
        let mut rules = vec![health_check(family)];
        rules.extend(no_local_endpoints(layout, Place::Vip, family));
        rules.extend(mark_external(layout, Place::Vip, family));
        rules
    }));
    rules.push(rule("decided before routing", [Statement::Accept]));
    rules
}

/// `meta mark & 0x1000 == 0x1000 jump arrived`
fn has_arrived(layout: &RulesLayout) -> RuleSpec {
    rule("has arrived", [Statement::Marked(layout.steer_bit & 31), Statement::Jump(ARRIVED)])
}

/// `meta mark set meta mark & 0xffffefff`
///
/// and for packets to steered VIPs `goto steered`. Where anybody else has set the bit, it decides nothing.
fn arrived(layout: &RulesLayout) -> Vec<RuleSpec> {
    let bit = layout.steer_bit & 31;
    let mut rules = vec![rule("the bit was for routing alone", [Statement::ClearMark(bit)])];
    rules.extend(IpFamily::ALL.map(|family| to_steered_vip(family, STEERED)));
    rules
}

fn input(layout: &RulesLayout) -> Vec<RuleSpec> {
    let mut rules = vec![has_arrived(layout), settled()];
    rules.extend(icmp());
    rules.push(replies());
    rules.extend(by_family(|chains| chains.all.input));
    rules
}

/// `meta nfproto ipv4 goto input-v4`
fn by_family(chain: impl Fn(FamilyChains) -> &'static str) -> Vec<RuleSpec> {
    per_family(|family| {
        let chain = Statement::Goto(chain(FamilyChains::of(family)));
        vec![rule("one family only", [Statement::Family(family), chain])]
    })
}

/// `meta nfproto ipv4 ip daddr . meta l4proto . th dport @masquerade-nonlocal-v4 goto cluster-ips-v4`
///
/// Most packets are for ports of ClusterIPs, which have neither source ranges nor marks nor health checks. The set has no
/// others; where all clients are masqueraded, it is empty.
fn to_cluster_ip(family: IpFamily) -> RuleSpec {
    let port = Statement::In(Selector::DestinationPort, Place::Vip.set(RuleSet::MasqueradeNonLocal, family));
    lead("port of a ClusterIP", family, port, FamilyChains::of(family).cluster_ips)
}

/// `meta nfproto ipv4 ip daddr . meta l4proto . th dport @services-v4 goto ports-v4`
///
/// Few look-ups for a packet that is none of ours: every port in the sets behind is in this one, too, but for those of
/// health checks.
fn input_of(family: IpFamily) -> Vec<RuleSpec> {
    let FamilyChains { node, ports, .. } = FamilyChains::of(family);
    let service = Statement::In(Selector::DestinationPort, Place::Vip.set(RuleSet::Services, family));
    vec![
        to_cluster_ip(family),
        lead("port of a Service", family, service, ports),
        to_other_port(family),
        at_node(Selector::Destination, family, node.input),
    ]
}

/// Packets to ports of Services but for ClusterIPs.
fn input_of_port(layout: &RulesLayout, family: IpFamily) -> Vec<RuleSpec> {
    let mut rules = vec![not_allowed(family), no_endpoints(Place::Vip, family), health_check(family)];
    rules.extend(no_local_endpoints(layout, Place::Vip, family));
    rules.extend(mark_external(layout, Place::Vip, family));
    rules.push(at_node(Selector::Destination, family, FamilyChains::of(family).node.input));
    rules
}

/// `meta nfproto ipv4 ip daddr @node-addresses-v4 goto node-input-v4`
fn at_node(selector: Selector, family: IpFamily, chain: &'static str) -> RuleSpec {
    lead("address of this node", family, to_node(selector, family), chain)
}

/// Packets from outside and from pods to an address of this node.
fn node_input(layout: &RulesLayout, family: IpFamily) -> Vec<RuleSpec> {
    let mut rules = vec![no_endpoints(Place::Node, family)];
    rules.extend(no_local_endpoints(layout, Place::Node, family));
    rules.extend(mark_external(layout, Place::Node, family));
    rules.push(mark_node_port(family));
    rules
}

/// `ct state established accept`
///
/// `ct status 0x100 / confirmed,0x100 accept`
///
/// `meta l4proto tcp tcp flags != syn / syn,ack accept`
///
/// and then errors, and all others by family: only the first packets of connections can be refused, and of those only
/// the ones that this node sends by itself. Others are here because IPVS forwards them: they passed the input hook, or
/// this one.
fn output() -> Vec<RuleSpec> {
    let mut rules = vec![
        rule("nothing to decide", [Statement::Established, Statement::Accept]),
        rule("IPVS forwards it, which has been decided", [Statement::Resent, Statement::Accept]),
        settled(),
    ];
    rules.extend(icmp());
    rules.extend(by_family(|chains| chains.all.output));
    rules
}

fn output_of(family: IpFamily) -> Vec<RuleSpec> {
    let mut at_node = no_endpoints(Place::Node, family);
    at_node.statements.insert(2, to_node(Selector::Destination, family));
    vec![not_allowed(family), no_endpoints(Place::Vip, family), at_node]
}

/// Packets from this node to an address of its own. The link that they leave through says nothing about that: it is the
/// one of a VRF, or that of the route before others' destination NAT.
fn output_nodes() -> Vec<RuleSpec> {
    let at_node = |family| at_node(Selector::Destination, family, FamilyChains::of(family).node.output);
    std::iter::once(settled()).chain(IpFamily::ALL.map(at_node)).collect()
}

fn input_late(layout: &RulesLayout) -> Vec<RuleSpec> {
    let mut rules = unmark(layout);
    rules.push(replies());
    rules.extend([ICMP, ICMPV6].map(|protocol| {
        rule("pings and errors are for the local stack", [Statement::Protocol(protocol), Statement::Accept])
    }));
    rules.extend(per_family(|family| {
        let mut rules = vec![invalid(family), health_check(family), unserved(family)];
        rules.extend([RuleSet::Steered, RuleSet::SteeredKnown].map(|set| unserved_port(set, family)));
        rules
    }));
    rules
}

/// `meta nfproto ipv4 ip daddr . meta l4proto . th dport @health-checks-v4 accept`
///
/// Load balancers may ask at their own address, which is a VIP here (kubernetes/kubernetes#117723).
fn health_check(family: IpFamily) -> RuleSpec {
    rule(
        "health check of a load balancer",
        [
            Statement::Family(family),
            Statement::In(Selector::DestinationPort, SetId::planned(RuleSet::HealthChecks, family)),
            Statement::Accept,
        ],
    )
}

/// `meta l4proto tcp tcp flags != syn / syn,ack accept`
///
/// IPVS knows the connection, or nobody does: nothing is scheduled, and nothing is refused before IPVS has seen it,
/// even if connection tracking has forgotten the connection. What IPVS does not know, is reset behind it.
fn settled() -> RuleSpec {
    rule("nothing to decide", [Statement::Protocol(TCP), Statement::NoRequest, Statement::Accept])
}

/// `ct direction original` and then, by local detection, as in `no_local_endpoints`, and
/// `meta mark set ip daddr . meta l4proto . th dport map @marks-external-v4 accept`
fn mark_external(layout: &RulesLayout, place: Place, family: IpFamily) -> Option<RuleSpec> {
    let map = place.set(RuleSet::MarksExternal, family);
    let mut statements = vec![Statement::Family(family), Statement::Original];
    statements.extend(clients_outside(layout, family)?);
    statements.extend([Statement::MapMark(place.destination(), map), Statement::Accept]);
    Some(RuleSpec { about: "Local policy: clients outside have real servers of their own", statements })
}

/// `ct direction original meta mark set meta l4proto . th dport map @node-marks-v4`
///
/// An answer to a connection of this node may come to a port that is a node port, too.
fn mark_node_port(family: IpFamily) -> RuleSpec {
    let map = SetId::node_ports(RuleSet::Marks, family);
    rule(
        "node port: the mark selects its virtual server",
        [Statement::Family(family), Statement::Original, Statement::MapMark(Selector::NodePort, map)],
    )
}

/// `meta mark 0x01b50000/16 ct direction original meta mark set 0x00000000`
///
/// and the same for the range of an earlier configuration, as long as there are virtual servers with its marks.
fn unmark(layout: &RulesLayout) -> Vec<RuleSpec> {
    let about = "the mark was for IPVS alone";
    let ranges = [layout.marks].into_iter().chain(layout.old_marks);
    ranges
        .map(|marks| rule(about, [Statement::MarkIn(marks), Statement::Original, Statement::ZeroMark]))
        .collect()
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
fn no_endpoints(place: Place, family: IpFamily) -> RuleSpec {
    rule(
        "service without endpoints",
        [
            Statement::NewOrUntracked,
            Statement::Family(family),
            Statement::In(place.destination(), place.set(RuleSet::NoEndpoints, family)),
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
fn no_local_endpoints(layout: &RulesLayout, place: Place, family: IpFamily) -> Option<RuleSpec> {
    let set = place.set(RuleSet::NoLocalEndpoints, family);
    let mut statements =
        vec![Statement::NewOrUntracked, Statement::Family(family), Statement::In(place.destination(), set)];
    statements.extend(clients_outside(layout, family)?);
    statements.push(Statement::Drop);
    Some(RuleSpec { about: "Local policy, and no endpoint on this node", statements })
}

/// `ct state new,untracked meta nfproto ipv4 ip daddr . meta l4proto . th dport @restricted-v4
/// ip daddr . meta l4proto . th dport . ip saddr != @allowed-v4 drop`
///
/// Running connections stay: a Service whose ranges are edited cuts nobody.
fn not_allowed(family: IpFamily) -> RuleSpec {
    rule(
        "outside of the load balancer's source ranges",
        [
            Statement::NewOrUntracked,
            Statement::Family(family),
            Statement::In(Selector::DestinationPort, SetId::planned(RuleSet::Restricted, family)),
            Statement::NotIn(Selector::DestinationPortAndSource, SetId::planned(RuleSet::Allowed, family)),
            Statement::Drop,
        ],
    )
}

/// Conditions of a family for a client that came in and is not known to be a pod of this node; `None` where all
/// clients are local.
fn clients_outside(layout: &RulesLayout, family: IpFamily) -> Option<Vec<Statement>> {
    let mut conditions = not_local(layout.local(family))?;
    conditions.retain(|statement| match statement {
        Statement::ClientNotIn(net) => IpFamily::of(net.ip()) == family,
        _ => true,
    });
    Some(conditions)
}

/// `ct state new,untracked meta nfproto ipv4 ip daddr @vips-v4 goto other-ports-v4`
///
/// Behind the rule for ports of Services, and before IPVS, which gives connections to any unprivileged port of an address
/// to the virtual server of its port 21 (`ip_vs_service_find`, net/netfilter/ipvs/ip_vs_ctl.c), and may have somebody
/// else's virtual server there.
fn to_other_port(family: IpFamily) -> RuleSpec {
    rule(
        NO_SERVICE,
        [
            Statement::NewOrUntracked,
            Statement::Family(family),
            Statement::In(Selector::Destination, SetId::planned(RuleSet::Vips, family)),
            Statement::Goto(FamilyChains::of(family).other_ports),
        ],
    )
}

/// `meta nfproto ipv4 ip daddr @vips-v4 goto refuse`
///
/// Packets that IPVS has taken are not here any more, or have a real server as their destination by now. Nothing is refused at an
/// address of this node: the endpoint may be a process that listens on the port of the Service itself, and to stray
/// packets the stack answers with a reset by itself.
fn unserved(family: IpFamily) -> RuleSpec {
    rule(
        "VIP, but not taken by IPVS: a connection that is gone",
        [
            Statement::Family(family),
            Statement::In(Selector::Destination, SetId::planned(RuleSet::Vips, family)),
            Statement::Goto(REFUSE),
        ],
    )
}

/// `meta nfproto ipv4 ip daddr . meta l4proto . th dport @steered-v4 goto refuse`
///
/// Other ports of a steered VIP, and packets of other protocols, are here only if somebody else has them delivered to
/// this node.
fn unserved_port(set: RuleSet, family: IpFamily) -> RuleSpec {
    rule(
        "steered, but not taken by IPVS: a connection that is gone",
        [
            Statement::Family(family),
            Statement::In(Selector::DestinationPort, SetId::planned(set, family)),
            Statement::Goto(REFUSE),
        ],
    )
}

fn postrouting(layout: &RulesLayout) -> Vec<RuleSpec> {
    let mut rules = vec![stays_here(layout)];
    rules.extend(by_family(|chains| chains.all.postrouting));
    rules
}

/// `meta nfproto ipv4 ct original ip daddr . meta l4proto . ct original proto-dst @services-v4 goto services-v4`
///
/// `meta nfproto ipv4 ct original ip daddr @node-addresses-v4 goto node-postrouting-v4`
///
/// Two look-ups for a connection that is none of ours: every port in the sets behind is in this one, too.
fn postrouting_of(family: IpFamily) -> Vec<RuleSpec> {
    let FamilyChains { node, services, .. } = FamilyChains::of(family);
    let to_service = Place::Vip.original_in(RuleSet::Services, family);
    vec![
        lead("port of a Service", family, to_service, services),
        at_node(Selector::OriginalDestination, family, node.postrouting),
    ]
}

/// Connections to ports of Services. A port is in one of the sets at most once a plan has been executed; before that, the
/// set of those that are always masqueraded comes before the one that does not for pods of this node. It is in none
/// where connections to a port of this node drain and new ones go to its node port's mark: those are looked at as that.
fn of_services(layout: &RulesLayout, family: IpFamily) -> Vec<RuleSpec> {
    let FamilyChains { node, nonlocal, external, .. } = FamilyChains::of(family);
    let of = |about, set, chain| lead(about, family, Place::Vip.original_in(set, family), chain);
    let mut rules = vec![
        remember(None, family),
        of("port of a ClusterIP", RuleSet::MasqueradeNonLocal, nonlocal),
        masquerade(Place::Vip, family),
        of("port for clients outside", RuleSet::MasqueradeExternal, external),
        masquerade_vips(family),
    ];
    rules.extend(masquerade_pods(layout, Place::Vip, family));
    rules.push(hairpin(None, family));
    rules.push(at_node(Selector::OriginalDestination, family, node.postrouting));
    rules
}

/// Connections to addresses of this node. Whoever uses a node port may be outside of the cluster.
fn node_postrouting(layout: &RulesLayout, family: IpFamily) -> Vec<RuleSpec> {
    let of_a_port = Place::Node.original_in(RuleSet::Services, family);
    let mut rules = vec![remember(Some(of_a_port.clone()), family), masquerade(Place::Node, family)];
    rules.extend(masquerade_pods(layout, Place::Node, family));
    rules.push(hairpin(Some(of_a_port), family));
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

/// `meta nfproto ipv4 update @endpoints-v4 { ip daddr . meta l4proto . th dport . ip daddr }`, with a condition if the
/// chain also sees other connections
///
/// A rule of its own, so that a full set keeps nobody from being masqueraded. Its size follows from the
/// endpoints that there are, not from the clients, whom nobody knows.
fn remember(condition: Option<Statement>, family: IpFamily) -> RuleSpec {
    let mut statements = vec![Statement::Family(family)];
    statements.extend(condition);
    statements.push(Statement::Remember(SetId::endpoints(family)));
    RuleSpec { about: "where the connection was sent", statements }
}

/// Rule by local detection:
///
/// - CIDRs: `meta nfproto ipv4 ct original ip saddr != 10.244.0.0/16 masquerade fully-random`
/// - interface: `meta mark & 0x4000 == 0x4000 meta mark set meta mark & 0xffffbfff masquerade fully-random`
/// - none: `ct original ip saddr @vips-v4 masquerade fully-random`; no answer would find its way to a VIP of
///   this node from another one.
fn masquerade_nonlocal(layout: &RulesLayout, family: IpFamily) -> RuleSpec {
    let vips = Statement::In(Selector::OriginalClient, SetId::planned(RuleSet::Vips, family));
    let unknown = ("client is this node under the address of a VIP", Some(vips));
    masquerade_unless_local(layout, family, unknown)
}

/// The same, but without detection every connection is masqueraded: a client that came in through an external address
/// expects its answers from there, whatever node has the endpoint.
fn masquerade_external(layout: &RulesLayout, family: IpFamily) -> RuleSpec {
    masquerade_unless_local(layout, family, ("client may be outside of the cluster", None))
}

/// `meta nfproto ipv4 ct original ip saddr 10.244.0.0/16 ct original ip daddr . meta l4proto . ct original proto-dst
/// @masquerade-pods-v4 ip daddr . meta l4proto . th dport != @local-endpoints-v4 masquerade fully-random`, where the prefixes are those of the whole cluster
///
/// A pod of another node that called an address of this one counts as local, gets any endpoint, and one on its own
/// node would answer it directly, from an address that it has not called. The answers of an endpoint of this node pass
/// here, so that the pod keeps its address.
///
/// `ct original ip saddr @node-addresses-v4 ... masquerade fully-random`
///
/// A process of this node has the address that it calls, which another node need not have a way to: that of a bridge
/// of this node, for example.
fn masquerade_pods(layout: &RulesLayout, place: Place, family: IpFamily) -> Vec<RuleSpec> {
    let of_the_set = || place.original_in(RuleSet::MasqueradePods, family);
    let of_node = rule(
        "client is this node",
        [
            Statement::Family(family),
            to_node(Selector::OriginalClient, family),
            of_the_set(),
            Statement::Masquerade,
        ],
    );
    let LocalDetection::ClusterCidr(_) = layout.local(family) else { return vec![of_node] };
    let endpoints = SetId::planned(RuleSet::LocalEndpoints, family);
    let of_prefix = |net| {
        rule(
            "client may be a pod of another node, and so is the endpoint",
            [
                Statement::Family(family),
                Statement::ClientIn(net),
                of_the_set(),
                Statement::NotIn(Selector::DestinationPort, endpoints),
                Statement::Masquerade,
            ],
        )
    };
    std::iter::once(of_node).chain(local_networks(layout.local(family), family).map(of_prefix)).collect()
}

/// `meta nfproto ipv4 ct original ip saddr @vips-v4 ct original ip daddr . meta l4proto . ct original proto-dst
/// @masquerade-vips-v4 masquerade fully-random`
///
/// On another node, which has the address, too, the answer would not find its way back.
fn masquerade_vips(family: IpFamily) -> RuleSpec {
    rule(
        "client is this node under an address that every node has",
        [
            Statement::Family(family),
            Statement::In(Selector::OriginalClient, SetId::planned(RuleSet::Vips, family)),
            Place::Vip.original_in(RuleSet::MasqueradeVips, family),
            Statement::Masquerade,
        ],
    )
}

/// Masquerades connections unless the client is a pod of this node; `unknown` is the purpose and the condition where
/// local pods cannot be told.
fn masquerade_unless_local(
    layout: &RulesLayout,
    family: IpFamily,
    unknown: (&'static str, Option<Statement>),
) -> RuleSpec {
    let mut statements = vec![Statement::Family(family)];
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
fn masquerade(place: Place, family: IpFamily) -> RuleSpec {
    let of_the_set = place.original_in(RuleSet::Masquerade, family);
    rule("always", [Statement::Family(family), of_the_set, Statement::Masquerade])
}

/// `meta nfproto ipv4 ip daddr . meta l4proto . th dport . ip saddr @endpoints-v4 masquerade fully-random`, with a
/// condition if the chain also sees other connections
fn hairpin(condition: Option<Statement>, family: IpFamily) -> RuleSpec {
    let mut statements = vec![Statement::Family(family)];
    statements.extend(condition);
    statements.extend([
        Statement::In(Selector::DestinationPortAndSource, SetId::endpoints(family)),
        Statement::Masquerade,
    ]);
    RuleSpec { about: "pod that reaches itself through a service", statements }
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

/// `meta nfproto ipv4 ip daddr . meta l4proto . th dport @services-v4 dnat ip to ip daddr`
///
/// As in kube-proxy's chain KUBE-SERVICES, which accepts its ClusterIPs before a chain of others can see them.
fn keep(family: IpFamily) -> Vec<RuleSpec> {
    let services = SetId::planned(RuleSet::Services, family);
    vec![rule(
        "published ports of this node are others",
        [
            Statement::Family(family),
            Statement::In(Selector::DestinationPort, services),
            Statement::KeepDestination(family),
        ],
    )]
}

/// Conditions for a client that came in and is not known to be a pod of this node; `None` where all clients are
/// local.
fn not_local(local: &LocalDetection) -> Option<Vec<Statement>> {
    let interface = match local {
        LocalDetection::None => return Some(vec![]),
        LocalDetection::NodeCidr(nets) | LocalDetection::ClusterCidr(nets) => {
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
    local.prefixes().iter().copied().filter(move |net| IpFamily::of(net.ip()) == family)
}

fn per_family(rules: impl FnMut(IpFamily) -> Vec<RuleSpec>) -> Vec<RuleSpec> {
    IpFamily::ALL.into_iter().flat_map(rules).collect()
}

/// Rule that leads packets of a family into another chain.
fn lead(about: &'static str, family: IpFamily, condition: Statement, chain: &'static str) -> RuleSpec {
    rule(about, [Statement::Family(family), condition, Statement::Goto(chain)])
}

fn rule<const N: usize>(about: &'static str, statements: [Statement; N]) -> RuleSpec {
    RuleSpec { about, statements: statements.into() }
}

fn chain(name: &'static str, base: BaseChain, rules: Vec<RuleSpec>) -> ChainSpec {
    ChainSpec { name, base: Some(base), rules }
}
