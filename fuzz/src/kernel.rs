//! Messages from the kernel.

use ipvs::codec::{
    Command, Destination, Service, ServiceKey, Stats, parse_daemon, parse_destination, parse_info,
    parse_service, parse_timeouts, uapi::svc_flag,
};
use lb_types::IpFamily;
use netlink::{Message, Messages, Request};

/// Longest name of an interface, with the zero at its end (IFNAMSIZ).
const INTERFACE_NAME_BYTES: usize = 16;

/// Messages of IPVS: every value that is read can be written and read again.
pub(crate) fn ipvs(datagram: &[u8]) -> bool {
    let mut accepted = false;
    for message in Messages::new(datagram) {
        if let Some(service) = parse_service(&message) {
            check_service(&service);
            accepted = true;
        }
        for family in IpFamily::ALL {
            let key = ServiceKey::FwMark { family, mark: 1 };
            if let Some(destination) = parse_destination(&message, &key) {
                check_destination(&destination, &key);
                accepted = true;
            }
        }
        if let Some(daemon) = parse_daemon(&message) {
            // A name that is not UTF-8 grows when it is made readable; names from the kernel always are
            // UTF-8.
            if daemon.interface.len() < INTERFACE_NAME_BYTES {
                let request = Command::NewDaemon(&daemon).request(30);
                assert_eq!(parse_daemon(&first(&request)), Some(daemon));
            }
            accepted = true;
        }
        accepted |= parse_timeouts(&message).is_some() | parse_info(&message).is_some();
        accepted |= message.reply().is_some();
    }
    accepted
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

/// Messages of rtnetlink about links, addresses and routes.
pub(crate) fn rtnetlink(datagram: &[u8]) -> bool {
    vip::fuzzing::messages(datagram)
}

/// Messages of nf_tables about our table.
pub(crate) fn nft(datagram: &[u8]) -> bool {
    packet_rules::fuzzing::messages(datagram)
}

/// Messages of connection tracking.
pub(crate) fn conntrack(datagram: &[u8]) -> bool {
    conntrack::fuzzing::entries(datagram)
}
