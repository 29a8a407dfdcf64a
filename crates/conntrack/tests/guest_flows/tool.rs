//! The table in the eyes of conntrack(8), which is not ours, and tracked connections put into it by hand.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use dataplane::contract::conntrack::Flow;
use lb_types::Protocol;
use netlink::{Batch, Buffers, MessageBuffer, Protocol as Netlink, RequestSocket, flags};
use testkit::run;

/// All tracked connections of TCP and UDP in the thread's network namespace.
pub fn flows() -> BTreeSet<Flow> {
    let listed = ["ipv4", "ipv6"].map(|family| run(&["conntrack", "-L", "-f", family]));
    listed.iter().flat_map(|text| text.lines()).filter_map(parse).collect()
}

/// `udp 17 29 src=.. dst=.. sport=.. dport=.. [UNREPLIED] src=.. dst=.. sport=.. dport=..`
fn parse(line: &str) -> Option<Flow> {
    let protocol = match line.split_whitespace().next()? {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let field = |name: &str, nth| {
        line.split_whitespace().filter_map(|word| word.strip_prefix(name)).nth(nth).map(str::to_owned)
    };
    let end = |addr, port, nth| {
        Some(SocketAddr::new(field(addr, nth)?.parse().ok()?, field(port, nth)?.parse().ok()?))
    };
    Some(Flow {
        protocol,
        client: end("src=", "sport=", 0)?,
        to: end("dst=", "dport=", 0)?,
        server: end("src=", "sport=", 1)?,
    })
}

/// Puts tracked connections into the table that nobody has made, thousands at a time.
pub fn insert<'a>(flows: impl IntoIterator<Item = &'a Flow>) {
    /// Message IPCTNL_MSG_CT_NEW of NFNL_SUBSYS_CTNETLINK.
    const NEW: u16 = 1 << 8;
    let mut batch = Batch::new();
    for flow in flows {
        batch.push(NEW, flags::CREATE | flags::EXCL, |message| {
            let family = if flow.to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            message.put(&[family as u8, 0, 0, 0]);
            put_tuple(message, 1, flow.protocol, [flow.client, flow.to]);
            put_tuple(message, 2, flow.protocol, [flow.server, flow.client]);
            message.attribute_u32_be(7, 600); // CTA_TIMEOUT
        });
    }
    let mut socket = RequestSocket::open(Netlink::NETFILTER, &Buffers::default()).expect("open");
    let outcome = socket.execute(&mut batch).expect("execute");
    assert!(outcome.failures.is_empty() && !outcome.replies_lost, "{outcome:?}");
}

/// CTA_TUPLE_IP and CTA_TUPLE_PROTO
fn put_tuple(message: &mut MessageBuffer, kind: u16, protocol: Protocol, ends: [SocketAddr; 2]) {
    message.nested(kind, |message| {
        message.nested(1, |message| {
            for (nth, end) in (0..).zip(ends) {
                match end.ip() {
                    IpAddr::V4(addr) => message.attribute(1 + nth, &addr.octets()),
                    IpAddr::V6(addr) => message.attribute(3 + nth, &addr.octets()),
                }
            }
        });
        message.nested(2, |message| {
            message.attribute_u8(1, protocol.number());
            message.attribute_u16_be(2, ends[0].port());
            message.attribute_u16_be(3, ends[1].port());
        });
    });
}
