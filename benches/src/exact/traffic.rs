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

/// Connections, and exchanges of one, before those that are counted: routes, neighbours and caches are in place then.
const WARM_UP: usize = 50;

/// Groups that are counted one by one; the median is taken, so that work of the kernel in the background does not count.
const GROUPS: usize = 5;

/// Connections of a group.
const CONNECTIONS: usize = 100;

/// Exchanges of a group.
const EXCHANGES: usize = 200;

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
    // A client whose packets come no more must not keep the server from ending.
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [1];
    let mut last = None;
    while last != Some(END) && connection.read(&mut byte)? > 0 {
        last = Some(byte[0]);
        connection.write_all(&byte)?;
    }
    Ok(last)
}

/// Instructions of traffic from a namespace to an address, by unit: for each short connection, and for each exchange of
/// a byte for a byte within one, which is two packets.
pub fn measure(from: &NetNs, to: SocketAddr) -> Result<[(&'static str, f64); 2]> {
    from.enter(|| {
        let mut connection =
            TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connecting to {to}"))?;
        exchange(&mut connection, WARM_UP)?;
        let exchanges = median(EXCHANGES, || exchange(&mut connection, EXCHANGES))?;
        drop(connection);
        let connect = |number: usize| (0..number).try_for_each(|_| exchange(&mut TcpStream::connect(to)?, 1));
        connect(WARM_UP)?;
        let connections = median(CONNECTIONS, || connect(CONNECTIONS))?;
        Ok([("connection", connections), ("exchange", exchanges)])
    })
}

/// Instructions for each of `number` parts of some work, the median of several groups.
fn median(number: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut groups = (0..GROUPS).map(|_| count(&mut work)).collect::<Result<Vec<_>>>()?;
    groups.sort_by(f64::total_cmp);
    Ok(groups[GROUPS / 2] / number as f64)
}

fn exchange(connection: &mut TcpStream, number: usize) -> Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0];
    for _ in 0..number {
        connection.write_all(&[1])?;
        connection.read_exact(&mut answer)?;
    }
    Ok(())
}
