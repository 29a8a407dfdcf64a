//! A packet filter that keeps notifications of our own writes out of a socket's buffer.
//!
//! Each element of a transaction has its notification: those of a large one would overrun any buffer, and the
//! loss would look like lost news of somebody else. The filter runs before the buffer is charged
//! (`do_one_broadcast` in net/netlink/af_netlink.c).

use std::io;

use netlink::Subscription;
use socket2::{SockFilter, SockRef};

const BPF_LD_W_ABS: u16 = 0x20;
const BPF_JEQ_K: u16 = 0x15;
const BPF_RET_K: u16 = 0x06;

/// Offset of `nlmsg_pid` in `struct nlmsghdr`.
const PORT: u32 = 12;

/// Attaches the filter. All messages of a datagram have the same cause, so it suffices to look at the first
/// one.
pub(crate) fn drop_port(subscription: &Subscription, port: u32) -> io::Result<()> {
    SockRef::from(subscription).attach_filter(&program(port))
}

/// Program `if message.nlmsg_pid == port { drop } else { accept }`; jumps count from the next instruction.
const fn program(port: u32) -> [SockFilter; 4] {
    [
        SockFilter::new(BPF_LD_W_ABS, 0, 0, PORT),
        // Loads are in network order, the header is in host order.
        SockFilter::new(BPF_JEQ_K, 0, 1, port.to_be()),
        SockFilter::new(BPF_RET_K, 0, 0, 0),
        SockFilter::new(BPF_RET_K, 0, 0, u32::MAX),
    ]
}
