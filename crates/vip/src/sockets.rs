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
            return listens_over_sctp(port);
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

/// Endpoints of SCTP in the network namespace of the calling thread, each with all its addresses; `sctp_diag` shows the
/// last one only, and need not be there. Without SCTP there is no such file.
const SCTP_ENDPOINTS: &str = "/proc/thread-self/net/sctp/eps";

/// Tells whether a line of that file is an endpoint that is bound to the address of a port, and listens
/// (`sctp_eps_seq_show` in net/sctp/proc.c).
fn is_sctp_listener(line: &str, port: VipPort) -> bool {
    let mut fields = line.split_whitespace().skip(3);
    let (state, number) = (fields.next(), fields.nth(1));
    let mut addresses =
        fields.skip(2).filter_map(|field| field.trim_start_matches('*').parse::<IpAddr>().ok());
    state.is_some_and(|state| state == "10")
        && number.is_some_and(|number| number == port.port.to_string())
        && addresses.any(|addr| addr.to_canonical() == port.addr)
}

fn listens_over_sctp(port: VipPort) -> Result<bool, VipError> {
    match std::fs::read_to_string(SCTP_ENDPOINTS) {
        Ok(text) => Ok(text.lines().any(|line| is_sctp_listener(line, port))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Question as `struct inet_diag_req_v2`. The local address stands on both sides, because UDP looks for it on
/// the other one (`udp_dump_one` in net/ipv4/udp_diag.c); no connection is between an address and itself.
fn request(port: VipPort, states: u32) -> Request {
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
        let [high, low] = port.port.get().to_be_bytes();
        buffer.put(&[high, low, high, low]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_sctp_listen_at_all_their_addresses() {
        let text = " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n\
                    ffff0 ffff1 2   10  12   80        0 4711 10.0.0.1 fd00:0000:0000:0000:0000:0000:0000:0001\n\
                    ffff2 ffff3 2   10  12   81        0 4712 0000:0000:0000:0000:0000:ffff:0a00:0001 \n\
                    ffff4 ffff5 2   1   12   82        0 4713 10.0.0.1 \n";
        let listens = |addr: &str, number: u16| {
            let port = VipPort {
                addr: addr.parse().unwrap(),
                protocol: Protocol::Sctp,
                port: number.try_into().unwrap(),
            };
            text.lines().any(|line| is_sctp_listener(line, port))
        };
        assert!(listens("10.0.0.1", 80) && listens("fd00::1", 80) && listens("10.0.0.1", 81));
        assert!(!listens("10.0.0.2", 80) && !listens("fd00::1", 81) && !listens("10.0.0.1", 82));
    }
}
