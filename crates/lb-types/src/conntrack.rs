//! Tracked connections: entries of the kernel's connection tracking.

use std::{fmt, net::SocketAddr};

use crate::{RealServerId, VipPort};

/// Filter for tracked connections of a Service port. It always names both ends, never a port alone: the same
/// number is somebody else's port elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConntrackFilter {
    /// Place where the client has sent to: the destination in the original direction.
    pub service: VipPort,
    /// Endpoint that answers: the source in the reply direction.
    pub target: ConntrackTarget,
}

/// Endpoint that answers a tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConntrackTarget {
    /// This real server.
    RealServer(RealServerId),
    /// The VIP itself: the connection began before there was a real server, and nobody translates it.
    Untranslated,
}

impl ConntrackFilter {
    /// Filter for the connections that a real server has by this Service port.
    pub const fn of_real_server(service: VipPort, rs: RealServerId) -> Self {
        ConntrackFilter { service, target: ConntrackTarget::RealServer(rs) }
    }

    /// Filter for the connections to this Service port that no real server has.
    pub const fn untranslated(service: VipPort) -> Self {
        ConntrackFilter { service, target: ConntrackTarget::Untranslated }
    }

    /// Source of the packets in the reply direction, as the connection tracking expects them.
    pub const fn answers_from(&self) -> SocketAddr {
        match self.target {
            ConntrackTarget::RealServer(rs) => SocketAddr::new(rs.addr, rs.port.get()),
            ConntrackTarget::Untranslated => SocketAddr::new(self.service.addr, self.service.port.get()),
        }
    }
}

impl fmt::Display for ConntrackFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            ConntrackTarget::RealServer(rs) => {
                write!(f, "tracked connections of {} to real server {rs}", self.service)
            }
            ConntrackTarget::Untranslated => {
                write!(f, "tracked connections of {} to no real server", self.service)
            }
        }
    }
}
