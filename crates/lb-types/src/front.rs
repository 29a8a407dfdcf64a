//! Fronts: the places where a Service serves its clients.

use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

use crate::{InvalidId, IpFamily, Protocol, VipPort};

/// Clients that a front is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clients {
    /// All clients that no other front of the same port is for.
    #[default]
    Any,
    /// Clients outside of the cluster, where a Local traffic policy gives them real servers of their own.
    External,
}

/// Place where clients reach a Service port: address, protocol and port, and for which clients.
///
/// A front is the key of everything that is decided about a virtual server. Its encoding in the kernel, by
/// address or by packet mark, is a [`crate::VirtualServerId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Front {
    /// Address, protocol and port that clients connect to. The unspecified address stands for all addresses
    /// of the node: the port is a node port.
    pub port: VipPort,
    /// Clients that the front is for.
    pub clients: Clients,
}

impl Front {
    /// A node port, on all addresses of the node that serve node ports.
    pub const fn node(family: IpFamily, protocol: Protocol, port: NonZeroU16) -> Self {
        Front { port: VipPort { addr: family.unspecified(), protocol, port }, clients: Clients::Any }
    }

    /// The lowest front on an address, in their order.
    pub const fn lowest_on(addr: IpAddr) -> Self {
        let port = VipPort { addr, protocol: Protocol::Tcp, port: NonZeroU16::MIN };
        Front { port, clients: Clients::Any }
    }

    /// The same port for the same clients, as a node port.
    #[must_use]
    pub const fn as_node_port(self) -> Self {
        self.at(self.family().unspecified())
    }

    /// The same port for the same clients at another address; the unspecified one makes it a node port.
    #[must_use]
    pub const fn at(self, addr: IpAddr) -> Self {
        Front { port: VipPort { addr, ..self.port }, ..self }
    }

    /// The same place, for any client.
    #[must_use]
    pub const fn for_any(self) -> Self {
        Front { clients: Clients::Any, ..self }
    }

    /// The same place, for external clients alone.
    #[must_use]
    pub const fn for_external(self) -> Self {
        Front { clients: Clients::External, ..self }
    }

    /// The front for the other clients of the same place.
    #[must_use]
    pub const fn sibling(self) -> Self {
        let clients = match self.clients {
            Clients::Any => Clients::External,
            Clients::External => Clients::Any,
        };
        Front { clients, ..self }
    }

    /// Tells whether its virtual server is selected by a packet mark, because no address says enough.
    pub fn is_marked(&self) -> bool {
        self.clients == Clients::External || self.vip().is_none()
    }

    /// Address that clients connect to; `None` for a node port.
    pub fn vip(&self) -> Option<IpAddr> {
        Some(self.port.addr).filter(|addr| !addr.is_unspecified())
    }

    /// Family of its addresses.
    pub const fn family(&self) -> IpFamily {
        IpFamily::of(self.port.addr)
    }

    /// Transport protocol.
    pub const fn protocol(&self) -> Protocol {
        self.port.protocol
    }
}

impl From<VipPort> for Front {
    fn from(port: VipPort) -> Self {
        Front { port, clients: Clients::Any }
    }
}

/// Suffix of the VIP port of a front for external clients, in text.
const EXTERNAL: &str = " (external clients)";

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.port.fmt(f)?;
        match self.clients {
            Clients::Any => Ok(()),
            Clients::External => f.write_str(EXTERNAL),
        }
    }
}

impl FromStr for Front {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.strip_suffix(EXTERNAL) {
            Some(port) => port.parse::<VipPort>().map(|port| Front::from(port).for_external()),
            None => text.parse::<VipPort>().map(Front::from),
        }
    }
}
