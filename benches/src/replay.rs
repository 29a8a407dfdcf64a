//! Recorded writes, sent again with nothing around them: the time that the kernel itself needs for them.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;

use crate::{node::Node, tap::Datagram};

/// Size of the buffers in bytes: as large as any sender's, so that the pieces fit.
const BUFFER_BYTES: usize = 8 << 20;

/// Message type NLMSG_ERROR.
const MESSAGE_ERROR: i32 = 2;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Durations of the writes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replayed {
    /// Time for sending everything and reading the answers.
    pub all: Duration,
    /// Part of it for the writes to IPVS.
    pub ipvs: Duration,
}

/// Sends the datagrams in order, each over a socket of its protocol, and reads the answers; the first error
/// ends it.
pub fn replay(node: &Node, datagrams: &[Datagram]) -> Result<Replayed> {
    node.ns.enter(|| {
        let mut sockets = BTreeMap::new();
        for datagram in datagrams {
            if let Entry::Vacant(entry) = sockets.entry(datagram.protocol) {
                entry.insert(open(datagram.protocol)?);
            }
        }
        let mut buffer = Vec::with_capacity(1 << 20);
        let mut replayed = Replayed::default();
        for (index, datagram) in datagrams.iter().enumerate() {
            let start = Instant::now();
            let socket = &sockets[&datagram.protocol];
            socket.send(&datagram.bytes, 0).with_context(|| format!("sending datagram {index}"))?;
            drain(socket, &mut buffer)
                .with_context(|| format!("datagram {index}: {}", datagram.summary()))?;
            let took = start.elapsed();
            replayed.all += took;
            if datagram.protocol == libc::NETLINK_GENERIC {
                replayed.ipvs += took;
            }
        }
        Ok(replayed)
    })
}

fn open(protocol: i32) -> Result<Socket> {
    let open = || -> io::Result<Socket> {
        let mut socket = Socket::new(isize::try_from(protocol).map_err(io::Error::other)?)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        sockopt::set_socket_send_buffer_size_force(&socket, BUFFER_BYTES)?;
        sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)?;
        Ok(socket)
    };
    open().with_context(|| format!("opening a socket of netlink protocol {protocol}"))
}

/// Reads the kernel's answers, all of which are there: it executes requests inside `send`.
fn drain(socket: &Socket, buffer: &mut Vec<u8>) -> Result<()> {
    loop {
        buffer.clear();
        match socket.recv(buffer, libc::MSG_DONTWAIT) {
            Ok(_) => {
                if let Some(errno) = first_error(buffer) {
                    bail!("the kernel refused a message: {}", io::Error::from_raw_os_error(errno));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("reading answers"),
        }
    }
}

/// The first error number of a datagram of answers.
fn first_error(mut bytes: &[u8]) -> Option<i32> {
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|field| field.try_into().ok()).map(i32::from_ne_bytes)
    };
    while let Some(length) = number(bytes, 0) {
        let kind = number(bytes, 4)? & 0xffff;
        let errno = number(bytes, HEADER).filter(|errno| kind == MESSAGE_ERROR && *errno != 0);
        if let Some(errno) = errno {
            return Some(-errno);
        }
        let next = usize::try_from(length).ok()?.max(HEADER).next_multiple_of(4);
        bytes = bytes.get(next..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::first_error;

    #[test]
    fn errors_are_found_behind_acknowledgements() {
        let answer = |errno: i32| {
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.extend(2_u16.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(errno.to_ne_bytes());
            bytes.extend([0; 16]);
            bytes
        };
        assert_eq!(first_error(&answer(0)), None);
        assert_eq!(first_error(&[answer(0), answer(-17)].concat()), Some(17));
        assert_eq!(first_error(&[]), None);
    }
}
