//! Any bytes, read as answers of rtnetlink and of the diagnosis of sockets.

use std::num::NonZeroU16;

use lb_types::{Protocol, VipPort};
use netlink::Messages;

use crate::{
    ROUTE_PROTOCOL,
    conflict::resolve,
    dump::{parse_address, parse_advertised_default, parse_link, parse_local_route},
    encode::RouteWrite,
    interest::Interest,
    sockets::is_listener,
};

/// Reads a datagram as a dump, as notifications, and as an answer about a socket; tells whether it made sense
/// as any.
pub fn messages(datagram: &[u8]) -> bool {
    let (mut interest, mut routes, mut understood) = (Interest::default(), Vec::new(), false);
    for message in Messages::new(datagram) {
        let link = parse_link(&message);
        let address = parse_address(&message);
        let route = parse_local_route(&message);
        let _default = parse_advertised_default(&message);
        understood |= link.is_some() || address.is_some() || route.is_some() || message.reply().is_some();
        if let Some(link) = &link {
            interest.note_link(link);
        }
        interest.judge(&message);
        let port = VipPort { addr: [10, 96, 0, 10].into(), protocol: Protocol::Tcp, port: NonZeroU16::MIN };
        let _ = is_listener(&message, port);
        routes.extend(route);
    }
    if let Some(first) = routes.first() {
        let link = first.link.unwrap_or(1);
        let rivals: Vec<_> =
            routes.iter().filter(|route| route.addr == first.addr && route.has_our_key()).copied().collect();
        let ours = rivals.iter().filter(|rival| rival.protocol == ROUTE_PROTOCOL).count();
        let writes = resolve(first.addr, None, link, &rivals).unwrap_or_default();
        let deletions = writes.iter().filter(|write| matches!(write, RouteWrite::Delete { .. })).count();
        assert!(deletions <= ours, "{writes:?} for {rivals:?}");
    }
    understood
}
