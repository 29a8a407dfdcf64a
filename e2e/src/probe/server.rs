//! The server inside a pod: one process, any number of listeners of any transport.
//!
//! Requests are lines, answers are lines (`pod=NAME peer=ADDRESS`):
//!
//! - `short`: answer, then close from this side, so that TIME_WAIT stays here and the client's port is free
//!   at once;
//! - `talk`: answer and keep the connection for the next line;
//! - `download N MS`: N lines of 1024 bytes, one every MS milliseconds, then close.
//!
//! A datagram is answered by a datagram, whatever it says.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{Answer, Proto, errno, socket};

/// Bytes of one line of a download, newline included.
pub const DOWNLOAD_LINE: usize = 1024;

/// Size in bytes of a thread's stack; a thread for one connection needs little.
const STACK_BYTES: usize = 128 * 1024;

/// Time for which a silent connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Transport and address of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Transport.
    pub proto: Proto,
    /// Address; a pod's own address rather than "any" for SCTP, which would announce all of them to its peer.
    pub at: SocketAddr,
}

/// Opens all listeners; they accept from now on, and detached threads serve them.
pub fn start(name: &str, listeners: &[Listener]) -> io::Result<()> {
    let name: Arc<str> = name.into();
    for listener in listeners {
        let name = Arc::clone(&name);
        let explain = |error: io::Error| {
            io::Error::new(error.kind(), format!("listen on {} {}: {error}", listener.proto, listener.at))
        };
        if listener.proto == Proto::Udp {
            let socket = socket::receive(listener.at).map_err(explain)?;
            spawn(move || answer_datagrams(&name, &socket))?;
        } else {
            match socket::listen(listener.proto, listener.at) {
                Ok(socket) => spawn(move || accept_streams(&name, &socket))?,
                // A kernel has no SCTP: the clients that need it will say so.
                Err(error) if listener.proto == Proto::Sctp && errno::name(&error) == "EPROTONOSUPPORT" => {}
                Err(error) => return Err(explain(error)),
            }
        }
    }
    Ok(())
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().stack_size(STACK_BYTES).spawn(work).map(drop)
}

fn answer_datagrams(name: &str, socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        // An error here is an ICMP error caused by an earlier answer: that peer is gone, others are not.
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let answer = Answer { pod: name.to_owned(), peer };
            let _ = socket.send_to(answer.to_string().as_bytes(), peer);
        }
    }
}

fn accept_streams(name: &Arc<str>, listener: &TcpListener) {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let name = Arc::clone(name);
                // The client reports a connection that fails.
                let _ = spawn(move || drop(serve(&name, stream, peer)));
            }
            // File descriptors have run out, or the peer left between its handshake and accept().
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn serve(name: &str, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    let answer = format!("{}\n", Answer { pod: name.to_owned(), peer });
    let mut requests = BufReader::new(stream.try_clone()?).lines();
    while let Some(request) = requests.next().transpose()? {
        let words: Vec<&str> = request.split_whitespace().collect();
        match words[..] {
            ["talk"] => stream.write_all(answer.as_bytes())?,
            ["download", lines, pause] => {
                return download(stream, number(lines)?, Duration::from_millis(number(pause)?));
            }
            _ => return stream.write_all(answer.as_bytes()),
        }
    }
    Ok(())
}

fn number(word: &str) -> io::Result<u64> {
    word.parse().map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn download(mut stream: TcpStream, lines: u64, pause: Duration) -> io::Result<()> {
    let mut line = vec![b'.'; DOWNLOAD_LINE];
    line[DOWNLOAD_LINE - 1] = b'\n';
    for _ in 0..lines {
        stream.write_all(&line)?;
        thread::sleep(pause);
    }
    Ok(())
}
