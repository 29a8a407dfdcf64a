//! The kernel's interface in the kernel's words: services, destinations, sync daemons, configuration.
//!
//! Encoding is exact; parsing is total: any bytes give a value or `None`, and unknown attributes are skipped.

mod address;
mod destination;
mod service;
mod settings;
mod stats;
#[expect(missing_docs, reason = "the names are those of the kernel's header")]
pub mod uapi;

pub use destination::{Destination, DestinationKey, Tunnel};
use netlink::{Batch, Message, MessageBuffer, Request, genl};
pub use service::{Service, ServiceKey};
pub use settings::{Daemon, DaemonState, Info, Timeouts};
pub use stats::Stats;
use uapi::{cmd, top};

/// A command with its arguments (`ip_vs_genl_ops` in net/netfilter/ipvs/ip_vs_ctl.c).
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// Adds a service; EEXIST if one has the key already.
    NewService(&'a Service),
    /// Changes everything about a service except its key.
    SetService(&'a Service),
    /// Deletes a service with its destinations.
    DelService(&'a ServiceKey),
    /// Asks for one service, or for all, by a dump request without a key.
    GetService(Option<&'a ServiceKey>),
    /// Adds a destination to a service.
    NewDest(&'a ServiceKey, &'a Destination),
    /// Changes everything about a destination except its key.
    SetDest(&'a ServiceKey, &'a Destination),
    /// Deletes a destination.
    DelDest(&'a ServiceKey, &'a DestinationKey),
    /// Asks for the destinations of a service; only as a dump, which is empty if there is no such service.
    GetDest(&'a ServiceKey),
    /// Starts a sync daemon.
    NewDaemon(&'a Daemon),
    /// Stops the sync daemon of that state.
    DelDaemon(DaemonState),
    /// Asks for the sync daemons; only as a dump.
    GetDaemon,
    /// Sets connection timeouts; 0 leaves one as it is.
    SetConfig(&'a Timeouts),
    /// Asks for the connection timeouts.
    GetConfig,
    /// Asks for the version and the size of the connection table.
    GetInfo,
    /// Zeroes the counters of one service or of all.
    Zero(Option<&'a ServiceKey>),
    /// Deletes all services of the network namespace.
    Flush,
}

impl Command<'_> {
    /// Number of the command (`IPVS_CMD_*`).
    pub const fn number(&self) -> u8 {
        match self {
            Command::NewService(_) => cmd::NEW_SERVICE,
            Command::SetService(_) => cmd::SET_SERVICE,
            Command::DelService(_) => cmd::DEL_SERVICE,
            Command::GetService(_) => cmd::GET_SERVICE,
            Command::NewDest(..) => cmd::NEW_DEST,
            Command::SetDest(..) => cmd::SET_DEST,
            Command::DelDest(..) => cmd::DEL_DEST,
            Command::GetDest(_) => cmd::GET_DEST,
            Command::NewDaemon(_) => cmd::NEW_DAEMON,
            Command::DelDaemon(_) => cmd::DEL_DAEMON,
            Command::GetDaemon => cmd::GET_DAEMON,
            Command::SetConfig(_) => cmd::SET_CONFIG,
            Command::GetConfig => cmd::GET_CONFIG,
            Command::GetInfo => cmd::GET_INFO,
            Command::Zero(_) => cmd::ZERO,
            Command::Flush => cmd::FLUSH,
        }
    }

    /// Encodes the command as a single request to the family with that number.
    pub fn request(&self, family: u16) -> Request {
        Request::new(family, |message| self.encode(message))
    }

    /// Appends the command to a batch.
    pub fn push(&self, batch: &mut Batch, family: u16) {
        batch.push(family, 0, |message| self.encode(message));
    }

    /// Appends `struct genlmsghdr` and the attributes.
    fn encode(&self, message: &mut MessageBuffer) {
        genl::put_header(message, self.number(), uapi::FAMILY_VERSION);
        match self {
            Command::NewService(service) | Command::SetService(service) => {
                message.nested(top::SERVICE, |nest| service.encode(nest));
            }
            Command::DelService(key)
            | Command::GetDest(key)
            | Command::GetService(Some(key))
            | Command::Zero(Some(key)) => message.nested(top::SERVICE, |nest| key.encode(nest)),
            Command::NewDest(key, destination) | Command::SetDest(key, destination) => {
                message.nested(top::SERVICE, |nest| key.encode(nest));
                message.nested(top::DEST, |nest| destination.encode(nest));
            }
            Command::DelDest(key, destination) => {
                message.nested(top::SERVICE, |nest| key.encode(nest));
                message.nested(top::DEST, |nest| destination.encode(nest));
            }
            Command::NewDaemon(daemon) => message.nested(top::DAEMON, |nest| daemon.encode(nest)),
            Command::DelDaemon(state) => message.nested(top::DAEMON, |nest| state.encode(nest)),
            Command::SetConfig(timeouts) => timeouts.encode(message),
            Command::GetService(None)
            | Command::Zero(None)
            | Command::GetDaemon
            | Command::GetConfig
            | Command::GetInfo
            | Command::Flush => {}
        }
    }
}

/// Reads a service from a reply to GET_SERVICE.
pub fn parse_service(message: &Message<'_>) -> Option<Service> {
    Service::parse(message.attributes(genl::HEADER).find(|a| a.kind == top::SERVICE)?.nested())
}

/// Reads a destination of that service from a reply to GET_DEST.
pub fn parse_destination(message: &Message<'_>, service: &ServiceKey) -> Option<Destination> {
    let nest = message.attributes(genl::HEADER).find(|a| a.kind == top::DEST)?.nested();
    Destination::parse(nest, service.family())
}

/// Reads a sync daemon from a reply to GET_DAEMON.
pub fn parse_daemon(message: &Message<'_>) -> Option<Daemon> {
    Daemon::parse(message.attributes(genl::HEADER).find(|a| a.kind == top::DAEMON)?.nested())
}

/// Reads the reply to GET_CONFIG.
pub fn parse_timeouts(message: &Message<'_>) -> Option<Timeouts> {
    Timeouts::parse(message.attributes(genl::HEADER))
}

/// Reads the reply to GET_INFO.
pub fn parse_info(message: &Message<'_>) -> Option<Info> {
    Info::parse(message.attributes(genl::HEADER))
}
