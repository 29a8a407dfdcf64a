//! Questions for sockets that listen on one address and port, one by one (include/uapi/linux/inet_diag.h).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use lb_types::{Protocol, VipPort};
use netlink::{Buffers, Message, Request, RequestSocket};

use crate::VipError;

/// Message type SOCK_DIAG_BY_FAMILY.
const BY_FAMILY: u16 = 20;
/// State TCP_LISTEN.
const LISTEN: u8 = 10;
/// Offset of the socket's port in `struct inet_diag_msg`.
const PORT: usize = 4;
/// Offset of the addresses in `struct inet_diag_msg`; the socket's own is the first.
const SOURCE: usize = 8;

/// Access to the kernel's sockets, in the network namespace of the thread that opened it.
pub(crate) struct Sockets {
    socket: RequestSocket,
    /// Protocols that the kernel can answer for: without `tcp_diag` or `udp_diag` it answers that there is no
    /// such socket.
    known: BTreeSet<Protocol>,
}

impl Sockets {
    pub(crate) fn open() -> Result<Self, VipError> {
        let socket = RequestSocket::open(netlink::Protocol::SOCK_DIAG, &Buffers::default())?;
        Ok(Sockets { socket, known: BTreeSet::new() })
    }

    /// Tells whether a socket listens on exactly the address of a port.
    pub(crate) fn listens(&mut self, port: VipPort) -> Result<bool, VipError> {
        if port.protocol == Protocol::Sctp {
            return self.listens_over_sctp(port);
        }
        if !self.known.contains(&port.protocol) {
            // A dump of no state at all fails where the kernel cannot answer for the protocol.
            self.socket.dump(&request(port, 0), |_| None::<()>)?;
            self.known.insert(port.protocol);
        }
        match self.socket.request(&request(port, u32::MAX), |message| is_listener(message, port)) {
            Ok(found) => Ok(found.contains(&true)),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Sockets {
    /// Looks through all that listen: asked for one socket, the kernel looks for an association instead
    /// (`sctp_diag_dump_one` in net/sctp/diag.c). Without SCTP, or `sctp_diag`, it has none to show.
    fn listens_over_sctp(&mut self, port: VipPort) -> Result<bool, VipError> {
        let is_there = |message: &Message<'_>| {
            let number = u16::from_be_bytes(*message.payload.get(PORT..)?.first_chunk()?);
            (number == port.port.get()).then_some(is_listener(message, port)?)
        };
        match self.socket.dump(&request_of_ports(port, [0; 4], 1 << LISTEN), is_there) {
            Ok(found) => Ok(found.contains(&true)),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Question as `struct inet_diag_req_v2`. The local address stands on both sides, because UDP looks for it on
/// the other one (`udp_dump_one` in net/ipv4/udp_diag.c); no connection is between an address and itself.
fn request(port: VipPort, states: u32) -> Request {
    let [high, low] = port.port.get().to_be_bytes();
    request_of_ports(port, [high, low, high, low], states)
}

/// The same with other ports; zeroes stand for any.
fn request_of_ports(port: VipPort, ports: [u8; 4], states: u32) -> Request {
    let mut addr = [0; 16];
    let family = match port.addr {
        IpAddr::V4(v4) => {
            addr[..4].copy_from_slice(&v4.octets());
            libc::AF_INET
        }
        IpAddr::V6(v6) => {
            addr = v6.octets();
            libc::AF_INET6
        }
    };
    Request::new(BY_FAMILY, |buffer| {
        buffer.put(&[family as u8, port.protocol.number(), 0, 0]);
        buffer.put(&states.to_ne_bytes());
        buffer.put(&ports);
        buffer.put(&addr);
        buffer.put(&addr);
        // Zeroes stand for any interface, ones for any socket (INET_DIAG_NOCOOKIE).
        buffer.put(&[0; 4]);
        buffer.put(&[u8::MAX; 8]);
    })
}

/// Tells whether the socket of an answer is bound to the address; the kernel may have found one that is bound
/// to none.
pub(crate) fn is_listener(message: &Message<'_>, port: VipPort) -> Option<bool> {
    let (family, state) = (*message.payload.first()?, *message.payload.get(1)?);
    let addr: &[u8; 16] = message.payload.get(SOURCE..)?.first_chunk()?;
    let bound = match i32::from(family) {
        libc::AF_INET => IpAddr::from(*addr.first_chunk::<4>()?),
        _ => Ipv6Addr::from(*addr).to_canonical(),
    };
    Some(bound == port.addr && (port.protocol != Protocol::Tcp || state == LISTEN))
}
