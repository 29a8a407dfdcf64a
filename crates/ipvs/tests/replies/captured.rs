//! Results of the parsers on replies captured from four kernels.

use std::net::IpAddr;

use ipvs::codec::{
    Daemon, DaemonState, Destination, DestinationKey, Service, ServiceKey, Timeouts, Tunnel, parse_daemon,
    parse_destination, parse_info, parse_service, parse_timeouts,
};
use lb_types::{IpFamily, Scheduler};
use netlink::{Message, Messages};

use crate::captures;

/// Calls `check` with each kernel's messages of that name, of which there must be `count`.
fn each(name: &str, count: usize, mut check: impl FnMut(&str, &[Message<'_>])) {
    let all = captures::all();
    for kernel in captures::KERNELS {
        let named: Vec<_> = all.iter().filter(|(n, _)| *n == format!("{kernel}/{name}")).collect();
        let messages: Vec<_> = named.iter().flat_map(|(_, bytes)| Messages::new(bytes)).collect();
        assert_eq!(messages.len(), count, "{kernel} {name}");
        check(kernel, &messages);
    }
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A service as the kernel shows it, with its own flag HASHED.
fn service(key: ServiceKey, scheduler: Scheduler) -> Service {
    Service { flags: 2, ..Service::new(key, scheduler) }
}

fn destination(text: &str, port: u16) -> Destination {
    Destination::new(DestinationKey { addr: addr(text), port })
}

fn check_service(name: &str, expected: Service) {
    each(&format!("service-{name}"), 1, |kernel, messages| {
        assert_eq!(parse_service(&messages[0]), Some(expected), "{kernel}");
    });
}

fn check_destinations(name: &str, key: ServiceKey, expected: &[Destination]) {
    each(&format!("destination-{name}"), expected.len(), |kernel, messages| {
        let parsed: Vec<_> = messages.iter().filter_map(|m| parse_destination(m, &key)).collect();
        assert_eq!(parsed, expected, "{kernel}");
    });
}

#[test]
fn plain_service_and_its_destinations_latest_first() {
    let key = ServiceKey::Address { addr: addr("10.96.0.1"), protocol: 6, port: 80 };
    check_service("plain", service(key, Scheduler::RR));
    let quiesced =
        Destination { weight: 0, upper_threshold: 20, lower_threshold: 10, ..destination("10.0.0.2", 8080) };
    check_destinations("plain", key, &[quiesced, destination("10.0.0.1", 8080)]);
}

#[test]
fn persistent_ipv6_service_with_flags() {
    let key = ServiceKey::Address { addr: addr("fd00:96::1"), protocol: 17, port: 53 };
    let expected = Service { flags: 0x1f, timeout: 10_800, netmask: 64, ..service(key, Scheduler::MH) };
    check_service("persistent-v6", expected);
    let direct = Destination { forwarding: 3, weight: 2, ..destination("fd00::1", 53) };
    check_destinations("persistent-v6", key, &[direct]);
}

#[test]
fn fwmark_service_with_a_tunnel_to_the_other_family() {
    let key = ServiceKey::FwMark { family: IpFamily::V4, mark: 7 };
    let expected = Service { flags: 3, timeout: 60, netmask: 0xffff_ff00, ..service(key, Scheduler::SH) };
    check_service("fwmark", expected);
    let tunnel = Tunnel { kind: 1, port: 6080, flags: 1 };
    let tunnel = Destination { forwarding: 2, weight: 3, tunnel, ..destination("fd00::2", 80) };
    check_destinations("fwmark", key, &[tunnel]);
}

#[test]
fn service_for_every_port() {
    let key = ServiceKey::Address { addr: addr("10.96.0.2"), protocol: 6, port: 0 };
    check_service("port-0", Service { flags: 3, timeout: 60, ..service(key, Scheduler::WRR) });
    check_destinations("port-0", key, &[destination("10.0.0.3", 0)]);
}

#[test]
fn statistics_of_two_connections() {
    each("service-busy", 1, |kernel, messages| {
        let stats = parse_service(&messages[0]).expect("a service").stats;
        assert_eq!(stats.connections, 2, "{kernel}");
        assert!((6..12).contains(&stats.packets_in) && (5..12).contains(&stats.packets_out), "{stats:?}");
        // Two handshakes, 5 bytes each, one close: headers of 52 bytes and more.
        assert!((330..700).contains(&stats.bytes_in) && (250..700).contains(&stats.bytes_out), "{stats:?}");
    });
    let key = ServiceKey::FwMark { family: IpFamily::V4, mark: 1 };
    each("destination-busy", 1, |kernel, messages| {
        let destination = parse_destination(&messages[0], &key).expect("a destination");
        assert_eq!((destination.active_connections, destination.inactive_connections), (1, 1), "{kernel}");
        assert_eq!(destination.stats.connections, 2);
    });
}

/// Kernels before 4.1 send only the 32-bit statistics.
#[test]
fn without_64_bit_statistics_the_others_are_taken() {
    for (name, bytes) in captures::all().iter().filter(|(name, _)| name.ends_with("/service-busy")) {
        let whole = parse_service(&Messages::new(bytes).next().expect("a message")).expect("a service");
        assert!(whole.stats.bytes_out > 0);
        for (hidden, shown) in [([12, 0], [10, 0]), ([10, 0], [12, 0])] {
            // Find the nest's header (its length, then its type) behind the fixed part and rename it.
            let mut bytes = bytes.clone();
            let lengths: [[u8; 2]; 2] = [[0x5c, 0], [0x7c, 0]];
            let at = (24..bytes.len() - 4)
                .step_by(4)
                .find(|at| {
                    bytes[at + 2..at + 4] == hidden && lengths.iter().any(|l| bytes[*at..at + 2] == *l)
                })
                .expect("a nest");
            bytes[at + 2] = 99;
            let halved = parse_service(&Messages::new(&bytes).next().expect("a message")).expect("a service");
            assert_eq!(halved.stats, whole.stats, "{name} without {hidden:?}, with {shown:?}");
        }
    }
}

#[test]
fn settings() {
    each("timeouts", 1, |kernel, messages| {
        let expected = Timeouts { tcp: 7200, tcp_fin: 120, udp: 300 };
        assert_eq!(parse_timeouts(&messages[0]), Some(expected), "{kernel}");
    });
    each("info", 1, |kernel, messages| {
        let info = parse_info(&messages[0]).expect("information");
        assert_eq!(info.version, 0x01_02_01, "{kernel}");
        assert!(info.connection_table_size == 0 || info.connection_table_size.is_power_of_two());
    });
    each("daemon", 1, |kernel, messages| {
        let expected = Daemon {
            state: DaemonState::Backup,
            interface: "lo".to_owned(),
            sync_id: 9,
            max_length: 1400,
            group: Some(addr("224.0.0.99")),
            port: 8849,
            ttl: 2,
        };
        assert_eq!(parse_daemon(&messages[0]), Some(expected), "{kernel}");
    });
}

#[test]
fn every_captured_message_is_whole() {
    for (name, bytes) in captures::all() {
        let message = Messages::new(&bytes).next().expect("a message");
        assert_eq!(message.payload.len() + 16, bytes.len(), "{name}");
    }
}
