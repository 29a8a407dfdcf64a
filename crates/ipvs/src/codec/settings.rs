//! Timeouts, information and sync daemons: all that is neither a service nor a destination.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink::{Attributes, MessageBuffer};

use super::uapi::{daemon, info, top};

/// Connection timeouts of the network namespace in seconds (`ip_vs_genl_set_config`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP connections.
    pub tcp: u32,
    /// TCP connections after a FIN.
    pub tcp_fin: u32,
    /// UDP flows.
    pub udp: u32,
}

impl Timeouts {
    pub(super) fn encode(&self, message: &mut MessageBuffer) {
        message.attribute_u32(top::TIMEOUT_TCP, self.tcp);
        message.attribute_u32(top::TIMEOUT_TCP_FIN, self.tcp_fin);
        message.attribute_u32(top::TIMEOUT_UDP, self.udp);
    }

    /// Reads top-level attributes; a kernel without TCP or UDP support leaves some out, which are then 0.
    pub fn parse(attributes: Attributes<'_>) -> Option<Timeouts> {
        let (mut timeouts, mut any) = (Timeouts::default(), false);
        for attribute in attributes {
            let field = match attribute.kind {
                top::TIMEOUT_TCP => &mut timeouts.tcp,
                top::TIMEOUT_TCP_FIN => &mut timeouts.tcp_fin,
                top::TIMEOUT_UDP => &mut timeouts.udp,
                _ => continue,
            };
            *field = attribute.u32()?;
            any = true;
        }
        any.then_some(timeouts)
    }
}

/// Reply to GET_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Version (`IP_VS_VERSION_CODE`): 0x010201 is 1.2.1, the only one since Linux 2.6.
    pub version: u32,
    /// Buckets of the connection table; 0 on 7.x before the first service.
    pub connection_table_size: u32,
}

impl Info {
    /// Reads top-level attributes.
    pub fn parse(attributes: Attributes<'_>) -> Option<Info> {
        let (mut version, mut size) = (None, None);
        for attribute in attributes {
            match attribute.kind {
                info::VERSION => version = attribute.u32(),
                info::CONN_TAB_SIZE => size = attribute.u32(),
                _ => {}
            }
        }
        Some(Info { version: version?, connection_table_size: size? })
    }
}

/// Role of a sync daemon (`IP_VS_STATE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonState {
    /// Sends connections.
    Master,
    /// Receives connections.
    Backup,
}

impl DaemonState {
    const fn number(self) -> u32 {
        match self {
            DaemonState::Master => 1,
            DaemonState::Backup => 2,
        }
    }

    pub(super) fn encode(self, nest: &mut MessageBuffer) {
        nest.attribute_u32(daemon::STATE, self.number());
    }
}

/// A connection synchronisation daemon (`ip_vs_genl_fill_daemon`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Role; a network namespace has at most one daemon of each.
    pub state: DaemonState,
    /// Interface of the multicast traffic, up to 15 bytes.
    pub interface: String,
    /// Number of the group of daemons; a backup takes only messages with its own.
    pub sync_id: u32,
    /// Largest UDP payload; 0 lets the kernel choose.
    pub max_length: u16,
    /// Multicast group; `None` for 224.0.0.81.
    pub group: Option<IpAddr>,
    /// UDP port; 0 for 8848.
    pub port: u16,
    /// Time to live; 0 for 1.
    pub ttl: u8,
}

impl Daemon {
    pub(super) fn encode(&self, nest: &mut MessageBuffer) {
        self.state.encode(nest);
        nest.attribute_str(daemon::MCAST_IFN, &self.interface);
        nest.attribute_u32(daemon::SYNC_ID, self.sync_id);
        if self.max_length != 0 {
            nest.attribute_u16(daemon::SYNC_MAXLEN, self.max_length);
        }
        match self.group {
            Some(IpAddr::V4(group)) => nest.attribute(daemon::MCAST_GROUP, &group.octets()),
            Some(IpAddr::V6(group)) => nest.attribute(daemon::MCAST_GROUP6, &group.octets()),
            None => {}
        }
        if self.port != 0 {
            nest.attribute_u16(daemon::MCAST_PORT, self.port);
        }
        if self.ttl != 0 {
            nest.attribute_u8(daemon::MCAST_TTL, self.ttl);
        }
    }

    /// Reads the attributes of a nest; `None` if the state is missing or unknown.
    pub fn parse(nest: Attributes<'_>) -> Option<Daemon> {
        let (mut state, mut interface) = (None, String::new());
        let (mut sync_id, mut max_length, mut group, mut port, mut ttl) = (0, 0, None, 0, 0);
        for attribute in nest {
            match attribute.kind {
                daemon::STATE => {
                    let number = attribute.u32();
                    state = [DaemonState::Master, DaemonState::Backup]
                        .into_iter()
                        .find(|state| Some(state.number()) == number);
                }
                daemon::MCAST_IFN => {
                    interface = String::from_utf8_lossy(attribute.string()).into_owned();
                }
                daemon::SYNC_ID => sync_id = attribute.u32().unwrap_or(0),
                daemon::SYNC_MAXLEN => max_length = attribute.u16().unwrap_or(0),
                daemon::MCAST_GROUP => {
                    group = attribute.payload.first_chunk().map(|a| Ipv4Addr::from(*a).into());
                }
                daemon::MCAST_GROUP6 => {
                    group = attribute.payload.first_chunk::<16>().map(|a| Ipv6Addr::from(*a).into());
                }
                daemon::MCAST_PORT => port = attribute.u16().unwrap_or(0),
                daemon::MCAST_TTL => ttl = attribute.u8().unwrap_or(0),
                _ => {}
            }
        }
        Some(Daemon { state: state?, interface, sync_id, max_length, group, port, ttl })
    }
}
