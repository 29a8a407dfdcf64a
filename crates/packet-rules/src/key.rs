//! Elements as the bytes that the kernel compares.
//!
//! A key is a concatenation of fields, each padded to 4 bytes, in network order, as registers hold them.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use ipnetwork::IpNetwork;
use lb_types::{Front, IpFamily, Protocol, RuleElement, RuleSet, VipPort};

use crate::spec::{NODE_PORT_SETS, SetId, SetKind};

/// Field of a set's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Address(IpFamily),
    Protocol,
    Port,
}

/// Bits by which the nft tool shifts a type number to append another (TYPE_BITS in its datatype.h).
const TYPE_BITS: u32 = 6;

impl Field {
    /// Number of the nft tool's datatype (enum datatypes in its datatype.h); the kernel only stores it.
    const fn datatype(self) -> u32 {
        match self {
            Field::Address(IpFamily::V4) => 7,
            Field::Address(IpFamily::V6) => 8,
            Field::Protocol => 12,
            Field::Port => 13,
        }
    }

    /// Name of the nft tool's datatype.
    pub(crate) const fn type_name(self) -> &'static str {
        match self {
            Field::Address(IpFamily::V4) => "ipv4_addr",
            Field::Address(IpFamily::V6) => "ipv6_addr",
            Field::Protocol => "inet_proto",
            Field::Port => "inet_service",
        }
    }

    /// Bytes in the key, without padding.
    pub(crate) const fn len(self) -> u8 {
        match self {
            Field::Address(IpFamily::V6) => 16,
            Field::Address(IpFamily::V4) => 4,
            Field::Protocol => 1,
            Field::Port => 2,
        }
    }

    /// Bytes in the key, padding included.
    pub(crate) const fn width(self) -> usize {
        match self {
            Field::Address(IpFamily::V6) => 16,
            Field::Address(IpFamily::V4) | Field::Protocol | Field::Port => 4,
        }
    }
}

impl SetId {
    /// Fields of the key.
    pub(crate) fn fields(self) -> Vec<Field> {
        let address = Field::Address(self.family);
        match self.kind {
            SetKind::Planned(RuleSet::Vips | RuleSet::UnansweredVips | RuleSet::NodeAddresses) => {
                vec![address]
            }
            // Rules ask for one address, or whether two of a packet are the same.
            SetKind::Planned(RuleSet::SteeredVips) => vec![address, address],
            SetKind::Planned(RuleSet::Allowed) => vec![address, Field::Protocol, Field::Port, address],
            SetKind::Planned(_) => vec![address, Field::Protocol, Field::Port],
            SetKind::NodePorts(_) => vec![Field::Protocol, Field::Port],
            SetKind::Endpoints => vec![address, Field::Protocol, Field::Port, address],
        }
    }

    /// NFTA_SET_KEY_TYPE
    pub(crate) fn key_type(self) -> u32 {
        self.fields().into_iter().fold(0, |number, field| number << TYPE_BITS | field.datatype())
    }

    /// NFTA_SET_KEY_LEN
    pub(crate) fn key_len(self) -> u32 {
        self.fields().into_iter().map(|field| field.width() as u32).sum()
    }

    /// Tells whether its elements are intervals, with a key for each end.
    pub(crate) const fn has_intervals(self) -> bool {
        matches!(self.kind, SetKind::Planned(RuleSet::Allowed))
    }

    /// Tells whether it is a map, to marks.
    pub(crate) const fn is_map(self) -> bool {
        let (SetKind::Planned(set) | SetKind::NodePorts(set)) = self.kind else { return false };
        matches!(set, RuleSet::Marks | RuleSet::MarksExternal | RuleSet::Unmarked | RuleSet::UnmarkedExternal)
    }

    /// The set that holds an element.
    pub(crate) fn of(element: &RuleElement) -> Self {
        let (set, family) = (element.set(), element.family());
        let is_node_port = element.front().is_some_and(|front| front.vip().is_none());
        if is_node_port && NODE_PORT_SETS.contains(&set) {
            SetId::node_ports(set, family)
        } else {
            SetId::planned(set, family)
        }
    }
}

/// Appends the key of an element in the set that [`SetId::of`] names; of an interval, the one of its first end.
pub(crate) fn put_key(key: &mut Vec<u8>, element: &RuleElement) {
    put_port(key, element);
    match element {
        RuleElement::Allow(_, clients) => put_addr(key, clients.network()),
        RuleElement::SteeredVip(addr) => put_addr(key, *addr),
        _ => {}
    }
}

/// Appends the key of the last end of an interval; nothing for other elements.
pub(crate) fn put_key_end(key: &mut Vec<u8>, element: &RuleElement) {
    if let RuleElement::Allow(_, clients) = element {
        put_port(key, element);
        put_addr(key, clients.broadcast());
    }
}

fn put_port(key: &mut Vec<u8>, element: &RuleElement) {
    if !matches!(SetId::of(element).kind, SetKind::NodePorts(_)) {
        put_addr(key, element.addr());
    }
    if let Some(VipPort { protocol, port, .. }) = element.port() {
        let [high, low] = port.get().to_be_bytes();
        key.extend_from_slice(&[protocol.number(), 0, 0, 0, high, low, 0, 0]);
    }
}

/// Appends the mark that a map has for the key of an element, as it lies in a register; nothing for a set.
pub(crate) fn put_data(data: &mut Vec<u8>, element: &RuleElement) {
    data.extend(element.marked().into_iter().flat_map(|(_, mark)| mark.get().to_ne_bytes()));
}

/// The same by itself.
#[cfg(test)]
pub(crate) fn encode_key(element: &RuleElement) -> Vec<u8> {
    let mut key = Vec::new();
    put_key(&mut key, element);
    key
}

/// Inverse of [`put_key`], [`put_key_end`] and [`put_data`]; `None` for elements that our vocabulary cannot express,
/// which are not ours.
pub(crate) fn parse_element(id: SetId, key: &[u8], key_end: &[u8], data: &[u8]) -> Option<RuleElement> {
    if key.len() != id.key_len() as usize {
        return None;
    }
    let (set, (addr, rest)) = match id.kind {
        SetKind::Planned(set) => (set, take_addr(id.family, key)?),
        SetKind::NodePorts(set) => (set, (id.family.unspecified(), key)),
        SetKind::Endpoints => return None,
    };
    match set {
        RuleSet::Vips => return Some(RuleElement::Vip(addr)),
        RuleSet::SteeredVips => {
            let (same, _) = take_addr(id.family, rest)?;
            return (same == addr).then_some(RuleElement::SteeredVip(addr));
        }
        RuleSet::UnansweredVips => return Some(RuleElement::UnansweredVip(addr)),
        RuleSet::NodeAddresses => return Some(RuleElement::NodeAddress(addr)),
        _ => {}
    }
    let &[protocol, _, _, _, high, low, _, _] = rest.first_chunk()?;
    let port = NonZeroU16::new(u16::from_be_bytes([high, low]))?;
    let port = VipPort { addr, protocol: Protocol::from_number(protocol)?, port };
    let front = Front::from(port);
    let mark = || NonZeroU32::new(u32::from_ne_bytes(data.try_into().ok()?));
    match set {
        RuleSet::Marks => Some(RuleElement::Mark(front, mark()?)),
        RuleSet::MarksExternal => Some(RuleElement::Mark(front.for_external(), mark()?)),
        RuleSet::Unmarked => Some(RuleElement::Unmarked(front, mark()?)),
        RuleSet::UnmarkedExternal => Some(RuleElement::Unmarked(front.for_external(), mark()?)),
        RuleSet::Allowed => Some(RuleElement::Allow(port, parse_clients(id, key, key_end)?)),
        _ => set.of_port(port),
    }
}

/// Reads an interval that is a prefix, and whose ends differ in nothing but that.
fn parse_clients(id: SetId, key: &[u8], key_end: &[u8]) -> Option<IpNetwork> {
    let at = key.len() - Field::Address(id.family).width();
    let ends = key.get(..at) == key_end.get(..at);
    let (first, _) = take_addr(id.family, key.get(at..)?).filter(|_| ends)?;
    let (last, _) = take_addr(id.family, key_end.get(at..)?)?;
    let differing = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        _ => return None,
    };
    let clients = IpNetwork::new(first, u8::try_from(differing).ok()?).ok()?;
    (clients.network() == first && clients.broadcast() == last).then_some(clients)
}

fn put_addr(key: &mut Vec<u8>, addr: IpAddr) {
    match addr {
        IpAddr::V4(addr) => key.extend_from_slice(&addr.octets()),
        IpAddr::V6(addr) => key.extend_from_slice(&addr.octets()),
    }
}

fn take_addr(family: IpFamily, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    match family {
        IpFamily::V4 => bytes.split_first_chunk::<4>().map(|(addr, rest)| ((*addr).into(), rest)),
        IpFamily::V6 => bytes.split_first_chunk::<16>().map(|(addr, rest)| ((*addr).into(), rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(addr: &str) -> VipPort {
        let port = NonZeroU16::new(443).unwrap();
        VipPort { addr: addr.parse().unwrap(), protocol: Protocol::Sctp, port }
    }

    #[test]
    fn exact_bytes() {
        let vip = RuleElement::Vip([10, 96, 0, 1].into());
        assert_eq!(encode_key(&vip), [10, 96, 0, 1]);
        let node_port = RuleElement::Service(port("0.0.0.0"));
        assert_eq!(encode_key(&node_port), [132, 0, 0, 0, 1, 187, 0, 0]);
        let service = RuleElement::Service(port("10.96.0.1"));
        assert_eq!(encode_key(&service), [10, 96, 0, 1, 132, 0, 0, 0, 1, 187, 0, 0]);
    }

    #[test]
    fn types_are_those_of_the_nft_tool() {
        assert_eq!(SetId::planned(RuleSet::Vips, IpFamily::V4).key_type(), 7);
        assert_eq!(SetId::planned(RuleSet::Services, IpFamily::V4).key_type(), 7 << 12 | 12 << 6 | 13);
        assert_eq!(SetId::node_ports(RuleSet::Marks, IpFamily::V6).key_type(), 12 << 6 | 13);
        assert_eq!(SetId::endpoints(IpFamily::V6).key_type(), 8 << 18 | 12 << 12 | 13 << 6 | 8);
        assert_eq!(SetId::endpoints(IpFamily::V6).key_len(), 40);
    }

    #[test]
    fn every_element_comes_back() {
        let mut elements = vec![
            RuleElement::Vip("fd00::1".parse().unwrap()),
            RuleElement::UnansweredVip("10.96.0.1".parse().unwrap()),
            RuleElement::SteeredVip("192.0.2.7".parse().unwrap()),
            RuleElement::SteeredVip("2001:db8::7".parse().unwrap()),
            RuleElement::NodeAddress("192.168.1.1".parse().unwrap()),
        ];
        let mark = NonZeroU32::new(0x01b5_0001).unwrap();
        for addr in ["10.96.0.1", "fd00:96::1", "0.0.0.0", "::"] {
            elements.extend(RuleSet::ALL.into_iter().filter_map(|set| set.of_port(port(addr))));
            let front = Front::from(port(addr));
            elements.extend([RuleElement::Mark(front, mark), RuleElement::Mark(front.for_external(), mark)]);
            elements.extend([front, front.for_external()].map(|front| RuleElement::Unmarked(front, mark)));
            let prefixes =
                if addr.contains(':') { ["::/0", "2001:db8::/33"] } else { ["0.0.0.0/0", "192.0.2.7/32"] };
            elements.extend(prefixes.map(|net| RuleElement::Allow(port(addr), net.parse().unwrap())));
        }
        for element in elements {
            let id = SetId::of(&element);
            let (key, mut end, mut data) = (encode_key(&element), Vec::new(), Vec::new());
            put_key_end(&mut end, &element);
            put_data(&mut data, &element);
            assert_eq!(id.has_intervals(), !end.is_empty());
            assert_eq!(key.len(), id.key_len() as usize, "{element}");
            assert_eq!(parse_element(id, &key, &end, &data), Some(element));
            assert_eq!(parse_element(id, &key[1..], &end, &data), None);
            assert_eq!(id.is_map(), !data.is_empty());
            assert!(!id.is_map() || parse_element(id, &key, &end, &data[1..]).is_none());
        }
    }

    #[test]
    fn foreign_keys_are_not_elements() {
        let id = SetId::planned(RuleSet::Services, IpFamily::V4);
        assert_eq!(parse_element(id, &[10, 96, 0, 1, 1, 0, 0, 0, 1, 187, 0, 0], &[], &[]), None, "ICMP");
        assert_eq!(parse_element(id, &[10, 96, 0, 1, 6, 0, 0, 0, 0, 0, 0, 0], &[], &[]), None, "port 0");
        let id = SetId::planned(RuleSet::SteeredVips, IpFamily::V4);
        assert_eq!(parse_element(id, &[192, 0, 2, 7, 192, 0, 2, 8], &[], &[]), None, "two addresses");
        let id = SetId::endpoints(IpFamily::V4);
        let endpoint = [10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0, 10, 0, 0, 1];
        assert_eq!(parse_element(id, &endpoint, &[], &[]), None, "written by packets");
    }
}
