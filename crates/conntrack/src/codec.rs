//! The kernel's interface (include/uapi/linux/netfilter/nfnetlink_conntrack.h): requests to bytes, and bytes
//! to tracked connections.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use lb_types::{ConntrackFilter, IpFamily, Protocol};
use netlink::{Attribute, Attributes, Batch, Message, MessageBuffer, Request};

/// Subsystem NFNL_SUBSYS_CTNETLINK, the upper byte of a message's type.
const SUBSYSTEM: u16 = 1 << 8;
/// Answer of the kernel (`IPCTNL_MSG_CT_NEW`).
const NEW: u16 = SUBSYSTEM;
/// Request for a dump (`IPCTNL_MSG_CT_GET`).
const GET: u16 = SUBSYSTEM | 1;
/// Request for a deletion (`IPCTNL_MSG_CT_DELETE`).
const DELETE: u16 = SUBSYSTEM | 2;

/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

/// CTA_*
mod attr {
    pub(super) const TUPLE_ORIG: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const ID: u16 = 12;
    pub(super) const ZONE: u16 = 18;
    pub(super) const FILTER: u16 = 25;
}

/// CTA_TUPLE_*
mod tuple {
    pub(super) const IP: u16 = 1;
    pub(super) const PROTO: u16 = 2;
}

/// CTA_IP_*
mod ip {
    pub(super) const V4_SRC: u16 = 1;
    pub(super) const V4_DST: u16 = 2;
    pub(super) const V6_SRC: u16 = 3;
    pub(super) const V6_DST: u16 = 4;
}

/// CTA_PROTO_*
mod proto {
    pub(super) const NUM: u16 = 1;
    pub(super) const SRC_PORT: u16 = 2;
    pub(super) const DST_PORT: u16 = 3;
}

/// CTA_FILTER_*, and the bits of the numbers in it (net/netfilter/nf_internals.h).
mod filter {
    pub(super) const ORIG_FLAGS: u16 = 1;
    pub(super) const REPLY_FLAGS: u16 = 2;
    pub(super) const IP_SRC: u32 = 1;
    pub(super) const IP_DST: u32 = 1 << 1;
    pub(super) const PROTO_NUM: u32 = 1 << 3;
    pub(super) const PROTO_SRC_PORT: u32 = 1 << 4;
    pub(super) const PROTO_DST_PORT: u32 = 1 << 5;
}

/// Ends that distinguish wanted tracked connections of a protocol from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Destination in the original direction.
    to: SocketAddr,
    /// Source in the reply direction.
    answers_from: SocketAddr,
}

impl Key {
    pub(crate) fn of(filter: &ConntrackFilter) -> Self {
        let service = filter.front.port;
        Key { to: SocketAddr::new(service.addr, service.port.get()), answers_from: filter.answers_from() }
    }
}

/// A tracked connection, as far as a deletion must name it; in the kernel's own bytes, which it takes back as
/// they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tracked {
    /// The tuple of the original direction as the kernel dumped it, source and destination.
    tuple: Vec<u8>,
    /// Zone; the same tuple may exist in several.
    zone: Option<[u8; 2]>,
    /// Number that distinguishes it from a later one of the same tuple.
    id: Option<[u8; 4]>,
}

/// Common ends of all wanted tracked connections: the kernel can leave others out of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Narrowing {
    protocol: Protocol,
    to: End,
    answers_from: End,
}

/// One end of all wanted tracked connections, as far as they share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    /// Shared address; never an IPv6 one, because kernels then leave out the equal ones instead of the
    /// others.
    addr: Option<[u8; 4]>,
    port: Option<u16>,
}

impl Narrowing {
    pub(crate) fn to(protocol: Protocol, wanted: &BTreeSet<Key>) -> Self {
        Narrowing {
            protocol,
            to: End::shared(wanted.iter().map(|key| key.to)),
            answers_from: End::shared(wanted.iter().map(|key| key.answers_from)),
        }
    }
}

impl End {
    fn shared(mut ends: impl Iterator<Item = SocketAddr>) -> Self {
        let mut shared = match ends.next() {
            Some(SocketAddr::V4(end)) => End { addr: Some(end.ip().octets()), port: Some(end.port()) },
            Some(SocketAddr::V6(end)) => End { addr: None, port: Some(end.port()) },
            None => End { addr: None, port: None },
        };
        for end in ends {
            let addr = match end {
                SocketAddr::V4(end) => Some(end.ip().octets()),
                SocketAddr::V6(_) => None,
            };
            shared.addr = shared.addr.filter(|shared| addr == Some(*shared));
            shared.port = shared.port.filter(|shared| end.port() == *shared);
        }
        shared
    }
}

/// Asks for a dump of all tracked connections of a family, or of those that a narrowing leaves.
pub(crate) fn dump_request(family: IpFamily, narrowing: Option<&Narrowing>) -> Request {
    Request::new(GET, |message| {
        put_header(message, family);
        if let Some(narrowing) = narrowing {
            put_narrowing(message, narrowing);
        }
    })
}

fn put_header(message: &mut MessageBuffer, family: IpFamily) {
    let family = match family {
        IpFamily::V4 => libc::AF_INET,
        IpFamily::V6 => libc::AF_INET6,
    };
    message.put(&[family as u8, 0, 0, 0]);
}

/// Appends both tuples with the fields that count, and the bits that say which these are. The protocol always
/// counts, because ports mean nothing without it.
fn put_narrowing(message: &mut MessageBuffer, narrowing: &Narrowing) {
    let Narrowing { protocol, to, answers_from } = narrowing;
    put_tuple(message, attr::TUPLE_ORIG, *protocol, (ip::V4_DST, to.addr), (proto::DST_PORT, to.port));
    let (source, port) = ((ip::V4_SRC, answers_from.addr), (proto::SRC_PORT, answers_from.port));
    put_tuple(message, attr::TUPLE_REPLY, *protocol, source, port);
    let flags = |end: &End, addr, port| {
        filter::PROTO_NUM | end.addr.map_or(0, |_| addr) | end.port.map_or(0, |_| port)
    };
    message.nested(attr::FILTER, |message| {
        let (orig, reply) = (
            flags(to, filter::IP_DST, filter::PROTO_DST_PORT),
            flags(answers_from, filter::IP_SRC, filter::PROTO_SRC_PORT),
        );
        message.attribute_u32(filter::ORIG_FLAGS, orig);
        message.attribute_u32(filter::REPLY_FLAGS, reply);
    });
}

fn put_tuple(
    message: &mut MessageBuffer,
    kind: u16,
    protocol: Protocol,
    (addr_kind, addr): (u16, Option<[u8; 4]>),
    (port_kind, port): (u16, Option<u16>),
) {
    message.nested(kind, |message| {
        if let Some(addr) = addr {
            message.nested(tuple::IP, |message| message.attribute(addr_kind, &addr));
        }
        message.nested(tuple::PROTO, |message| {
            message.attribute_u8(proto::NUM, protocol.number());
            if let Some(port) = port {
                message.attribute_u16_be(port_kind, port);
            }
        });
    });
}

/// Reads a tracked connection from a message of a dump, if it is a wanted one.
pub(crate) fn parse_tracked(
    message: &Message<'_>,
    protocol: Protocol,
    wanted: &BTreeSet<Key>,
) -> Option<Tracked> {
    if message.kind != NEW {
        return None;
    }
    let find = |kind| message.attributes(HEADER).find(|a| a.kind == kind);
    let (orig, reply) = (find(attr::TUPLE_ORIG)?, find(attr::TUPLE_REPLY)?);
    let (to, number) = parse_end(&orig, [ip::V4_DST, ip::V6_DST], proto::DST_PORT)?;
    let (answers_from, _) = parse_end(&reply, [ip::V4_SRC, ip::V6_SRC], proto::SRC_PORT)?;
    let is_wanted = number == protocol.number() && wanted.contains(&Key { to, answers_from });
    is_wanted.then(|| Tracked {
        tuple: orig.payload.to_vec(),
        zone: find(attr::ZONE).and_then(|a| a.payload.try_into().ok()),
        id: find(attr::ID).and_then(|a| a.payload.try_into().ok()),
    })
}

/// Reads one end of a tuple, and its protocol.
fn parse_end(tuple: &Attribute<'_>, [v4, v6]: [u16; 2], port: u16) -> Option<(SocketAddr, u8)> {
    let part = |kind| tuple.nested().find(|a| a.kind == kind);
    let addr = part(tuple::IP)?.nested().find_map(|a| match a.kind {
        kind if kind == v4 => Some(IpAddr::from(<[u8; 4]>::try_from(a.payload).ok()?)),
        kind if kind == v6 => Some(IpAddr::from(<[u8; 16]>::try_from(a.payload).ok()?)),
        _ => None,
    })?;
    let proto = part(tuple::PROTO)?;
    let number = find_in(proto.nested(), proto::NUM)?.u8()?;
    let port = find_in(proto.nested(), port)?.u16_be()?;
    Some((SocketAddr::new(addr, port), number))
}

fn find_in(mut attributes: Attributes<'_>, kind: u16) -> Option<Attribute<'_>> {
    attributes.find(|a| a.kind == kind)
}

/// Appends the deletion of one tracked connection, always with its tuple: a deletion without one is a flush.
pub(crate) fn push_delete(batch: &mut Batch, family: IpFamily, tracked: &Tracked) {
    batch.push(DELETE, 0, |message| {
        put_header(message, family);
        message.nested_bytes(attr::TUPLE_ORIG, &tracked.tuple);
        if let Some(zone) = tracked.zone {
            message.attribute(attr::ZONE, &zone);
        }
        if let Some(id) = tracked.id {
            message.attribute(attr::ID, &id);
        }
    });
}

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(test)]
mod tests;
