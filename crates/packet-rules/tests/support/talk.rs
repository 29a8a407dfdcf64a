//! Servers that say whom they see, and clients that ask them.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use lb_types::Protocol;
use socket2::{Domain, Socket, Type};
use testkit::NetNs;

/// How long a client waits before it calls the other side silent.
const PATIENCE: Duration = Duration::from_secs(8);

/// The same where silence is what the test is about.
const BRIEFLY: Duration = Duration::from_secs(1);

/// A server that ends with the test's process.
pub fn serve(ns: &NetNs, protocol: Protocol, at: &str) {
    let addr: SocketAddr = at.parse().expect("addresses of tests are valid");
    let socket =
        ns.enter(|| listen(protocol, addr)).unwrap_or_else(|e| panic!("listen on {protocol} {at}: {e}"));
    std::thread::spawn(move || match protocol {
        Protocol::Udp => serve_datagrams(&socket),
        Protocol::Tcp | Protocol::Sctp => serve_connections(socket),
    });
}

fn listen(protocol: Protocol, addr: SocketAddr) -> io::Result<Socket> {
    let socket = open(protocol, addr)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    if protocol != Protocol::Udp {
        socket.listen(128)?;
    }
    Ok(socket)
}

fn open(protocol: Protocol, addr: SocketAddr) -> io::Result<Socket> {
    let kind = if protocol == Protocol::Udp { Type::DGRAM } else { Type::STREAM };
    Socket::new(Domain::for_address(addr), kind, Some(i32::from(protocol.number()).into()))
}

fn serve_datagrams(socket: &Socket) {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
    while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(name(&peer).as_bytes(), &peer);
    }
}

fn serve_connections(listener: Socket) {
    while let Ok((mut connection, peer)) = listener.accept() {
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while connection.read(&mut buffer).is_ok_and(|len| len > 0) {
                if connection.write_all(name(&peer).as_bytes()).is_err() {
                    break;
                }
            }
        });
    }
}

fn name(peer: &socket2::SockAddr) -> String {
    peer.as_socket().map(|peer| peer.ip().to_string()).unwrap_or_default()
}

/// A connection to a server made by [`serve`].
pub struct Connection {
    socket: Arc<Socket>,
}

/// Why a client has no answer.
#[derive(Debug)]
pub struct Failure {
    pub error: io::Error,
    pub after: Duration,
}

impl Failure {
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }
}

impl Connection {
    /// Connects from a namespace, where necessary from a certain address.
    pub fn open(
        ns: &NetNs,
        protocol: Protocol,
        to: SocketAddr,
        from: Option<IpAddr>,
    ) -> Result<Self, Failure> {
        ns.enter(|| {
            timed(|| {
                let socket = open(protocol, to)?;
                if let Some(from) = from {
                    socket.bind(&SocketAddr::new(from, 0).into())?;
                }
                socket.connect_timeout(&to.into(), PATIENCE)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(Connection { socket: Arc::new(socket) })
            })
        })
    }

    /// Asks the server whom it sees.
    pub fn ask(&self) -> Result<IpAddr, Failure> {
        timed(|| (&*self.socket).write_all(b"who am I?"))?;
        self.listen()
    }

    /// Its end here.
    pub fn local(&self) -> SocketAddr {
        let local = self.socket.local_addr().expect("a connected socket has an address");
        local.as_socket().expect("an address of IP")
    }

    /// Asks without waiting for an answer.
    pub fn tell(&self) {
        (&*self.socket).write_all(b"who am I?").expect("room for a packet");
    }

    /// Asks whom the server sees where no answer is expected, and does not wait for one for long.
    pub fn ask_briefly(&self) -> Result<IpAddr, Failure> {
        timed(|| self.socket.set_read_timeout(Some(BRIEFLY)))?;
        let answer = self.ask();
        timed(|| self.socket.set_read_timeout(Some(PATIENCE)))?;
        answer
    }

    /// Errors that its end here has heard of, also if that does not end it.
    pub fn error(&self) -> Option<io::Error> {
        self.socket.take_error().expect("a socket tells its error")
    }

    /// Waits for an answer, or what comes instead.
    pub fn listen(&self) -> Result<IpAddr, Failure> {
        timed(|| {
            let mut socket = &*self.socket;
            let mut buffer = [0; 64];
            let len = socket.read(&mut buffer)?;
            let text = String::from_utf8_lossy(&buffer[..len]);
            text.parse().map_err(|_| io::Error::other(format!("the answer is {text:?}")))
        })
    }
}

fn timed<T>(f: impl FnOnce() -> io::Result<T>) -> Result<T, Failure> {
    let start = Instant::now();
    f().map_err(|error| Failure { error, after: start.elapsed() })
}

/// The address that a server sees of a client.
pub fn ask(ns: &NetNs, protocol: Protocol, to: SocketAddr) -> Result<IpAddr, Failure> {
    Connection::open(ns, protocol, to, None)?.ask()
}

pub fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse().expect("addresses of tests are valid"), port)
}
