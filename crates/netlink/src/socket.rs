//! A netlink socket that never blocks, with its buffers and counters.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use netlink_sys::SocketAddr;
use rustix::net::sockopt;

use crate::Error;

/// A netlink subsystem (`NETLINK_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub i32);

impl Protocol {
    /// Links, addresses, routes, rules.
    pub const ROUTE: Protocol = Protocol(libc::NETLINK_ROUTE);
    /// Tables of nf_tables and connection tracking.
    pub const NETFILTER: Protocol = Protocol(libc::NETLINK_NETFILTER);
    /// Sockets of this node.
    pub const SOCK_DIAG: Protocol = Protocol(libc::NETLINK_SOCK_DIAG);
    /// Generic netlink.
    pub const GENERIC: Protocol = Protocol(libc::NETLINK_GENERIC);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ROUTE => f.write_str("NETLINK_ROUTE"),
            Protocol::NETFILTER => f.write_str("NETLINK_NETFILTER"),
            Protocol::SOCK_DIAG => f.write_str("NETLINK_SOCK_DIAG"),
            Protocol::GENERIC => f.write_str("NETLINK_GENERIC"),
            Protocol(number) => write!(f, "netlink protocol {number}"),
        }
    }
}

/// Desired sizes of the kernel's buffers of a socket, in bytes.
///
/// Without the privilege to exceed net.core.{w,r}mem_max, the socket gets what these allow.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// Size of the send buffer, which bounds one `send`.
    pub send: usize,
    /// Size of the receive buffer, which bounds the replies or notifications that wait.
    pub receive: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers { send: 1 << 20, receive: 4 << 20 }
    }
}

/// Numbers of system calls, messages and bytes of a socket, for tests, benchmarks and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `send`.
    pub sends: u64,
    /// Calls of `recv`, including those that found nothing.
    pub receives: u64,
    /// Messages sent.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Dumps, and their repetitions, that the kernel marked as interrupted: the table changed meanwhile.
    pub dumps_interrupted: u64,
}

impl std::ops::Add for Counters {
    type Output = Counters;

    /// Sum for two sockets.
    fn add(self, other: Counters) -> Counters {
        Counters {
            sends: self.sends + other.sends,
            receives: self.receives + other.receives,
            messages_sent: self.messages_sent + other.messages_sent,
            messages_received: self.messages_received + other.messages_received,
            bytes_sent: self.bytes_sent + other.bytes_sent,
            dumps_interrupted: self.dumps_interrupted + other.dumps_interrupted,
        }
    }
}

/// Result of one attempt to receive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A datagram, whole, in the buffer.
    Datagram,
    /// A datagram of `size` bytes was cut off and lost; the buffer is now large enough for one like it.
    Truncated { size: usize },
    /// The kernel dropped messages because the socket's buffer was full.
    Overrun,
    /// Nothing is waiting.
    Nothing,
}

/// Size of the receive buffer in bytes. The kernel sizes dump datagrams after the largest buffer seen, up to
/// 32 KiB (`netlink_recvmsg`).
const RECEIVE_BUFFER: usize = 64 << 10;

pub(crate) struct RawSocket {
    /// The socket, shared with [`crate::Membership`]s, which other threads use.
    inner: Arc<netlink_sys::Socket>,
    port_id: u32,
    buffer: Vec<u8>,
    pub(crate) counters: Counters,
}

impl RawSocket {
    pub(crate) fn open(protocol: Protocol, buffers: &Buffers) -> Result<Self, Error> {
        let open = || -> io::Result<(netlink_sys::Socket, u32)> {
            let mut inner = netlink_sys::Socket::new(protocol.0 as isize)?;
            let port_id = inner.bind_auto()?.port_number();
            // From now on only the kernel can send to this socket (netlink_getsockbyportid).
            inner.connect(&SocketAddr::new(0, 0))?;
            Ok((inner, port_id))
        };
        let (inner, port_id) = open().map_err(|source| Error::Open { protocol, source })?;
        let socket = RawSocket {
            inner: Arc::new(inner),
            port_id,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
            counters: Counters::default(),
        };
        socket.set_buffers(buffers)?;
        // These give texts of errors, and error replies without a copy of the request; everything works
        // without them. Linux has both from 4.12 on.
        let _ = socket.inner.set_ext_ack(true);
        let _ = socket.inner.set_cap_ack(true);
        Ok(socket)
    }

    fn set_buffers(&self, buffers: &Buffers) -> Result<(), Error> {
        let option = |option| move |e: rustix::io::Errno| Error::SocketOption { option, source: e.into() };
        sockopt::set_socket_send_buffer_size_force(self, buffers.send)
            .or_else(|_| sockopt::set_socket_send_buffer_size(self, buffers.send))
            .map_err(option("SO_SNDBUF"))?;
        sockopt::set_socket_recv_buffer_size_force(self, buffers.receive)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(self, buffers.receive))
            .map_err(option("SO_RCVBUF"))
    }

    /// Buffers that the kernel really granted.
    pub(crate) fn granted(&self) -> Buffers {
        Buffers {
            send: sockopt::socket_send_buffer_size(self).unwrap_or(0),
            receive: sockopt::socket_recv_buffer_size(self).unwrap_or(0),
        }
    }

    pub(crate) fn set_strict_check(&self) -> Result<(), Error> {
        self.inner
            .set_netlink_get_strict_chk(true)
            .map_err(|source| Error::SocketOption { option: "NETLINK_GET_STRICT_CHK", source })
    }

    pub(crate) fn join(&self, protocol: Protocol, group: u32) -> Result<(), Error> {
        self.inner.add_membership(group).map_err(|source| Error::Join { protocol, group, source })
    }

    pub(crate) fn shared(&self) -> Arc<netlink_sys::Socket> {
        Arc::clone(&self.inner)
    }

    pub(crate) fn port_id(&self) -> u32 {
        self.port_id
    }

    /// Sends one datagram of `messages` messages, which the kernel has executed when this returns.
    pub(crate) fn send(&mut self, datagram: &[u8], messages: usize) -> Result<(), Error> {
        self.counters.sends += 1;
        match self.inner.send(datagram, 0) {
            Ok(_) => {
                self.counters.messages_sent += messages as u64;
                self.counters.bytes_sent += datagram.len() as u64;
                Ok(())
            }
            Err(source) => Err(Error::Send { bytes: datagram.len(), messages, source }),
        }
    }

    /// Receives one datagram if one is waiting, into [`RawSocket::datagram`].
    pub(crate) fn receive(&mut self) -> Result<Received, Error> {
        loop {
            self.counters.receives += 1;
            self.buffer.clear();
            // With MSG_TRUNC the result is the size of the datagram, not that of the part that fits.
            match self.inner.recv(&mut self.buffer, libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
                Ok(size) if size > self.buffer.len() => {
                    self.buffer = Vec::with_capacity(size.next_power_of_two());
                    return Ok(Received::Truncated { size });
                }
                Ok(_) => return Ok(Received::Datagram),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Received::Overrun),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(source) => return Err(Error::Receive { source }),
            }
        }
    }

    /// The last datagram that was received.
    pub(crate) fn datagram(&self) -> &[u8] {
        &self.buffer
    }

    #[cfg(test)]
    pub(crate) fn shrink_receive_buffer(&mut self, bytes: usize) {
        self.buffer = Vec::with_capacity(bytes);
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}
