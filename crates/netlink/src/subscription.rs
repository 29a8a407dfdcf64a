//! Notifications of multicast groups.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::Arc,
};

use crate::{
    Buffers, Counters, Error, Message, Messages, Protocol,
    socket::{RawSocket, Received},
};

/// Datagrams that one [`Subscription::drain`] reads at most, so that a storm cannot hold its caller for ever.
const DATAGRAMS_PER_DRAIN: usize = 1024;

/// Result of a drain, besides the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// True if notifications were dropped: anything may have changed.
    pub lost: bool,
    /// True if there may be more: drain again before waiting for the descriptor.
    pub more: bool,
}

/// A socket that listens to multicast groups, in the network namespace of the thread that opened it.
///
/// It never blocks: wait until the descriptor ([`AsFd`], [`AsRawFd`]) is readable, then
/// [`Subscription::drain`].
pub struct Subscription {
    socket: RawSocket,
    /// Ports whose changes are left out.
    ignored: Vec<u32>,
}

impl Subscription {
    /// Joins multicast groups by number (`RTNLGRP_*`, `NFNLGRP_*`, or as resolved by
    /// [`crate::genl::resolve`]).
    pub fn open(protocol: Protocol, groups: &[u32]) -> Result<Self, Error> {
        Subscription::open_with(protocol, groups, &Buffers::default())
    }

    /// Does the same as [`Subscription::open`] with other buffers.
    pub fn open_with(protocol: Protocol, groups: &[u32], buffers: &Buffers) -> Result<Self, Error> {
        let socket = RawSocket::open(protocol, buffers)?;
        for group in groups {
            socket.join(protocol, *group)?;
        }
        Ok(Subscription { socket, ignored: Vec::new() })
    }

    /// Leaves out changes by one of our own sockets ([`crate::RequestSocket::port_id`]).
    pub fn ignore_port(&mut self, port_id: u32) {
        self.ignored.push(port_id);
    }

    /// Its membership in a group, which another thread than the one that listens can end and renew.
    pub fn membership(&self, protocol: Protocol, group: u32) -> Membership {
        Membership { socket: self.socket.shared(), protocol, group }
    }

    /// Numbers of system calls, messages and bytes of the socket so far.
    pub fn counters(&self) -> Counters {
        self.socket.counters
    }

    /// Hands every waiting notification to `each`.
    pub fn drain(&mut self, mut each: impl FnMut(&Message<'_>)) -> Result<Drained, Error> {
        let mut drained = Drained::default();
        for _ in 0..DATAGRAMS_PER_DRAIN {
            match self.socket.receive()? {
                Received::Datagram => {}
                Received::Truncated { .. } | Received::Overrun => {
                    drained.lost = true;
                    continue;
                }
                Received::Nothing => return Ok(drained),
            }
            let mut received = 0;
            for message in Messages::new(self.socket.datagram()) {
                received += 1;
                if message.port_id == 0 || !self.ignored.contains(&message.port_id) {
                    each(&message);
                }
            }
            self.socket.counters.messages_received += received;
        }
        Ok(Drained { more: true, ..drained })
    }
}

/// Membership of a [`Subscription`] in one multicast group.
#[derive(Clone)]
pub struct Membership {
    socket: Arc<netlink_sys::Socket>,
    protocol: Protocol,
    group: u32,
}

impl Membership {
    /// Ends the membership: the subscription hears nothing more of the group, and if nobody else listens, the
    /// kernel does not even build notifications.
    pub fn leave(&self) -> Result<(), Error> {
        let failed = |source| Error::SocketOption { option: "NETLINK_DROP_MEMBERSHIP", source };
        self.socket.drop_membership(self.group).map_err(failed)
    }

    /// Renews the membership: the subscription hears of the group again.
    pub fn join(&self) -> Result<(), Error> {
        let (protocol, group) = (self.protocol, self.group);
        self.socket.add_membership(group).map_err(|source| Error::Join { protocol, group, source })
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Subscription {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
