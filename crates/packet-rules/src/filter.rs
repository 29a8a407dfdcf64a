//! A filter in the kernel that keeps notifications of one sender out of a socket's buffer.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// Offset of `nlmsg_pid` in `struct nlmsghdr`.
const PORT: u32 = 12;
/// Accept the whole message.
const ACCEPT: u32 = u32::MAX;

/// Drops datagrams whose first message was caused by `port`; all messages of a datagram have the same cause.
pub(crate) fn drop_port(socket: BorrowedFd<'_>, port: u32) -> io::Result<()> {
    let mut program = program(port);
    let filter = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let (pointer, len) = (&raw const filter, size_of::<sock_fprog>() as u32);
    #[expect(unsafe_code, reason = "no crate of ours attaches filters")]
    // SAFETY: the option takes a sock_fprog of this size, whose program is alive; the kernel copies it.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, pointer.cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `if (message.nlmsg_pid == port) drop; else accept`
const fn program(port: u32) -> [sock_filter; 4] {
    const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
        sock_filter { code: code as u16, jt, jf, k }
    }
    [
        instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, PORT),
        // Loads are in network order, the header is in host order.
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, port.to_be()),
        instruction(BPF_RET | BPF_K, 0, 0, 0),
        instruction(BPF_RET | BPF_K, 0, 0, ACCEPT),
    ]
}
