//! Sockets of all three transports with what the standard library lacks: bind before connect, and SCTP.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, ipproto,
    sockopt::{self, Timeout},
};

use super::Proto;

/// Accept queue of servers: longer than any load here, so that a slow server never looks like a lost packet.
const BACKLOG: i32 = 1024;

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn kind(proto: Proto) -> (SocketType, Option<Protocol>) {
    match proto {
        Proto::Tcp => (SocketType::STREAM, None),
        Proto::Udp => (SocketType::DGRAM, None),
        Proto::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    }
}

fn open(proto: Proto, address: SocketAddr) -> io::Result<OwnedFd> {
    let (kind, protocol) = kind(proto);
    let socket = rustix::net::socket_with(family(address), kind, SocketFlags::CLOEXEC, protocol)?;
    // This allows binding a port whose last connection is still in TIME_WAIT, which is the point of port
    // reuse.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// Address that means "any" in the family of `other`.
pub fn any(other: SocketAddr) -> SocketAddr {
    let ip =
        if other.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}

/// A socket bound to `from`, with a timeout on everything it will do.
pub fn bound(proto: Proto, from: SocketAddr, timeout: Duration) -> io::Result<OwnedFd> {
    let socket = open(proto, from)?;
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(timeout))?;
    if from != any(from) {
        rustix::net::bind(&socket, &from)?;
    }
    Ok(socket)
}

/// Connects a bound TCP or SCTP socket; SCTP streams behave like TCP ones for everything done with them here.
pub fn connect_stream(socket: OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// Connects a bound UDP socket, so that ICMP errors come back as errno.
pub fn connect_datagram(socket: OwnedFd, to: SocketAddr) -> io::Result<UdpSocket> {
    rustix::net::connect(&socket, &to)?;
    Ok(UdpSocket::from(socket))
}

/// A listening TCP or SCTP socket.
pub fn listen(proto: Proto, at: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(proto, at)?;
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// A UDP socket bound to `at`.
pub fn receive(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(Proto::Udp, at)?;
    rustix::net::bind(&socket, &at)?;
    Ok(UdpSocket::from(socket))
}

/// An ICMP echo socket towards `to`; the kernel fills in identifier and checksum.
///
/// Only the groups in `net.ipv4.ping_group_range` of the network namespace may open it.
pub fn echo(to: IpAddr, timeout: Duration) -> io::Result<UdpSocket> {
    let to = SocketAddr::new(to, 0);
    let protocol = if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
    let socket =
        rustix::net::socket_with(family(to), SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol))?;
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(timeout))?;
    connect_datagram(socket, to)
}
