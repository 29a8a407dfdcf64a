//! Elements as the bytes that the kernel compares.
//!
//! A key is a concatenation of fields, each padded to 4 bytes, in network order, as registers hold them.

use std::net::IpAddr;
use std::num::NonZeroU16;

use lb_types::{IpFamily, Protocol, RuleElement, RuleSet, VipPort};

use crate::spec::{SetId, SetKind};

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
            SetKind::Planned(RuleSet::Vips) => vec![address],
            SetKind::Planned(_) => vec![address, Field::Protocol, Field::Port],
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

    /// The set that holds an element.
    pub(crate) fn of(element: &RuleElement) -> Self {
        SetId::planned(element.set(), element.family())
    }
}

/// Appends the key of an element in the set that [`SetId::of`] names.
pub(crate) fn put_key(key: &mut Vec<u8>, element: &RuleElement) {
    put_addr(key, element.vip());
    if let Some(VipPort { protocol, port, .. }) = element.vip_port() {
        let [high, low] = port.get().to_be_bytes();
        key.extend_from_slice(&[protocol.number(), 0, 0, 0, high, low, 0, 0]);
    }
}

/// The same by itself.
#[cfg(test)]
pub(crate) fn encode_key(element: &RuleElement) -> Vec<u8> {
    let mut key = Vec::new();
    put_key(&mut key, element);
    key
}

/// Inverse of [`put_key`]; `None` for keys that our vocabulary cannot express, which are not ours.
pub(crate) fn parse_key(id: SetId, key: &[u8]) -> Option<RuleElement> {
    let SetKind::Planned(set) = id.kind else { return None };
    if key.len() != id.key_len() as usize {
        return None;
    }
    let (addr, rest) = take_addr(id.family, key)?;
    if set == RuleSet::Vips {
        return Some(RuleElement::Vip(addr));
    }
    let &[protocol, _, _, _, high, low, _, _] = rest.first_chunk()?;
    let port = NonZeroU16::new(u16::from_be_bytes([high, low]))?;
    let port = VipPort { addr, protocol: Protocol::from_number(protocol)?, port };
    Some(set.element(port))
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
        let service = RuleElement::Service(port("10.96.0.1"));
        assert_eq!(encode_key(&service), [10, 96, 0, 1, 132, 0, 0, 0, 1, 187, 0, 0]);
    }

    #[test]
    fn types_are_those_of_the_nft_tool() {
        assert_eq!(SetId::planned(RuleSet::Vips, IpFamily::V4).key_type(), 7);
        assert_eq!(SetId::planned(RuleSet::Services, IpFamily::V4).key_type(), 7 << 12 | 12 << 6 | 13);
        assert_eq!(SetId::endpoints(IpFamily::V6).key_type(), 8 << 18 | 12 << 12 | 13 << 6 | 8);
        assert_eq!(SetId::endpoints(IpFamily::V6).key_len(), 40);
    }

    #[test]
    fn every_element_comes_back() {
        let mut elements = vec![RuleElement::Vip("fd00::1".parse().unwrap())];
        for set in [RuleSet::Services, RuleSet::NoEndpoints, RuleSet::Masquerade] {
            elements.extend(["10.96.0.1", "fd00:96::1"].map(|addr| set.element(port(addr))));
        }
        for element in elements {
            let id = SetId::of(&element);
            let key = encode_key(&element);
            assert_eq!(key.len(), id.key_len() as usize, "{element}");
            assert_eq!(parse_key(id, &key), Some(element));
            assert_eq!(parse_key(id, &key[1..]), None);
        }
    }

    #[test]
    fn foreign_keys_are_not_elements() {
        let id = SetId::planned(RuleSet::Services, IpFamily::V4);
        assert_eq!(parse_key(id, &[10, 96, 0, 1, 1, 0, 0, 0, 1, 187, 0, 0]), None, "ICMP");
        assert_eq!(parse_key(id, &[10, 96, 0, 1, 6, 0, 0, 0, 0, 0, 0, 0]), None, "port 0");
        let id = SetId::endpoints(IpFamily::V4);
        let endpoint = [10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0, 10, 0, 0, 1];
        assert_eq!(parse_key(id, &endpoint), None, "written by packets");
    }
}
