//! Tracked connections: entries of the kernel's connection tracking.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::{Front, RealServerId};

/// Filter for tracked connections of a Service port. It always names both ends, never a port alone: the same
/// number is somebody else's port elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConntrackFilter {
    /// Front that the client has sent to: its port is the destination in the original direction. That of a node
    /// port stands for all addresses of the node; the kernel is asked about each of them ([`ConntrackFilter::on`]).
    pub front: Front,
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
    /// Filter for the connections that a real server has by this front.
    pub fn of_real_server(front: impl Into<Front>, rs: RealServerId) -> Self {
        ConntrackFilter { front: front.into(), target: ConntrackTarget::RealServer(rs) }
    }

    /// Filter for the connections to this front that no real server has.
    pub fn untranslated(front: impl Into<Front>) -> Self {
        ConntrackFilter { front: front.into(), target: ConntrackTarget::Untranslated }
    }

    /// Filter for the same connections, of a node port, at one address of the node.
    #[must_use]
    pub fn on(mut self, addr: IpAddr) -> Self {
        self.front.port.addr = addr;
        self
    }

    /// Source of the packets in the reply direction, as the connection tracking expects them.
    pub const fn answers_from(&self) -> SocketAddr {
        let port = self.front.port;
        match self.target {
            ConntrackTarget::RealServer(rs) => SocketAddr::new(rs.addr, rs.port.get()),
            ConntrackTarget::Untranslated => SocketAddr::new(port.addr, port.port.get()),
        }
    }
}

impl fmt::Display for ConntrackFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            ConntrackTarget::RealServer(rs) => {
                write!(f, "tracked connections of {} to real server {rs}", self.front)
            }
            ConntrackTarget::Untranslated => {
                write!(f, "tracked connections of {} to no real server", self.front)
            }
        }
    }
}
