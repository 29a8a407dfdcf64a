//! Addresses as `union nf_inet_addr`: 16 bytes, an IPv4 address in the first four.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_types::IpFamily;

pub(super) const fn address_family(family: IpFamily) -> u16 {
    match family {
        IpFamily::V4 => libc::AF_INET as u16,
        IpFamily::V6 => libc::AF_INET6 as u16,
    }
}

pub(super) fn parse_family(number: u16) -> Option<IpFamily> {
    IpFamily::ALL.into_iter().find(|family| address_family(*family) == number)
}

pub(super) fn encode_address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(super) fn parse_address(bytes: &[u8], family: IpFamily) -> Option<IpAddr> {
    Some(match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
    })
}
