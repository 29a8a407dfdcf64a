//! Properties of the parsers on encoded messages, on damaged captures, and on rubbish.

use std::net::IpAddr;

use ipvs::codec::{
    Command, Daemon, DaemonState, Destination, DestinationKey, Service, ServiceKey, Stats, Timeouts, Tunnel,
    parse_daemon, parse_destination, parse_info, parse_service, parse_timeouts, uapi::svc_flag,
};
use lb_types::{IpFamily, Scheduler};
use netlink::{Attribute, Attributes, Message, Messages, Request};
use proptest::{collection::vec, option, prelude::*};

use crate::captures;

/// The only message in an encoded request.
fn message(request: &Request) -> Message<'_> {
    Messages::new(request.as_bytes()).next().expect("one message")
}

fn parse_everything(datagram: &[u8]) {
    for message in Messages::new(datagram) {
        if let Some(service) = parse_service(&message) {
            check_service(&service);
        }
        for family in IpFamily::ALL {
            let key = ServiceKey::FwMark { family, mark: 1 };
            if let Some(destination) = parse_destination(&message, &key) {
                check_destination(&destination, &key);
            }
        }
        let _ = (parse_daemon(&message), parse_timeouts(&message), parse_info(&message), message.reply());
    }
}

/// Checks that a parsed service can be encoded and parsed again.
fn check_service(service: &Service) {
    let request = Command::SetService(service).request(30);
    let expected = Service { flags: service.flags & svc_flag::SETTABLE, stats: Stats::default(), ..*service };
    assert_eq!(parse_service(&message(&request)), Some(expected));
}

fn check_destination(destination: &Destination, key: &ServiceKey) {
    let request = Command::SetDest(key, destination).request(30);
    assert_eq!(parse_destination(&message(&request), key), Some(destination.without_counters()));
}

fn any_family() -> impl Strategy<Value = IpFamily> {
    prop_oneof![Just(IpFamily::V4), Just(IpFamily::V6)]
}

fn any_key() -> impl Strategy<Value = ServiceKey> {
    prop_oneof![
        (any::<IpAddr>(), any::<u16>(), any::<u16>())
            .prop_map(|(addr, protocol, port)| ServiceKey::Address { addr, protocol, port }),
        (any_family(), any::<u32>()).prop_map(|(family, mark)| ServiceKey::FwMark { family, mark }),
    ]
}

fn any_service() -> impl Strategy<Value = Service> {
    (any_key(), "[a-z]{1,15}", any::<[u32; 3]>(), option::of("[a-z]{1,15}")).prop_map(
        |(key, scheduler, [flags, timeout, netmask], engine)| Service {
            key,
            scheduler: Scheduler::from_kernel(scheduler.as_bytes()).expect("a name"),
            flags,
            timeout,
            netmask,
            persistence_engine: engine.map(|name| {
                let mut bytes = [0; 16];
                bytes[..name.len()].copy_from_slice(name.as_bytes());
                bytes
            }),
            stats: Stats::default(),
        },
    )
}

fn any_destination() -> impl Strategy<Value = Destination> {
    (any::<IpAddr>(), any::<u16>(), any::<[u32; 7]>(), any::<(u8, u16, u16)>()).prop_map(
        |(addr, port, [forwarding, weight, upper, lower, active, inactive, persistent], tunnel)| {
            Destination {
                key: DestinationKey { addr, port },
                forwarding,
                weight,
                upper_threshold: upper,
                lower_threshold: lower,
                tunnel: Tunnel { kind: tunnel.0, port: tunnel.1, flags: tunnel.2 },
                active_connections: active,
                inactive_connections: inactive,
                persistent_connections: persistent,
                stats: Stats::default(),
            }
        },
    )
}

fn any_daemon() -> impl Strategy<Value = Daemon> {
    let state = prop_oneof![Just(DaemonState::Master), Just(DaemonState::Backup)];
    (state, "[a-z0-9]{0,15}", any::<u32>(), any::<(u16, u16, u8)>(), option::of(any::<IpAddr>())).prop_map(
        |(state, interface, sync_id, (max_length, port, ttl), group)| Daemon {
            state,
            interface,
            sync_id,
            max_length,
            group,
            port,
            ttl,
        },
    )
}

proptest! {
    #[test]
    fn services_survive_the_round_trip(service in any_service()) {
        check_service(&service);
    }

    #[test]
    fn destinations_survive_the_round_trip(destination in any_destination(), key in any_key()) {
        check_destination(&destination, &key);
    }

    #[test]
    fn daemons_survive_the_round_trip(daemon in any_daemon()) {
        let request = Command::NewDaemon(&daemon).request(30);
        prop_assert_eq!(parse_daemon(&message(&request)), Some(daemon));
    }

    #[test]
    fn timeouts_survive_the_round_trip(tcp: u32, tcp_fin: u32, udp: u32) {
        let timeouts = Timeouts { tcp, tcp_fin, udp };
        prop_assert_eq!(parse_timeouts(&message(&Command::SetConfig(&timeouts).request(30))), Some(timeouts));
    }

    #[test]
    fn rubbish_is_read_without_panic(bytes in vec(any::<u8>(), 0..600)) {
        parse_everything(&bytes);
    }

    #[test]
    fn rubbish_with_sound_headers_is_read_without_panic(
        attributes in vec((0u16..20, vec((0u16..20, vec(any::<u8>(), 0..24)), 0..16)), 0..4),
    ) {
        let request = Request::new(30, |message| {
            message.put(&[1, 1, 0, 0]);
            for (kind, inner) in &attributes {
                message.nested(*kind, |nest| {
                    for (kind, value) in inner {
                        nest.attribute(*kind, value);
                    }
                });
            }
        });
        parse_everything(request.as_bytes());
    }

    #[test]
    fn damaged_replies_are_read_without_panic(
        which in any::<prop::sample::Index>(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        end in any::<prop::sample::Index>(),
    ) {
        let all = captures::all();
        let mut bytes = which.get(&all).1.clone();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        parse_everything(&bytes);
    }
}

#[test]
fn unknown_attributes_are_skipped_and_short_ones_are_absent() {
    let attributes = |bytes: &[u8]| Attributes::new(bytes).collect::<Vec<Attribute<'_>>>().len();
    let key = ServiceKey::FwMark { family: IpFamily::V4, mark: 1 };
    let service = Service::new(key, Scheduler::RR);
    let request = Command::NewService(&service).request(30);
    let whole = message(&request).payload;
    assert_eq!(attributes(&whole[4..]), 1);
    let nest = &whole[8..];
    let mut extended = vec![8, 0, 0xff, 0x3f, 1, 2, 3, 4];
    extended.extend_from_slice(nest);
    if cfg!(target_endian = "little") {
        assert_eq!(Service::parse(Attributes::new(&extended)), Some(service));
        // The first attribute, AF, becomes one byte long.
        let mut short = nest.to_vec();
        short[0] = 5;
        assert_eq!(Service::parse(Attributes::new(&short)), None);
    }
    for end in 0..nest.len() {
        assert_eq!(Service::parse(Attributes::new(&nest[..end])), None, "{end}");
    }
}
