//! A network namespace for the calling thread alone.

use netlink::{Batch, Buffers, Protocol, RequestSocket};
use rustix::thread::UnshareFlags;

use crate::ProbeError;

/// Message type RTM_NEWLINK.
const NEW_LINK: u16 = 16;
/// Link flag IFF_UP.
const UP: u32 = 1;
/// Index of loopback, the only link that a new network namespace has.
const LOOPBACK_INDEX: u32 = 1;

/// Moves the calling thread into a new network namespace with loopback up.
pub(crate) fn enter() -> Result<(), ProbeError> {
    #[expect(unsafe_code, reason = "unshare is unsafe in rustix because of the flag FILES, unused here")]
    // SAFETY: NEWNET changes only which network this thread sees; file descriptors stay shared.
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
    unshared.map_err(|error| ProbeError::Namespace(error.into()))?;
    loopback_up().map_err(ProbeError::Loopback)
}

fn loopback_up() -> Result<(), netlink::Error> {
    let mut socket = RequestSocket::open(Protocol::ROUTE, &Buffers { send: 4 << 10, receive: 32 << 10 })?;
    let mut batch = Batch::new();
    batch.push(NEW_LINK, 0, |message| {
        // These are the fields of struct ifinfomsg: family and type, index, flags, mask of the flags to
        // change.
        for field in [0, LOOPBACK_INDEX, UP, UP] {
            message.put(&field.to_ne_bytes());
        }
    });
    let outcome = socket.execute(&mut batch)?;
    match outcome.failures.into_iter().next() {
        Some(failure) => Err(failure.into()),
        None if outcome.replies_lost => Err(netlink::Error::RepliesLost),
        None => Ok(()),
    }
}
