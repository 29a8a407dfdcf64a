//! Exact bytes of every command, written out by hand from include/uapi/linux/ip_vs.h and linux/netlink.h.
//!
//! Little endian: numbers in host order have their low byte first. Ports, and masks of IPv4, are in network
//! order.
#![cfg(target_endian = "little")]

use std::net::IpAddr;

use ipvs::codec::{
    Command, Daemon, DaemonState, Destination, DestinationKey, Service, ServiceKey, Timeouts, Tunnel,
};
use lb_types::{IpFamily, Scheduler};

const FAMILY: u16 = 0x21;

/// Compares the message of a command with hexadecimal text; `;` starts a comment.
fn check(command: Command<'_>, expected: &str) {
    let digits: String = expected
        .lines()
        .flat_map(|line| line.split(';').next().unwrap_or_default().chars())
        .filter(|c| !c.is_whitespace())
        .collect();
    let expected: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex"))
        .collect();
    assert_eq!(command.request(FAMILY).as_bytes(), expected, "{command:?}");
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn v4_key() -> ServiceKey {
    ServiceKey::Address { addr: addr("10.96.0.10"), protocol: 6, port: 80 }
}

fn service(key: ServiceKey) -> Service {
    Service::new(key, Scheduler::RR)
}

fn destination(addr: IpAddr) -> Destination {
    Destination::new(DestinationKey { addr, port: 8080 })
}

#[test]
fn new_service_ipv4() {
    check(
        Command::NewService(&service(v4_key())),
        "68000000 2100 0100 00000000 00000000 ; nlmsghdr: 104 bytes, family, NLM_F_REQUEST, seq, pid
         01 01 0000                           ; genlmsghdr: IPVS_CMD_NEW_SERVICE, version 1
         5400 0180                            ; 84 bytes: IPVS_CMD_ATTR_SERVICE, nested
         0600 0100 0200 0000                  ; AF = AF_INET, padded
         0600 0200 0600 0000                  ; PROTOCOL = IPPROTO_TCP
         1400 0300 0a60000a 00000000 00000000 00000000 ; ADDR
         0600 0400 0050 0000                  ; PORT, network order
         0700 0600 727200 00                  ; SCHED_NAME = \"rr\\0\"
         0c00 0700 00000000 3d000000          ; FLAGS: none of the settable ones
         0800 0800 00000000                   ; TIMEOUT
         0800 0900 ffffffff                   ; NETMASK",
    );
}

#[test]
fn set_service_ipv6_with_everything() {
    let key = ServiceKey::Address { addr: addr("fd00:10::1"), protocol: 17, port: 53 };
    let mut engine = [0; 16];
    engine[..3].copy_from_slice(b"sip");
    let service = Service {
        scheduler: Scheduler::MH,
        flags: 0xffff_ffff, // only the settable ones are sent
        timeout: 10_800,
        netmask: 64,
        persistence_engine: Some(engine),
        ..service(key)
    };
    check(
        Command::SetService(&service),
        "70000000 2100 0100 00000000 00000000
         02 01 0000
         5c00 0180
         0600 0100 0a00 0000                  ; AF_INET6
         0600 0200 1100 0000                  ; UDP
         1400 0300 fd000010 00000000 00000000 00000001
         0600 0400 0035 0000
         0700 0600 6d6800 00                  ; \"mh\\0\"
         0800 0b00 73697000                   ; PE_NAME = \"sip\\0\"
         0c00 0700 3d000000 3d000000
         0800 0800 302a0000                   ; 10800
         0800 0900 40000000                   ; prefix length, host order",
    );
}

#[test]
fn ipv4_netmask_is_in_network_order() {
    let service = Service { netmask: 0xffff_ff00, flags: 1, timeout: 60, ..service(v4_key()) };
    check(
        Command::SetService(&service),
        "68000000 2100 0100 00000000 00000000 02 01 0000 5400 0180
         0600 0100 0200 0000 0600 0200 0600 0000 1400 0300 0a60000a 00000000 00000000 00000000
         0600 0400 0050 0000 0700 0600 727200 00 0c00 0700 01000000 3d000000 0800 0800 3c000000
         0800 0900 ffffff00",
    );
}

#[test]
fn commands_with_a_key_only() {
    let key = v4_key();
    let nest =
        "3000 0180 0600 0100 0200 0000 0600 0200 0600 0000 1400 0300 0a60000a 00000000 00000000 00000000
                0600 0400 0050 0000";
    for (command, number) in [
        (Command::DelService(&key), "03"),
        (Command::GetService(Some(&key)), "04"),
        (Command::GetDest(&key), "08"),
        (Command::Zero(Some(&key)), "10"),
    ] {
        check(command, &format!("44000000 2100 0100 00000000 00000000 {number} 01 0000 {nest}"));
    }
}

#[test]
fn fwmark_key_has_no_address() {
    let key = ServiceKey::FwMark { family: IpFamily::V6, mark: 0x1234 };
    check(
        Command::DelService(&key),
        "28000000 2100 0100 00000000 00000000
         03 01 0000
         1400 0180
         0600 0100 0a00 0000                  ; AF_INET6
         0800 0500 34120000                   ; FWMARK, host order",
    );
}

#[test]
fn new_dest_ipv4_of_fwmark_service() {
    let key = ServiceKey::FwMark { family: IpFamily::V4, mark: 7 };
    check(
        Command::NewDest(&key, &destination(addr("10.0.0.5"))),
        "70000000 2100 0100 00000000 00000000
         05 01 0000
         1400 0180 0600 0100 0200 0000 0800 0500 07000000
         4800 0280                            ; IPVS_CMD_ATTR_DEST
         0600 0b00 0200 0000                  ; ADDR_FAMILY = AF_INET
         1400 0100 0a000005 00000000 00000000 00000000 ; ADDR
         0600 0200 1f90 0000                  ; PORT 8080
         0800 0300 00000000                   ; FWD_METHOD = masq
         0800 0400 01000000                   ; WEIGHT
         0800 0500 00000000                   ; U_THRESH
         0800 0600 00000000                   ; L_THRESH",
    );
}

#[test]
fn set_dest_ipv6_with_tunnel_and_thresholds() {
    let key = ServiceKey::FwMark { family: IpFamily::V4, mark: 7 };
    let tunnel = Tunnel { kind: 1, port: 6080, flags: 1 };
    let destination = Destination {
        forwarding: 2,
        weight: 0x7fff_ffff,
        upper_threshold: 100,
        lower_threshold: 75,
        tunnel,
        ..destination(addr("fd00::5"))
    };
    check(
        Command::SetDest(&key, &destination),
        "88000000 2100 0100 00000000 00000000
         06 01 0000
         1400 0180 0600 0100 0200 0000 0800 0500 07000000
         6000 0280
         0600 0b00 0a00 0000
         1400 0100 fd000000 00000000 00000000 00000005
         0600 0200 1f90 0000
         0800 0300 02000000
         0800 0400 ffffff7f
         0800 0500 64000000
         0800 0600 4b000000
         0500 0d00 01 000000                  ; TUN_TYPE = GUE
         0600 0e00 17c0 0000                  ; TUN_PORT 6080, network order
         0600 0f00 0100 0000                  ; TUN_FLAGS, host order",
    );
}

#[test]
fn del_dest_has_both_keys() {
    let key = ServiceKey::FwMark { family: IpFamily::V4, mark: 7 };
    let destination = DestinationKey { addr: addr("10.0.0.5"), port: 8080 };
    check(
        Command::DelDest(&key, &destination),
        "50000000 2100 0100 00000000 00000000
         07 01 0000
         1400 0180 0600 0100 0200 0000 0800 0500 07000000
         2800 0280
         0600 0b00 0200 0000
         1400 0100 0a000005 00000000 00000000 00000000
         0600 0200 1f90 0000",
    );
}

#[test]
fn daemons() {
    let daemon = Daemon {
        state: DaemonState::Backup,
        interface: "eth0".to_owned(),
        sync_id: 9,
        max_length: 1400,
        group: Some(addr("224.0.0.99")),
        port: 8849,
        ttl: 2,
    };
    check(
        Command::NewDaemon(&daemon),
        "54000000 2100 0100 00000000 00000000
         09 01 0000
         4000 0380                            ; IPVS_CMD_ATTR_DAEMON
         0800 0100 02000000                   ; STATE = backup
         0900 0200 65746830 00 000000         ; MCAST_IFN = \"eth0\\0\"
         0800 0300 09000000                   ; SYNC_ID
         0600 0400 7805 0000                  ; SYNC_MAXLEN
         0800 0500 e0000063                   ; MCAST_GROUP
         0600 0700 9122 0000                  ; MCAST_PORT, host order
         0500 0800 02 000000                  ; MCAST_TTL",
    );
    check(
        Command::DelDaemon(DaemonState::Master),
        "20000000 2100 0100 00000000 00000000 0a 01 0000 0c00 0380 0800 0100 01000000",
    );
}

#[test]
fn configuration() {
    check(
        Command::SetConfig(&Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }),
        "2c000000 2100 0100 00000000 00000000
         0c 01 0000
         0800 0400 84030000 0800 0500 78000000 0800 0600 2c010000",
    );
}

#[test]
fn commands_without_arguments() {
    for (command, number) in [
        (Command::GetService(None), "04"),
        (Command::GetDaemon, "0b"),
        (Command::GetConfig, "0d"),
        (Command::GetInfo, "0f"),
        (Command::Zero(None), "10"),
        (Command::Flush, "11"),
    ] {
        check(command, &format!("14000000 2100 0100 00000000 00000000 {number} 01 0000"));
    }
}
