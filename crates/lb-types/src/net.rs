//! Families, transport protocols and the (address, protocol, port) triple.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
};

use ipnetwork::IpNetwork;

use crate::words;

words! {
    /// IPv4 or IPv6; we always treat them in this order.
    IpFamily {
        /// IPv4
        V4 = "IPv4",
        /// IPv6
        V6 = "IPv6",
    }
}

impl IpFamily {
    /// Family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => IpFamily::V4,
            IpAddr::V6(_) => IpFamily::V6,
        }
    }

    /// Prefix length of a single host: 32 or 128.
    pub const fn host_prefix(self) -> u8 {
        match self {
            IpFamily::V4 => 32,
            IpFamily::V6 => 128,
        }
    }

    /// The all-zero address of the family.
    pub const fn unspecified(self) -> IpAddr {
        match self {
            IpFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// Prefix without host bits. One of IPv4 addresses in IPv6 notation becomes that of the IPv4 addresses, which are what
/// packets and objects have; to Go's `ParseCIDR` they are the same, too.
pub fn canonical_prefix(prefix: IpNetwork) -> IpNetwork {
    /// Bits before the IPv4 address.
    const MAPPED: u8 = 96;
    let (network, length) = (prefix.network(), prefix.prefix());
    let canonical = match network.to_canonical() {
        addr if addr.is_ipv4() && network.is_ipv6() => IpNetwork::new(addr, length.saturating_sub(MAPPED)),
        _ => IpNetwork::new(network, length),
    };
    canonical.unwrap_or(prefix)
}

words! {
    /// Transport protocol of a Service port, as the Kubernetes API spells it.
    Protocol {
        /// TCP
        Tcp = "TCP",
        /// UDP
        Udp = "UDP",
        /// SCTP
        Sctp = "SCTP",
    }
    /// A protocol name that no Service can have.
    UnknownProtocol = "unknown protocol {0:?}: expected TCP, UDP or SCTP"
}

impl Protocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// Inverse of [`Protocol::number`].
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            132 => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// Place where clients of a Service port connect to: a VIP, a protocol and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipPort {
    /// The VIP.
    pub addr: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port; never 0.
    pub port: NonZeroU16,
}

impl Hash for VipPort {
    /// Hashes all fields as one number or two, because every virtual server is looked up several times.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let rest = u32::from(self.port.get()) | u32::from(self.protocol.number()) << 16;
        hash_with_addr(&self.addr, rest, state);
    }
}

impl PartialOrd for VipPort {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for VipPort {
    /// Compares address, then protocol, then port.
    fn cmp(&self, other: &Self) -> Ordering {
        let rest = || (self.protocol, self.port).cmp(&(other.protocol, other.port));
        cmp_addr(&self.addr, &other.addr).then_with(rest)
    }
}

/// Hashes an address, and whatever else is in a key, as one number or two: field by field takes twice the
/// time.
#[inline]
pub(crate) fn hash_with_addr<H: Hasher>(addr: &IpAddr, rest: u32, state: &mut H) {
    match addr {
        IpAddr::V4(addr) => state.write_u64(u64::from(addr.to_bits()) << 32 | u64::from(rest)),
        IpAddr::V6(addr) => {
            state.write_u128(addr.to_bits());
            state.write_u32(rest);
        }
    }
}

/// Compares addresses in the order of [`IpAddr`], but as numbers: the standard library compares bytes by a
/// call of `memcmp`, and all tables here are ordered by addresses.
#[inline]
pub(crate) fn cmp_addr(one: &IpAddr, other: &IpAddr) -> Ordering {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one.to_bits().cmp(&other.to_bits()),
        (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits().cmp(&other.to_bits()),
        (IpAddr::V4(_), IpAddr::V6(_)) => Ordering::Less,
        (IpAddr::V6(_), IpAddr::V4(_)) => Ordering::Greater,
    }
}

impl fmt::Display for VipPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.addr, self.port.get()), self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::canonical_prefix;

    #[test]
    fn prefixes_of_ipv4_addresses_are_the_same_in_both_notations() {
        for (text, expect) in [
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("2001:db8::7/64", "2001:db8::/64"),
            ("::ffff:192.0.2.80/128", "192.0.2.80/32"),
            ("::ffff:192.0.2.80/120", "192.0.2.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(canonical_prefix(text.parse().unwrap()).to_string(), expect, "{text}");
        }
    }
}
