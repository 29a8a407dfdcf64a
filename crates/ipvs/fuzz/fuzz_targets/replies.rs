//! Any datagram is read without a panic, and what was read can be written and read again.
//!
//! ```sh
//! cargo install cargo-fuzz
//! cd crates/ipvs && RUSTC_BOOTSTRAP=1 cargo fuzz run replies -- -max_total_time=60
//! ```
#![no_main]

use ipvs::codec::{
    Command, Destination, Service, ServiceKey, Stats, parse_daemon, parse_destination, parse_info,
    parse_service, parse_timeouts, uapi::svc_flag,
};
use lb_types::IpFamily;
use libfuzzer_sys::fuzz_target;
use netlink::{Message, Messages, Request};

fuzz_target!(|datagram: &[u8]| {
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
        if let Some(daemon) = parse_daemon(&message) {
            // An interface name that is not UTF-8 grows when it is made readable; the kernel's never are.
            if daemon.interface.len() < 16 {
                let request = Command::NewDaemon(&daemon).request(30);
                assert_eq!(parse_daemon(&first(&request)), Some(daemon));
            }
        }
        let _ = (parse_timeouts(&message), parse_info(&message), message.reply());
    }
});

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
