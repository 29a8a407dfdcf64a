//! Messages of the kernel.

use ipvs::codec::{
    Command, Destination, Service, ServiceKey, Stats, parse_daemon, parse_destination, parse_info,
    parse_service, parse_timeouts, uapi::svc_flag,
};
use lb_types::IpFamily;
use netlink::{Message, Messages, Request};

/// IFNAMSIZ: a name of an interface and the zero at its end.
const INTERFACE_NAME: usize = 16;

/// What IPVS says: what was read can be written and read again.
pub(crate) fn ipvs(datagram: &[u8]) -> bool {
    let mut understood = false;
    for message in Messages::new(datagram) {
        if let Some(service) = parse_service(&message) {
            check_service(&service);
            understood = true;
        }
        for family in IpFamily::ALL {
            let key = ServiceKey::FwMark { family, mark: 1 };
            if let Some(destination) = parse_destination(&message, &key) {
                check_destination(&destination, &key);
                understood = true;
            }
        }
        if let Some(daemon) = parse_daemon(&message) {
            // A name that is not UTF-8 grows when it is made readable; the kernel's never are.
            if daemon.interface.len() < INTERFACE_NAME {
                let request = Command::NewDaemon(&daemon).request(30);
                assert_eq!(parse_daemon(&first(&request)), Some(daemon));
            }
            understood = true;
        }
        understood |= parse_timeouts(&message).is_some() | parse_info(&message).is_some();
        understood |= message.reply().is_some();
    }
    understood
}

fn first(request: &Request) -> Message<'_> {
    Messages::new(request.as_bytes()).next().expect("one message")
}

fn check_service(service: &Service) {
    let flags = service.flags & svc_flag::SETTABLE;
    let expected = Service { flags, stats: Stats::default(), ..*service };
    assert_eq!(parse_service(&first(&Command::SetService(service).request(30))), Some(expected));
}

fn check_destination(destination: &Destination, key: &ServiceKey) {
    let request = Command::SetDest(key, destination).request(30);
    assert_eq!(parse_destination(&first(&request), key), Some(destination.without_counters()));
}

/// What rtnetlink says of links, addresses and routes.
pub(crate) fn rtnetlink(datagram: &[u8]) -> bool {
    vip::fuzzing::messages(datagram)
}

/// What nf_tables says of our table.
pub(crate) fn nft(datagram: &[u8]) -> bool {
    packet_rules::fuzzing::messages(datagram)
}

/// What connection tracking says.
pub(crate) fn conntrack(datagram: &[u8]) -> bool {
    conntrack::fuzzing::entries(datagram)
}
