//! Connections that always come from the same port, and the ways in which they end.
#![expect(unsafe_code, reason = "two socket options that have no safe wrapper")]

use std::{
    io,
    mem::{self, MaybeUninit},
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use crate::ProbeError;

/// Address and port from which every connection comes.
const FROM: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000);

/// An established connection.
pub(crate) struct Client {
    socket: Socket,
    /// Time that it took to establish.
    pub(crate) took: Duration,
}

/// Connects from the one port; `None` if there is no answer in time.
pub(crate) fn connect(to: SocketAddrV4, timeout: Duration) -> Result<Option<Client>, ProbeError> {
    let step = |step| move |source| ProbeError::Socket { step, source };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(step("make a socket"))?;
    socket.set_reuse_address(true).map_err(step("allow a port to be used again"))?;
    socket.bind(&FROM.into()).map_err(step("bind the client's port"))?;
    let start = Instant::now();
    match socket.connect_timeout(&to.into(), timeout) {
        Ok(()) => Ok(Some(Client { socket, took: start.elapsed() })),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
        Err(error) => Err(step("connect")(error)),
    }
}

impl Client {
    /// Tells whether the connection took more than one SYN, which shows a drop also where the clock jumped
    /// meanwhile.
    pub(crate) fn needed_a_retry(&self) -> Result<bool, ProbeError> {
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of the buffer.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            let source = io::Error::last_os_error();
            return Err(ProbeError::Socket { step: "ask for the state of a connection", source });
        }
        // SAFETY: the structure is numbers only, all of them 0 where the kernel, being older, wrote nothing.
        let info = unsafe { info.assume_init() };
        Ok(info.tcpi_total_retrans > 0)
    }

    /// Ends the connection by RST, so that neither side stays in TIME_WAIT.
    pub(crate) fn reset(self) -> Result<(), ProbeError> {
        let source = self.socket.set_linger(Some(Duration::ZERO));
        source.map_err(|source| ProbeError::Socket { step: "arrange for a reset", source })
    }

    /// Ends the connection without a packet, as if the client's machine had lost its power.
    pub(crate) fn vanish(self) -> Result<(), ProbeError> {
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads as many bytes as the value has.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_REPAIR,
                (&raw const on).cast(),
                mem::size_of_val(&on) as libc::socklen_t,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(ProbeError::Socket {
                step: "end a connection without a packet (TCP_REPAIR)",
                source: io::Error::last_os_error(),
            }),
        }
    }
}

/// Opens a server on loopback that never accepts: the kernel answers for it.
pub(crate) fn listen(at: SocketAddrV4) -> Result<TcpListener, ProbeError> {
    TcpListener::bind(at).map_err(|source| ProbeError::Socket { step: "listen on loopback", source })
}
