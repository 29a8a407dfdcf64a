//! Connections as the kernel's connection tracking knows them.

use std::{fmt, net::SocketAddr};

use crate::{RealServerId, VipPort};

/// Which tracked connections of a service port are meant. Always both ends of it, never a port alone: the same number
/// is somebody else's port elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowFilter {
    /// Where the client has sent to: the destination in the original direction.
    pub service: VipPort,
    /// Who answers: the source in the reply direction.
    pub target: FlowTarget,
}

/// Who answers a tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowTarget {
    /// This real server.
    RealServer(RealServerId),
    /// The VIP itself: the connection began before there was a real server, and nobody translates it.
    Untranslated,
}

impl FlowFilter {
    /// The connections that a real server has by this service port.
    pub const fn of_real_server(service: VipPort, rs: RealServerId) -> Self {
        FlowFilter { service, target: FlowTarget::RealServer(rs) }
    }

    /// The connections to this service port that no real server has.
    pub const fn untranslated(service: VipPort) -> Self {
        FlowFilter { service, target: FlowTarget::Untranslated }
    }

    /// Source of the packets in the reply direction, as the connection tracking expects them.
    pub const fn answers_from(&self) -> SocketAddr {
        match self.target {
            FlowTarget::RealServer(rs) => SocketAddr::new(rs.addr, rs.port.get()),
            FlowTarget::Untranslated => SocketAddr::new(self.service.addr, self.service.port.get()),
        }
    }
}

impl fmt::Display for FlowFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            FlowTarget::RealServer(rs) => {
                write!(f, "tracked connections of {} to real server {rs}", self.service)
            }
            FlowTarget::Untranslated => {
                write!(f, "tracked connections of {} to no real server", self.service)
            }
        }
    }
}
