//! The SERVICE nest (`ip_vs_svc_policy`).

use std::net::IpAddr;

use lb_types::{IpFamily, Scheduler};
use netlink::{Attribute, Attributes, MessageBuffer};

use super::{
    Stats,
    address::{address_family, encode_address, parse_address, parse_family},
    uapi::{svc, svc_flag},
};

/// Key of a service (`ip_vs_genl_parse_service`, first half).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKey {
    /// Packets to an address.
    Address {
        /// Virtual address; its family is the service's.
        addr: IpAddr,
        /// Number of the transport protocol; the kernel takes any.
        protocol: u16,
        /// Virtual port; 0 for every port, with persistence.
        port: u16,
    },
    /// Packets with a mark.
    FwMark {
        /// Family of the packets.
        family: IpFamily,
        /// The mark. 0 looks up an address service instead: do not send it.
        mark: u32,
    },
}

impl ServiceKey {
    /// Family of the packets.
    pub const fn family(&self) -> IpFamily {
        match self {
            ServiceKey::Address { addr, .. } => IpFamily::of(*addr),
            ServiceKey::FwMark { family, .. } => *family,
        }
    }

    pub(super) fn encode(&self, nest: &mut MessageBuffer) {
        nest.attribute_u16(svc::AF, address_family(self.family()));
        match self {
            ServiceKey::Address { addr, protocol, port } => {
                nest.attribute_u16(svc::PROTOCOL, *protocol);
                nest.attribute_16_bytes(svc::ADDR, &encode_address(*addr));
                nest.attribute_u16_be(svc::PORT, *port);
            }
            ServiceKey::FwMark { mark, .. } => nest.attribute_u32(svc::FWMARK, *mark),
        }
    }
}

/// A service: key, settings and, when received, statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Key of the service.
    pub key: ServiceKey,
    /// Its scheduler; the kernel says `none` when there is none.
    pub scheduler: Scheduler,
    /// Flags `IP_VS_SVC_F_*`; the kernel sets HASHED (2) in every service that it holds.
    pub flags: u32,
    /// Persistence timeout in seconds.
    pub timeout: u32,
    /// Persistence netmask. IPv4: the mask, so that 0xffffff00 is /24. IPv6: the prefix length, 1 to 128.
    pub netmask: u32,
    /// Persistence engine (`sip`); `None` for none.
    pub persistence_engine: PersistenceEngine,
    /// Statistics; only received, never sent.
    pub stats: Stats,
}

/// Name of a persistence engine: up to 16 bytes (`IP_VS_PENAME_MAXLEN`).
pub type PersistenceEngine = Option<[u8; 16]>;

impl Service {
    /// A service without flags and persistence.
    pub const fn new(key: ServiceKey, scheduler: Scheduler) -> Self {
        Service {
            key,
            scheduler,
            flags: 0,
            timeout: 0,
            netmask: match key.family() {
                IpFamily::V4 => u32::MAX,
                IpFamily::V6 => 128,
            },
            persistence_engine: None,
            stats: Stats::ZERO,
        }
    }

    pub(super) fn encode(&self, nest: &mut MessageBuffer) {
        self.key.encode(nest);
        nest.attribute_str(svc::SCHED_NAME, self.scheduler.as_str());
        if let Some(name) = &self.persistence_engine {
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            nest.attribute(svc::PE_NAME, &[&name[..end], &[0]].concat());
        }
        nest.attribute(svc::FLAGS, &encode_flags(self.flags));
        nest.attribute_u32(svc::TIMEOUT, self.timeout);
        match self.key.family() {
            IpFamily::V4 => nest.attribute_u32_be(svc::NETMASK, self.netmask),
            IpFamily::V6 => nest.attribute_u32(svc::NETMASK, self.netmask),
        }
    }

    /// Reads the attributes of a nest; `None` if one is missing without which the service has no meaning.
    pub fn parse(nest: Attributes<'_>) -> Option<Service> {
        let mut found = Found::default();
        for attribute in nest {
            found.take(&attribute);
        }
        let family = parse_family(found.family?)?;
        let key = match found.mark {
            Some(mark) => ServiceKey::FwMark { family, mark },
            None => ServiceKey::Address {
                addr: parse_address(found.addr?, family)?,
                protocol: found.protocol?,
                port: found.port?,
            },
        };
        let netmask = found.netmask?;
        Some(Service {
            key,
            scheduler: Scheduler::from_kernel(found.scheduler?)?,
            flags: found.flags?,
            timeout: found.timeout?,
            netmask: match family {
                IpFamily::V4 => u32::from_be(netmask),
                IpFamily::V6 => netmask,
            },
            persistence_engine: found.engine,
            stats: found.stats64.or(found.stats).unwrap_or_default(),
        })
    }
}

/// Flags as `struct ip_vs_flags`, whose mask covers only the settable ones.
fn encode_flags(flags: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(flags & svc_flag::SETTABLE).to_ne_bytes());
    bytes[4..].copy_from_slice(&svc_flag::SETTABLE.to_ne_bytes());
    bytes
}

/// Attributes in the order of their arrival; the family, on which others depend, need not be the first.
#[derive(Default)]
struct Found<'a> {
    family: Option<u16>,
    protocol: Option<u16>,
    addr: Option<&'a [u8]>,
    port: Option<u16>,
    mark: Option<u32>,
    scheduler: Option<&'a [u8]>,
    flags: Option<u32>,
    timeout: Option<u32>,
    netmask: Option<u32>,
    engine: PersistenceEngine,
    stats: Option<Stats>,
    stats64: Option<Stats>,
}

impl<'a> Found<'a> {
    fn take(&mut self, attribute: &Attribute<'a>) {
        match attribute.kind {
            svc::AF => self.family = attribute.u16(),
            svc::PROTOCOL => self.protocol = attribute.u16(),
            svc::ADDR => self.addr = Some(attribute.payload),
            svc::PORT => self.port = attribute.u16_be(),
            svc::FWMARK => self.mark = attribute.u32(),
            svc::SCHED_NAME => self.scheduler = Some(attribute.string()),
            svc::FLAGS => self.flags = attribute.u32(),
            svc::TIMEOUT => self.timeout = attribute.u32(),
            svc::NETMASK => self.netmask = attribute.u32(),
            svc::PE_NAME => self.engine = parse_engine(attribute.string()),
            svc::STATS => self.stats = Some(Stats::parse(attribute.nested())),
            svc::STATS64 => self.stats64 = Some(Stats::parse(attribute.nested())),
            _ => {}
        }
    }
}

fn parse_engine(name: &[u8]) -> PersistenceEngine {
    let mut bytes = [0; 16];
    bytes.get_mut(..name.len())?.copy_from_slice(name);
    (!name.is_empty()).then_some(bytes)
}
