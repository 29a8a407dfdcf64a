//! The DEST nest (`ip_vs_dest_policy`).

use std::net::IpAddr;

use lb_types::IpFamily;
use netlink::{Attribute, Attributes, MessageBuffer};

use super::{
    Stats,
    address::{address_family, encode_address, parse_address, parse_family},
    uapi::{dest, fwd},
};

/// Key of a destination within its service (`ip_vs_lookup_dest`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationKey {
    /// Address; the family may differ from the service's if the forwarding method is a tunnel.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
}

impl DestinationKey {
    pub(super) fn encode(&self, nest: &mut MessageBuffer) {
        nest.attribute_u16(dest::ADDR_FAMILY, address_family(IpFamily::of(self.addr)));
        nest.attribute_16_bytes(dest::ADDR, &encode_address(self.addr));
        nest.attribute_u16_be(dest::PORT, self.port);
    }
}

/// Encapsulation of a tunnel to a destination; meaningless for other forwarding methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// Type: 0 IPIP, 1 GUE, 2 GRE (`IP_VS_CONN_F_TUNNEL_TYPE_*`).
    pub kind: u8,
    /// UDP port of GUE.
    pub port: u16,
    /// Checksum flags (`IP_VS_TUNNEL_ENCAP_FLAG_*`).
    pub flags: u16,
}

/// A destination: key, settings and, when received, counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Key within the service.
    pub key: DestinationKey,
    /// Bits of the forwarding method (`IP_VS_CONN_F_*`).
    pub forwarding: u32,
    /// Share of new connections, an `int` in the kernel.
    pub weight: u32,
    /// Number of connections from which on it gets no new ones; 0 for no limit.
    pub upper_threshold: u32,
    /// Number of connections below which it gets new ones again.
    pub lower_threshold: u32,
    /// Tunnel; sent only if it is not the default.
    pub tunnel: Tunnel,
    /// Connections until their first FIN or RST; only received.
    pub active_connections: u32,
    /// All other connections; only received.
    pub inactive_connections: u32,
    /// Persistence templates; only received.
    pub persistent_connections: u32,
    /// Statistics; only received.
    pub stats: Stats,
}

impl Destination {
    /// A masqueraded destination of weight 1, without thresholds.
    pub const fn new(key: DestinationKey) -> Self {
        Destination {
            key,
            forwarding: fwd::MASQ,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
            tunnel: Tunnel { kind: 0, port: 0, flags: 0 },
            active_connections: 0,
            inactive_connections: 0,
            persistent_connections: 0,
            stats: Stats::ZERO,
        }
    }

    /// The destination as it is sent, without counters.
    pub const fn without_counters(self) -> Self {
        Destination {
            active_connections: 0,
            inactive_connections: 0,
            persistent_connections: 0,
            stats: Stats::ZERO,
            ..self
        }
    }

    pub(super) fn encode(&self, nest: &mut MessageBuffer) {
        self.key.encode(nest);
        nest.attribute_u32(dest::FWD_METHOD, self.forwarding);
        nest.attribute_u32(dest::WEIGHT, self.weight);
        nest.attribute_u32(dest::U_THRESH, self.upper_threshold);
        nest.attribute_u32(dest::L_THRESH, self.lower_threshold);
        if self.tunnel != Tunnel::default() {
            nest.attribute_u8(dest::TUN_TYPE, self.tunnel.kind);
            nest.attribute_u16_be(dest::TUN_PORT, self.tunnel.port);
            nest.attribute_u16(dest::TUN_FLAGS, self.tunnel.flags);
        }
    }

    /// Reads the attributes of a nest; `None` if one is missing without which the destination has no meaning.
    ///
    /// `service_family` stands in for the family attribute, which kernels before 3.18 do not send.
    pub fn parse(nest: Attributes<'_>, service_family: IpFamily) -> Option<Destination> {
        let mut found = Found::default();
        for attribute in nest {
            found.take(&attribute);
        }
        let family = found.family.map_or(Some(service_family), parse_family)?;
        Some(Destination {
            key: DestinationKey { addr: parse_address(found.addr?, family)?, port: found.port? },
            forwarding: found.forwarding?,
            weight: found.weight?,
            upper_threshold: found.upper_threshold?,
            lower_threshold: found.lower_threshold?,
            tunnel: found.tunnel,
            active_connections: found.connections[0],
            inactive_connections: found.connections[1],
            persistent_connections: found.connections[2],
            stats: found.stats64.or(found.stats).unwrap_or_default(),
        })
    }
}

#[derive(Default)]
struct Found<'a> {
    family: Option<u16>,
    addr: Option<&'a [u8]>,
    port: Option<u16>,
    forwarding: Option<u32>,
    weight: Option<u32>,
    upper_threshold: Option<u32>,
    lower_threshold: Option<u32>,
    tunnel: Tunnel,
    /// Numbers of active, inactive and persistent connections.
    connections: [u32; 3],
    stats: Option<Stats>,
    stats64: Option<Stats>,
}

impl<'a> Found<'a> {
    fn take(&mut self, attribute: &Attribute<'a>) {
        let count = || attribute.u32().unwrap_or(0);
        match attribute.kind {
            dest::ADDR => self.addr = Some(attribute.payload),
            dest::PORT => self.port = attribute.u16_be(),
            dest::FWD_METHOD => self.forwarding = attribute.u32(),
            dest::WEIGHT => self.weight = attribute.u32(),
            dest::U_THRESH => self.upper_threshold = attribute.u32(),
            dest::L_THRESH => self.lower_threshold = attribute.u32(),
            dest::ACTIVE_CONNS => self.connections[0] = count(),
            dest::INACT_CONNS => self.connections[1] = count(),
            dest::PERSIST_CONNS => self.connections[2] = count(),
            dest::ADDR_FAMILY => self.family = attribute.u16(),
            dest::TUN_TYPE => self.tunnel.kind = attribute.u8().unwrap_or(0),
            dest::TUN_PORT => self.tunnel.port = attribute.u16_be().unwrap_or(0),
            dest::TUN_FLAGS => self.tunnel.flags = attribute.u16().unwrap_or(0),
            dest::STATS => self.stats = Some(Stats::parse(attribute.nested())),
            dest::STATS64 => self.stats64 = Some(Stats::parse(attribute.nested())),
            _ => {}
        }
    }
}
