//! A server, and clients that count what their packets cost.
//!
//! Client, server and kernel share the one processor, and one of them always has something to do: the time that passes
//! is the work of all three.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use testkit::NetNs;

use super::count;

/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections before those that are counted: routes, neighbours and caches are in place then.
const WARM_UP: usize = 50;

/// Counted connections.
const CONNECTIONS: usize = 500;

/// Counted exchanges of one connection.
const EXCHANGES: usize = 1_000;

/// Byte that ends the server.
const END: u8 = 0;

/// Server that answers byte for byte, one connection after the other. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    namespace: NetNs,
    at: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server on all addresses of a namespace.
    pub fn start(namespace: &NetNs, port: u16) -> Result<Server> {
        let listener = namespace.enter(|| TcpListener::bind(("::", port))).context("binding the server")?;
        let thread = thread::spawn(move || {
            while let Ok((connection, _)) = listener.accept() {
                if serve(connection).is_ok_and(|byte| byte == Some(END)) {
                    return;
                }
            }
        });
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Server { namespace: namespace.clone(), at, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let end = self.namespace.enter(|| TcpStream::connect(self.at)?.write_all(&[END]));
        if let (Ok(()), Some(thread)) = (end, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Answers until the client closes, or wants the server to end; returns the last byte.
fn serve(mut connection: TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [1];
    let mut last = None;
    while last != Some(END) && connection.read(&mut byte)? > 0 {
        last = Some(byte[0]);
        connection.write_all(&byte)?;
    }
    Ok(last)
}

/// Instructions of traffic from a namespace to an address, by unit: for each short connection, and for each exchange of
/// a byte for a byte within one.
pub fn measure(from: &NetNs, to: SocketAddr) -> Result<[(&'static str, f64); 2]> {
    from.enter(|| {
        TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connecting to {to}"))?;
        let connections = |number: usize| (0..number).try_for_each(|_| connect(to, 1));
        connections(WARM_UP)?;
        let ((), connections) = count(|| connections(CONNECTIONS))?;
        let ((), exchanges) = count(|| connect(to, EXCHANGES))?;
        Ok([("connection", connections / CONNECTIONS as f64), ("exchange", exchanges / EXCHANGES as f64)])
    })
}

fn connect(to: SocketAddr, exchanges: usize) -> Result<()> {
    let mut connection = TcpStream::connect(to)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0];
    for _ in 0..exchanges {
        connection.write_all(&[1])?;
        connection.read_exact(&mut answer)?;
    }
    Ok(())
}
