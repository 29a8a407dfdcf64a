use lb_types::Scheduler;

use super::*;

fn vs(addr: &str, protocol: Protocol) -> VirtualServerId {
    let port = 80.try_into().unwrap();
    VipPort { addr: addr.parse().unwrap(), protocol, port }.into()
}

fn mark(family: IpFamily) -> VirtualServerId {
    VirtualServerId::FwMark { family, mark: 0x1000.try_into().unwrap() }
}

fn persistent(seconds: u32, prefix_length: u8) -> VirtualServer {
    let persistence = Persistence { timeout_seconds: seconds.try_into().unwrap(), prefix_length };
    VirtualServer { persistence: Some(persistence), ..VirtualServer::new(Scheduler::RR) }
}

/// Desired settings, their flags and netmask in the kernel's words, and back.
/// Conformance: ipvs/util Test_toVirtualServer...
#[test]
fn virtual_servers_there_and_back() {
    let plain = VirtualServer::new(Scheduler::RR);
    let flags = |bits| VirtualServer { scheduler_flags: SchedulerFlags::from_bits(bits), ..plain };
    let v4 = vs("10.96.0.1", Protocol::Tcp);
    let v6 = vs("fd00::1", Protocol::Sctp);
    let table: [(VirtualServerId, VirtualServer, u32, u32, u32); 12] = [
        (v4, plain, 0, 0, 0xffff_ffff),
        (v6, plain, 0, 0, 128),
        (mark(IpFamily::V4), plain, 0, 0, 0xffff_ffff),
        (mark(IpFamily::V6), plain, 0, 0, 128),
        (v4, flags(1), 8, 0, 0xffff_ffff),
        (v4, flags(7), 0x38, 0, 0xffff_ffff),
        (vs("10.96.0.1", Protocol::Udp), VirtualServer { one_packet: true, ..plain }, 4, 0, 0xffff_ffff),
        (v4, persistent(10_800, 32), 1, 10_800, 0xffff_ffff),
        (v4, persistent(60, 24), 1, 60, 0xffff_ff00),
        (v4, persistent(60, 0), 1, 60, 0),
        (v6, persistent(60, 64), 1, 60, 64),
        (v6, persistent(60, 0), 1, 60, 0), // for the kernel to refuse
    ];
    for (vs, settings, flags, timeout, netmask) in table {
        let service = service(vs, &settings).unwrap();
        assert_eq!((service.flags, service.timeout, service.netmask), (flags, timeout, netmask), "{vs}");
        let observed = Service { flags: flags | 2, ..service };
        assert_eq!(virtual_server(&observed), Some((vs, settings)));
    }
}

#[test]
fn a_prefix_that_ipv4_does_not_have_cannot_be_encoded() {
    assert_eq!(service(vs("10.96.0.1", Protocol::Tcp), &persistent(60, 33)), None);
    assert_eq!(service(vs("fd00::1", Protocol::Tcp), &persistent(60, 129)).unwrap().netmask, 129);
}

#[test]
fn inexpressible_settings_equal_nothing_desired() {
    let vs = vs("10.96.0.1", Protocol::Tcp);
    let service = service(vs, &persistent(60, 32)).unwrap();
    let odd_mask = virtual_server(&Service { netmask: 0xff00_ff00, ..service }).unwrap().1;
    assert_eq!(odd_mask.persistence.unwrap().prefix_length, NOT_A_PREFIX);
    assert_eq!(super::service(vs, &odd_mask), None);
    let no_timeout = virtual_server(&Service { timeout: 0, ..service }).unwrap().1;
    assert_eq!(no_timeout.persistence.unwrap().timeout_seconds, NonZeroU32::MAX);
}

#[test]
fn foreign_keys_are_nobodys() {
    let addr = "10.96.0.1".parse().unwrap();
    for key in [
        ServiceKey::Address { addr, protocol: 6, port: 0 },
        ServiceKey::Address { addr, protocol: 1, port: 80 },
        ServiceKey::Address { addr, protocol: 262, port: 80 },
        ServiceKey::FwMark { family: IpFamily::V4, mark: 0 },
    ] {
        assert_eq!(virtual_server_id(&key), None, "{key:?}");
    }
}

/// Conformance: ipvs/util Test_toVirtualServer...
#[test]
fn real_servers_there_and_back() {
    let methods = [
        (ForwardingMethod::Masquerade, 0),
        (ForwardingMethod::Local, 1),
        (ForwardingMethod::Tunnel, 2),
        (ForwardingMethod::DirectRoute, 3),
    ];
    for (forwarding, number) in methods {
        let rs = RealServerId { addr: "10.0.0.1".parse().unwrap(), port: 8080.try_into().unwrap() };
        let settings = RealServer { weight: Weight(7), forwarding, upper_threshold: 5, lower_threshold: 3 };
        let sent = destination(rs, &settings);
        assert_eq!(sent.forwarding, number);
        let stats =
            Stats { connections: 1, packets_in: 2, packets_out: 3, bytes_in: 4, bytes_out: 5, ..sent.stats };
        let received = Destination { active_connections: 8, inactive_connections: 9, stats, ..sent };
        let observed = real_server(&received).unwrap();
        assert_eq!((observed.id, observed.settings), (rs, settings));
        assert_eq!((observed.connections.active, observed.connections.inactive), (8, 9));
        let t = observed.traffic;
        assert_eq!([t.connections, t.packets_in, t.packets_out, t.bytes_in, t.bytes_out], [1, 2, 3, 4, 5]);
        let portless = DestinationKey { port: 0, ..received.key };
        assert!(real_server(&Destination { key: portless, ..received }).is_none());
    }
}

#[test]
fn traffic_of_virtual_servers_is_that_of_their_key() {
    let v4 = vs("10.96.0.1", Protocol::Tcp);
    let stats = Stats {
        connections: 1,
        packets_in: 2,
        packets_out: 3,
        bytes_in: 1 << 40,
        bytes_out: 5,
        ..Stats::ZERO
    };
    let sent = service(v4, &VirtualServer::new(Scheduler::RR)).unwrap();
    let (key, traffic) = virtual_server_traffic(&Service { stats, ..sent }).unwrap();
    assert_eq!((key, traffic.connections, traffic.packets_in, traffic.packets_out), (v4, 1, 2, 3));
    assert_eq!((traffic.bytes_in, traffic.bytes_out), (1 << 40, 5));
    let foreign = ServiceKey::Address { addr: [10, 96, 0, 1].into(), protocol: 6, port: 0 };
    assert!(virtual_server_traffic(&Service { key: foreign, ..sent }).is_none());
}
