//! Translation between the kernel's words and ours.
//!
//! A setting of the kernel that our vocabulary cannot express becomes a value that nothing desired equals, so
//! that a comparison repairs it; a key that it cannot express is not ours and becomes `None`.

use std::num::{NonZeroU16, NonZeroU32};

use dataplane::ObservedRealServer;
use lb_types::{
    ConnectionCounters, ForwardingMethod, IpFamily, Persistence, Protocol, RealServer, RealServerId,
    SchedulerFlags, TrafficCounters, VipPort, VirtualServer, VirtualServerId, Weight,
};

use crate::codec::{
    Destination, DestinationKey, Service, ServiceKey, Stats,
    uapi::{fwd, svc_flag},
};

/// Prefix length of an observed IPv4 netmask that is not a prefix; no family has it.
const NOT_A_PREFIX: u8 = u8::MAX;

pub(crate) fn service_key(vs: VirtualServerId) -> ServiceKey {
    match vs {
        VirtualServerId::Address(VipPort { addr, protocol, port }) => {
            ServiceKey::Address { addr, protocol: protocol.number().into(), port: port.get() }
        }
        VirtualServerId::FwMark { family, mark } => ServiceKey::FwMark { family, mark: mark.get() },
    }
}

/// Translates a virtual server; `None` for a prefix length that IPv4 does not have. The kernel judges those
/// of IPv6 itself.
pub(crate) fn service(vs: VirtualServerId, settings: &VirtualServer) -> Option<Service> {
    let family = vs.family();
    let (persistent, timeout, prefix_length) = match settings.persistence {
        Some(p) => (svc_flag::PERSISTENT, p.timeout_seconds.get(), p.prefix_length),
        None => (0, 0, family.host_prefix()),
    };
    let one_packet = if settings.one_packet { svc_flag::ONEPACKET } else { 0 };
    let scheduler_flags = u32::from(settings.scheduler_flags.bits()) << svc_flag::SCHED_SHIFT;
    Some(Service {
        flags: persistent | one_packet | scheduler_flags,
        timeout,
        netmask: netmask(family, prefix_length)?,
        ..Service::new(service_key(vs), settings.scheduler)
    })
}

fn netmask(family: IpFamily, prefix_length: u8) -> Option<u32> {
    match (family, prefix_length) {
        (IpFamily::V6, length) => Some(length.into()),
        (IpFamily::V4, 0) => Some(0),
        (IpFamily::V4, length @ 1..=32) => Some(u32::MAX << (32 - u32::from(length))),
        (IpFamily::V4, _) => None,
    }
}

fn prefix_length(family: IpFamily, netmask: u32) -> u8 {
    match family {
        IpFamily::V6 => u8::try_from(netmask).unwrap_or(NOT_A_PREFIX),
        IpFamily::V4 if netmask.leading_ones() == netmask.count_ones() => netmask.leading_ones() as u8,
        IpFamily::V4 => NOT_A_PREFIX,
    }
}

pub(crate) fn virtual_server_id(key: &ServiceKey) -> Option<VirtualServerId> {
    Some(match *key {
        ServiceKey::Address { addr, protocol, port } => VirtualServerId::Address(VipPort {
            addr,
            protocol: Protocol::from_number(u8::try_from(protocol).ok()?)?,
            port: NonZeroU16::new(port)?,
        }),
        ServiceKey::FwMark { family, mark } => {
            VirtualServerId::FwMark { family, mark: NonZeroU32::new(mark)? }
        }
    })
}

pub(crate) fn virtual_server(service: &Service) -> Option<(VirtualServerId, VirtualServer)> {
    let vs = virtual_server_id(&service.key)?;
    let persistence = (service.flags & svc_flag::PERSISTENT != 0).then(|| Persistence {
        // The kernel accepts 0; it never reports the largest number, because it counts in jiffies.
        timeout_seconds: NonZeroU32::new(service.timeout).unwrap_or(NonZeroU32::MAX),
        prefix_length: prefix_length(vs.family(), service.netmask),
    });
    let scheduler_flags = (service.flags & svc_flag::SCHED_MASK) >> svc_flag::SCHED_SHIFT;
    let settings = VirtualServer {
        scheduler: service.scheduler,
        scheduler_flags: SchedulerFlags::from_bits(scheduler_flags as u8),
        persistence,
        one_packet: service.flags & svc_flag::ONEPACKET != 0,
    };
    Some((vs, settings))
}

pub(crate) const fn destination_key(rs: RealServerId) -> DestinationKey {
    DestinationKey { addr: rs.addr, port: rs.port.get() }
}

pub(crate) fn destination(rs: RealServerId, settings: &RealServer) -> Destination {
    Destination {
        forwarding: match settings.forwarding {
            ForwardingMethod::Masquerade => fwd::MASQ,
            ForwardingMethod::Local => fwd::LOCALNODE,
            ForwardingMethod::Tunnel => fwd::TUNNEL,
            ForwardingMethod::DirectRoute => fwd::DROUTE,
        },
        weight: settings.weight.0,
        upper_threshold: settings.upper_threshold,
        lower_threshold: settings.lower_threshold,
        ..Destination::new(destination_key(rs))
    }
}

/// Translates a destination; `None` for port 0, which only foreign virtual servers have.
pub(crate) fn real_server(destination: &Destination) -> Option<ObservedRealServer> {
    let id = RealServerId { addr: destination.key.addr, port: NonZeroU16::new(destination.key.port)? };
    let settings = RealServer {
        weight: Weight(destination.weight),
        forwarding: match destination.forwarding {
            fwd::MASQ => ForwardingMethod::Masquerade,
            fwd::TUNNEL => ForwardingMethod::Tunnel,
            fwd::DROUTE => ForwardingMethod::DirectRoute,
            // IP_VS_CONN_F_BYPASS (4) is not offered to administrators; like LOCALNODE it leaves the packet
            // as it is.
            _ => ForwardingMethod::Local,
        },
        upper_threshold: destination.upper_threshold,
        lower_threshold: destination.lower_threshold,
    };
    let connections = ConnectionCounters {
        active: destination.active_connections,
        inactive: destination.inactive_connections,
        persistent: destination.persistent_connections,
    };
    Some(ObservedRealServer { id, settings, connections, traffic: traffic(&destination.stats) })
}

/// Traffic of a service, in 64 bits where the kernel has them.
pub(crate) fn virtual_server_traffic(service: &Service) -> Option<(VirtualServerId, TrafficCounters)> {
    Some((virtual_server_id(&service.key)?, traffic(&service.stats)))
}

fn traffic(stats: &Stats) -> TrafficCounters {
    TrafficCounters {
        connections: stats.connections,
        packets_in: stats.packets_in,
        packets_out: stats.packets_out,
        bytes_in: stats.bytes_in,
        bytes_out: stats.bytes_out,
    }
}

#[cfg(test)]
mod tests;
