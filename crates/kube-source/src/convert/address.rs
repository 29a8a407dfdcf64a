//! Addresses and prefixes, parsed as Kubernetes does.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use lb_types::canonical_prefix;

/// Parses an address. Octets of an IPv4 address with leading zeros are decimal (`ParseIPSloppy` in
/// k8s.io/utils/net/parse.go), and an IPv4 address in IPv6 notation becomes that IPv4 address, as in Go.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    parse_as_written(text).map(|ip| ip.to_canonical())
}

fn parse_as_written(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().or_else(|| parse_ipv4_with_zeros(text))
}

fn parse_ipv4_with_zeros(text: &str) -> Option<IpAddr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

/// Parses a prefix and clears its host bits; the length is required (`ParseCIDRSloppy` in
/// k8s.io/utils/net/parse.go).
pub(crate) fn parse_cidr(text: &str) -> Option<IpNetwork> {
    let (addr, length) = text.split_once('/')?;
    if !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    IpNetwork::new(parse_as_written(addr)?, length.parse().ok()?).ok().map(canonical_prefix)
}

/// Reason why an address can be neither a VIP nor an endpoint, if there is one (`ValidateNonSpecialIP` in
/// pkg/apis/core/validation/validation.go, which does not mention multicast).
pub(crate) fn special(ip: IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_unspecified() {
        Some("the unspecified address")
    } else if ip.is_loopback() {
        Some("a loopback address")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else if link_local {
        Some("a link-local address")
    } else if ip == Ipv4Addr::BROADCAST {
        Some("the broadcast address")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_cidr, parse_ip, special};

    #[test]
    fn addresses() {
        for (text, expect) in [
            ("10.96.0.1", Some("10.96.0.1")),
            ("010.096.000.001", Some("10.96.0.1")),
            ("0000010.1.1.1", Some("10.1.1.1")),
            ("fd00:96::1", Some("fd00:96::1")),
            ("FD00:0096:0::1", Some("fd00:96::1")),
            ("::ffff:10.96.0.1", Some("10.96.0.1")),
            ("10.96.0", None),
            ("10.96.0.1.2", None),
            ("10.96.0.256", None),
            ("10.96.0.-1", None),
            ("10.96.0.+1", None),
            ("10.96.0. 1", None),
            (" 10.96.0.1", None),
            ("10.96..1", None),
            ("fe80::1%eth0", None),
            ("fd00::1::2", None),
            ("web", None),
            ("", None),
        ] {
            assert_eq!(parse_ip(text).map(|ip| ip.to_string()).as_deref(), expect, "{text:?}");
        }
    }

    #[test]
    fn prefixes() {
        for (text, expect) in [
            ("10.244.0.0/24", Some("10.244.0.0/24")),
            ("10.244.0.7/24", Some("10.244.0.0/24")),
            ("010.244.0.0/24", Some("10.244.0.0/24")),
            ("fd00:244::7/64", Some("fd00:244::/64")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("::ffff:10.244.0.7/120", Some("10.244.0.0/24")),
            ("::ffff:10.244.0.7/24", Some("::/24")),
            ("10.244.0.0", None),
            ("10.244.0.0/", None),
            ("10.244.0.0/33", None),
            ("10.244.0.0/+8", None),
            ("10.244.0.0/255.255.0.0", None),
            ("fd00::/129", None),
        ] {
            assert_eq!(parse_cidr(text).map(|net| net.to_string()).as_deref(), expect, "{text:?}");
        }
    }

    #[test]
    fn special_addresses() {
        for (text, is_special) in [
            ("0.0.0.0", true),
            ("::", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("224.0.0.1", true),
            ("239.1.2.3", true),
            ("ff02::1", true),
            ("ff0e::1", true),
            ("169.254.20.10", true),
            ("fe80::1", true),
            ("255.255.255.255", true),
            ("10.0.0.1", false),
            ("192.168.0.255", false),
            ("100.64.0.1", false),
            ("fd00::1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(parse_ip(text).and_then(special).is_some(), is_special, "{text}");
        }
    }
}
