//! Statements as the kernel's expressions: small instructions over registers.
//!
//! Matching goes through register 1 (`NFT_REG32_00`); the fields of a concatenation lie side by side from
//! there.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use lb_types::IpFamily;
use nftnl_sys::libc;

use crate::spec::{Interface, RuleSpec, Selector, SetId, SoftError, Statement};

/// Version of the translation: counted up when the same text is translated differently, so that tables by
/// older versions are rewritten.
pub(crate) const ENCODING: u32 = 1;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// NF_CT_STATE_UNTRACKED_BIT
const UNTRACKED: u32 = 64;
/// NF_CT_STATE_BIT(IP_CT_NEW) | NF_CT_STATE_UNTRACKED_BIT
const NEW_OR_UNTRACKED: u32 = 8 | UNTRACKED;
/// NF_CT_STATE_BIT(IP_CT_ESTABLISHED), which holds for answers, too
const ESTABLISHED: u32 = 1 << 1;
/// NF_CT_STATE_INVALID_BIT
const INVALID: u32 = 1;
/// Offset of the flags in a TCP header.
const TCP_FLAGS: u32 = 13;
/// TCP flag SYN.
const SYN: u8 = 2;
/// TCP flags SYN and ACK.
const SYN_ACK: u8 = 0x12;
/// LOOPBACK_IFINDEX: `lo` of every network namespace.
const LOOPBACK: u32 = 1;
/// NF_CT_STATE_BIT(IP_CT_RELATED)
const RELATED: u32 = 4;
/// IPS_SEEN_REPLY
const SEEN_REPLY: u32 = 2;
/// IPS_CONFIRMED, from the last hook of the first packet on
const CONFIRMED: u32 = 8;
/// IPS_DST_NAT_DONE: connection tracking has settled the destination, be it as it was
const DESTINATION_SETTLED: u32 = 1 << 8;
/// IP_CT_DIR_ORIGINAL
const ORIGINAL: u8 = 0;
/// IP_CT_DIR_REPLY
const REPLY: u8 = 1;
/// NF_NAT_RANGE_PROTO_RANDOM_FULLY
const FULLY_RANDOM: u32 = 0x10;
/// ICMP_PROT_UNREACH
const ICMP_PROT_UNREACH: u8 = 2;
/// ICMP_FRAG_NEEDED
const ICMP_FRAG_NEEDED: u8 = 4;
/// Offsets of the operation in a message of ARP, and of the address that it asks for, as they are for Ethernet and IPv4
/// (RFC 826).
const ARP_OPERATION: u32 = 6;
const ARP_TARGET: u32 = 24;
/// ARPOP_REQUEST
const ARP_REQUEST: u16 = 1;
/// IFNAMSIZ
const INTERFACE_NAME: usize = 16;
/// First 4-byte register, the same as register 1.
const FIRST: u32 = libc::NFT_REG32_00 as u32;

/// One expression; names and numbers are those of include/uapi/linux/netfilter/nf_tables.h.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    Meta { key: i32, into: u32 },
    SetMeta { key: i32 },
    Ct { key: i32, direction: Option<u8>, into: u32 },
    Payload { base: i32, offset: u32, len: u32, into: u32 },
    Bitwise { mask: Vec<u8>, xor: Vec<u8> },
    Compare { op: i32, data: Vec<u8> },
    Load { data: Vec<u8>, into: u32 },
    Lookup { set: SetId, inverted: bool },
    MapLookup { map: SetId },
    Verdict { code: i32, chain: Option<&'static str> },
    Reject { kind: i32, code: u8 },
    Masquerade { flags: u32 },
    DestinationNat { family: IpFamily },
    Remember { set: SetId },
}

/// The expressions of a rule, in order.
pub(crate) fn lower(rule: &RuleSpec) -> Vec<Expr> {
    rule.statements.iter().flat_map(lower_statement).collect()
}

fn lower_statement(statement: &Statement) -> Vec<Expr> {
    match statement {
        Statement::Family(family) => meta_is(libc::NFT_META_NFPROTO, libc::NFT_CMP_EQ, nfproto(*family)),
        Statement::Protocol(number) => meta_is(libc::NFT_META_L4PROTO, libc::NFT_CMP_EQ, *number),
        Statement::Reply => vec![ct(libc::NFT_CT_DIRECTION, None, FIRST), equal(vec![REPLY])],
        Statement::Original => vec![ct(libc::NFT_CT_DIRECTION, None, FIRST), equal(vec![ORIGINAL])],
        Statement::NoRequest => {
            vec![transport_byte(TCP_FLAGS), and(vec![SYN_ACK]), unequal(vec![SYN])]
        }
        Statement::SoftError(family, error) => soft_error(*family, *error),
        Statement::NewOrUntracked => ct_has(libc::NFT_CT_STATE, NEW_OR_UNTRACKED),
        Statement::Established => ct_has(libc::NFT_CT_STATE, ESTABLISHED),
        Statement::Resent => resent(),
        Statement::Invalid => ct_has(libc::NFT_CT_STATE, INVALID),
        // The rule ends where there is no socket whose owner could be loaded.
        Statement::HasSocket => {
            vec![meta(libc::NFT_META_SKUID, FIRST), Expr::Compare { op: libc::NFT_CMP_GTE, data: vec![0; 4] }]
        }
        Statement::ToLoopback => {
            vec![meta(libc::NFT_META_OIF, FIRST), equal(LOOPBACK.to_ne_bytes().into())]
        }
        Statement::InvalidOrUntracked => ct_has(libc::NFT_CT_STATE, INVALID | UNTRACKED),
        Statement::Related => ct_has(libc::NFT_CT_STATE, RELATED),
        Statement::SeenReply => ct_has(libc::NFT_CT_STATUS, SEEN_REPLY),
        Statement::ConnectionNot(number) => {
            vec![ct(libc::NFT_CT_PROTOCOL, None, FIRST), unequal(vec![*number])]
        }
        Statement::ClientIn(net) => client_prefix(*net, equal),
        Statement::ClientNotIn(net) => client_prefix(*net, unequal),
        Statement::From(interface) => came_from(interface, equal),
        Statement::NotFrom(interface) => came_from(interface, unequal),
        Statement::Marked(bit) => {
            let bit = 1_u32 << bit;
            mark_is(bit, bit)
        }
        Statement::MarkIn(range) => mark_is(range.mask(), range.value()),
        Statement::MapMark(selector, map) => map_mark(*selector, *map),
        Statement::ZeroMark => {
            let zero = Expr::Load { data: vec![0; 4], into: libc::NFT_REG_1 as u32 };
            vec![zero, Expr::SetMeta { key: libc::NFT_META_MARK }]
        }
        Statement::SetMark(bit) => change_mark(!(1 << bit), 1 << bit),
        Statement::ClearMark(bit) => change_mark(!(1 << bit), 0),
        Statement::ArpRequest => arp_request(),
        Statement::In(selector, set) => lookup(*selector, *set, false),
        Statement::NotIn(selector, set) => lookup(*selector, *set, true),
        Statement::Remember(set) => remember(*set),
        Statement::KeepDestination(family) => keep_destination(*family),
        Statement::Masquerade => vec![Expr::Masquerade { flags: FULLY_RANDOM }],
        Statement::RejectReset => vec![Expr::Reject { kind: libc::NFT_REJECT_TCP_RST, code: 0 }],
        Statement::RejectPort => {
            let code = libc::NFT_REJECT_ICMPX_PORT_UNREACH as u8;
            vec![Expr::Reject { kind: libc::NFT_REJECT_ICMPX_UNREACH, code }]
        }
        Statement::RejectProtocol => {
            vec![Expr::Reject { kind: libc::NFT_REJECT_ICMP_UNREACH, code: ICMP_PROT_UNREACH }]
        }
        Statement::Accept => vec![Expr::Verdict { code: libc::NF_ACCEPT, chain: None }],
        Statement::Drop => vec![Expr::Verdict { code: libc::NF_DROP, chain: None }],
        Statement::Jump(chain) => vec![Expr::Verdict { code: libc::NFT_JUMP, chain: Some(*chain) }],
        Statement::Goto(chain) => vec![Expr::Verdict { code: libc::NFT_GOTO, chain: Some(*chain) }],
    }
}

fn keep_destination(family: IpFamily) -> Vec<Expr> {
    let mut exprs = load(Selector::Destination, family);
    exprs.push(Expr::DestinationNat { family });
    exprs
}

fn lookup(selector: Selector, set: SetId, inverted: bool) -> Vec<Expr> {
    let mut exprs = load(selector, set.family);
    exprs.push(Expr::Lookup { set, inverted });
    exprs
}

/// Loads the fields of a selector side by side.
fn load(selector: Selector, family: IpFamily) -> Vec<Expr> {
    let mut load = Load { family, next: FIRST, exprs: vec![] };
    match selector {
        Selector::Destination => load.destination(),
        Selector::DestinationPort => load.destination_port(),
        Selector::OriginalDestinationPort => load.original_destination_port(),
        Selector::OriginalService => load.original_service(),
        Selector::OriginalClient => load.original_client(),
        Selector::DestinationPair => {
            load.destination();
            load.destination();
        }
        Selector::DestinationAndServer => {
            load.destination();
            load.server();
        }
        Selector::DestinationPortAndSource => {
            load.destination_port();
            load.source();
        }
        Selector::Sender => load.sender(),
        Selector::NodePort => {
            load.protocol();
            load.port(2);
        }
        Selector::OriginalNodePort => {
            load.protocol();
            load.original(libc::NFT_CT_PROTO_DST, 2);
        }
        Selector::OriginalNodeService => {
            load.original_protocol();
            load.original(libc::NFT_CT_PROTO_DST, 2);
        }
        Selector::OriginalDestination => load.original_destination(),
        Selector::ArpTarget => load.header(ARP_TARGET),
    }
    load.exprs
}

/// The destination as [`Selector::Sender`] finds it later, and [`Selector::DestinationPortAndSource`] where
/// the source is the same.
fn remember(set: SetId) -> Vec<Expr> {
    let mut load = Load { family: set.family, next: FIRST, exprs: vec![] };
    load.destination_port();
    load.destination();
    load.exprs.push(Expr::Remember { set });
    load.exprs
}

/// Loads fields side by side.
struct Load {
    family: IpFamily,
    /// Register of the next field.
    next: u32,
    exprs: Vec<Expr>,
}

impl Load {
    /// Register of a field of this many bytes.
    fn register(&mut self, bytes: u32) -> u32 {
        let register = self.next;
        self.next += bytes.div_ceil(4);
        register
    }

    fn address_len(&self) -> u32 {
        match self.family {
            IpFamily::V4 => 4,
            IpFamily::V6 => 16,
        }
    }

    fn destination(&mut self) {
        self.header(if self.family == IpFamily::V4 { 16 } else { 24 });
    }

    fn source(&mut self) {
        self.header(if self.family == IpFamily::V4 { 12 } else { 8 });
    }

    fn header(&mut self, offset: u32) {
        let len = self.address_len();
        let into = self.register(len);
        self.exprs.push(Expr::Payload { base: libc::NFT_PAYLOAD_NETWORK_HEADER, offset, len, into });
    }

    fn protocol(&mut self) {
        let into = self.register(1);
        self.exprs.push(meta(libc::NFT_META_L4PROTO, into));
    }

    fn destination_port(&mut self) {
        self.destination();
        self.protocol();
        self.port(2);
    }

    fn sender(&mut self) {
        self.source();
        self.protocol();
        self.port(0);
        self.source();
    }

    /// The same offsets in TCP, UDP and SCTP.
    fn port(&mut self, offset: u32) {
        let into = self.register(2);
        let base = libc::NFT_PAYLOAD_TRANSPORT_HEADER;
        self.exprs.push(Expr::Payload { base, offset, len: 2, into });
    }

    fn original_destination_port(&mut self) {
        self.original_destination();
        self.protocol();
        self.original(libc::NFT_CT_PROTO_DST, 2);
    }

    fn original_service(&mut self) {
        self.original_destination();
        self.original_protocol();
        self.original(libc::NFT_CT_PROTO_DST, 2);
    }

    fn original_protocol(&mut self) {
        let into = self.register(1);
        self.exprs.push(ct(libc::NFT_CT_PROTOCOL, None, into));
    }

    fn original_destination(&mut self) {
        let key = if self.family == IpFamily::V4 { libc::NFT_CT_DST_IP } else { libc::NFT_CT_DST_IP6 };
        self.original(key, self.address_len());
    }

    fn original_client(&mut self) {
        self.original(source_key(self.family), self.address_len());
    }

    fn server(&mut self) {
        let into = self.register(self.address_len());
        self.exprs.push(ct(source_key(self.family), Some(REPLY), into));
    }

    fn original(&mut self, key: i32, len: u32) {
        let into = self.register(len);
        self.exprs.push(ct(key, Some(ORIGINAL), into));
    }
}

/// Status of a connection whose destination is settled, and whose first packet has not left yet.
fn resent() -> Vec<Expr> {
    let bits = CONFIRMED | DESTINATION_SETTLED;
    let status = ct(libc::NFT_CT_STATUS, None, FIRST);
    vec![status, and(bits.to_ne_bytes().into()), equal(DESTINATION_SETTLED.to_ne_bytes().into())]
}

/// Tests that a word of the connection has one of these bits.
fn ct_has(key: i32, bits: u32) -> Vec<Expr> {
    vec![ct(key, None, FIRST), and(bits.to_ne_bytes().into()), unequal(vec![0; 4])]
}

/// Numbers of include/uapi/linux/icmp.h and icmpv6.h; all errors have type and code in their first two bytes.
fn soft_error(family: IpFamily, error: SoftError) -> Vec<Expr> {
    let (protocol, kind, hard): (u8, u8, &[u8]) = match (family, error) {
        (IpFamily::V4, SoftError::Unreachable) => (ICMP, 3, &[ICMP_PROT_UNREACH, ICMP_FRAG_NEEDED]),
        (IpFamily::V4, SoftError::TimeExceeded) => (ICMP, 11, &[]),
        (IpFamily::V6, SoftError::Unreachable) => (ICMPV6, 1, &[]),
        (IpFamily::V6, SoftError::TimeExceeded) => (ICMPV6, 3, &[]),
    };
    let mut exprs = meta_is(libc::NFT_META_L4PROTO, libc::NFT_CMP_EQ, protocol);
    exprs.extend([transport_byte(0), equal(vec![kind])]);
    exprs.extend(hard.iter().flat_map(|code| [transport_byte(1), unequal(vec![*code])]));
    exprs
}

const fn transport_byte(offset: u32) -> Expr {
    Expr::Payload { base: libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset, len: 1, into: FIRST }
}

const fn network_bytes(offset: u32, len: u32) -> Expr {
    Expr::Payload { base: libc::NFT_PAYLOAD_NETWORK_HEADER, offset, len, into: FIRST }
}

fn arp_request() -> Vec<Expr> {
    vec![network_bytes(ARP_OPERATION, 2), equal(ARP_REQUEST.to_be_bytes().into())]
}

fn client_prefix(net: IpNetwork, compare: fn(Vec<u8>) -> Expr) -> Vec<Expr> {
    let octets = |addr| match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    vec![
        ct(source_key(IpFamily::of(net.ip())), Some(ORIGINAL), FIRST),
        and(octets(net.mask())),
        compare(octets(net.network())),
    ]
}

const fn source_key(family: IpFamily) -> i32 {
    match family {
        IpFamily::V4 => libc::NFT_CT_SRC_IP,
        IpFamily::V6 => libc::NFT_CT_SRC_IP6,
    }
}

fn came_from(interface: &Interface, compare: fn(Vec<u8>) -> Expr) -> Vec<Expr> {
    vec![meta(libc::NFT_META_IIFNAME, FIRST), compare(interface_pattern(interface))]
}

/// A whole name is compared with its padding, a prefix without.
fn interface_pattern(interface: &Interface) -> Vec<u8> {
    match interface {
        Interface::Prefix(prefix) => prefix.as_bytes().to_vec(),
        Interface::Name(name) => {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(INTERFACE_NAME, 0);
            bytes
        }
    }
}

fn meta_is(key: i32, op: i32, value: u8) -> Vec<Expr> {
    vec![meta(key, FIRST), Expr::Compare { op, data: vec![value] }]
}

/// Tests that the bits of a mask have a value.
fn mark_is(mask: u32, value: u32) -> Vec<Expr> {
    vec![mark(), and(mask.to_ne_bytes().into()), equal(value.to_ne_bytes().into())]
}

fn map_mark(selector: Selector, map: SetId) -> Vec<Expr> {
    let mut exprs = load(selector, map.family);
    exprs.extend([Expr::MapLookup { map }, Expr::SetMeta { key: libc::NFT_META_MARK }]);
    exprs
}

fn change_mark(mask: u32, xor: u32) -> Vec<Expr> {
    let change = Expr::Bitwise { mask: mask.to_ne_bytes().into(), xor: xor.to_ne_bytes().into() };
    vec![mark(), change, Expr::SetMeta { key: libc::NFT_META_MARK }]
}

fn mark() -> Expr {
    meta(libc::NFT_META_MARK, FIRST)
}

fn and(mask: Vec<u8>) -> Expr {
    Expr::Bitwise { xor: vec![0; mask.len()], mask }
}

fn equal(data: Vec<u8>) -> Expr {
    Expr::Compare { op: libc::NFT_CMP_EQ, data }
}

fn unequal(data: Vec<u8>) -> Expr {
    Expr::Compare { op: libc::NFT_CMP_NEQ, data }
}

const fn meta(key: i32, into: u32) -> Expr {
    Expr::Meta { key, into }
}

const fn ct(key: i32, direction: Option<u8>, into: u32) -> Expr {
    Expr::Ct { key, direction, into }
}

pub(crate) const fn nfproto(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => libc::NFPROTO_IPV4 as u8,
        IpFamily::V6 => libc::NFPROTO_IPV6 as u8,
    }
}
