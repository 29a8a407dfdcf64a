//! One question, one answer: the client for everything that is not measured under load.

use std::{
    fmt,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Answer, Failure, Proto, Stage, socket};

/// A question.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Transport.
    pub proto: Proto,
    /// Address to connect to.
    pub to: SocketAddr,
    /// Source to bind; `None` leaves it to the kernel.
    pub from: Option<SocketAddr>,
    /// Bound on connect, and again on the answer.
    pub timeout: Duration,
}

/// Result of a question.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Answer, or the failure in its place.
    pub result: Result<Answer, Failure>,
    /// Address and port of the client, once it had one.
    pub local: Option<SocketAddr>,
    /// Time from before the connect to the end of the answer.
    pub took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(answer) => write!(f, "{answer}")?,
            Err(failure) => write!(f, "{failure}")?,
        }
        write!(f, " after {} ms", self.took.as_millis())
    }
}

/// Asks once, from the calling thread's network namespace.
pub fn ask(question: &Question) -> Outcome {
    let start = Instant::now();
    let mut local = None;
    let result = match question.proto {
        Proto::Udp => ask_datagram(question, &mut local),
        Proto::Tcp | Proto::Sctp => ask_stream(question, b"short\n", &mut local),
    };
    Outcome { result, local, took: start.elapsed() }
}

fn ask_stream(
    question: &Question,
    request: &[u8],
    local: &mut Option<SocketAddr>,
) -> Result<Answer, Failure> {
    let from = question.from.unwrap_or_else(|| socket::any(question.to));
    let socket = socket::bound(question.proto, from, question.timeout)
        .map_err(|error| Failure::new(Stage::Local, &error))?;
    let mut stream = socket::connect_stream(socket, question.to).map_err(|error| {
        // The local port is still in use: nothing has left the client.
        let stage = match error.kind() {
            std::io::ErrorKind::AddrNotAvailable | std::io::ErrorKind::AddrInUse => Stage::Local,
            _ => Stage::Connect,
        };
        Failure::new(stage, &error)
    })?;
    *local = stream.local_addr().ok();
    stream.write_all(request).map_err(|error| Failure::new(Stage::Send, &error))?;
    let mut reader = BufReader::new(stream);
    let answer = read_answer(&mut reader)?;
    // The server closes: the client reads up to its FIN, so that the server keeps TIME_WAIT.
    let mut rest = String::new();
    match reader.read_line(&mut rest) {
        Ok(0) => Ok(answer),
        Ok(_) => Err(Failure { stage: Stage::Receive, error: "GARBAGE".to_owned() }),
        Err(error) => Err(Failure::new(Stage::Receive, &error)),
    }
}

/// Reads one line and parses it.
fn read_answer(reader: &mut impl BufRead) -> Result<Answer, Failure> {
    let mut line = String::new();
    match reader.read_line(&mut line) {
        Ok(0) => Err(Failure::eof()),
        Ok(_) => line.parse().map_err(|_| Failure { stage: Stage::Receive, error: "GARBAGE".to_owned() }),
        Err(error) => Err(Failure::new(Stage::Receive, &error)),
    }
}

fn ask_datagram(question: &Question, local: &mut Option<SocketAddr>) -> Result<Answer, Failure> {
    let from = question.from.unwrap_or_else(|| socket::any(question.to));
    let socket = socket::bound(Proto::Udp, from, question.timeout)
        .map_err(|error| Failure::new(Stage::Local, &error))?;
    let socket = socket::connect_datagram(socket, question.to)
        .map_err(|error| Failure::new(Stage::Connect, &error))?;
    *local = socket.local_addr().ok();
    socket.send(b"talk").map_err(|error| Failure::new(Stage::Send, &error))?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).map_err(|error| Failure::new(Stage::Receive, &error))?;
    let line = String::from_utf8_lossy(&buffer[..length]);
    line.parse().map_err(|_| Failure { stage: Stage::Receive, error: "GARBAGE".to_owned() })
}

/// Sends one ICMP echo; returns the round trip.
pub fn ping(to: IpAddr, timeout: Duration) -> Result<Duration, Failure> {
    let start = Instant::now();
    let socket = socket::echo(to, timeout).map_err(|error| Failure::new(Stage::Local, &error))?;
    // The fields are: type, code, checksum (the kernel's), identifier (the kernel's), sequence number, a
    // little data.
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let request = [kind, 0, 0, 0, 0, 0, 0, 1, b'p', b'r', b'o', b'b', b'e'];
    socket.send(&request).map_err(|error| Failure::new(Stage::Send, &error))?;
    let mut reply = [0; 128];
    let length = socket.recv(&mut reply).map_err(|error| Failure::new(Stage::Receive, &error))?;
    if reply[..length].ends_with(b"probe") {
        Ok(start.elapsed())
    } else {
        Err(Failure { stage: Stage::Receive, error: "GARBAGE".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::{Question, ask};
    use crate::probe::server::{Listener, start};
    use crate::probe::{Proto, Stage};

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn question(proto: Proto, to: SocketAddr) -> Question {
        Question { proto, to, from: None, timeout: TIMEOUT }
    }

    #[test]
    fn both_transports_of_both_families_are_answered() {
        for (proto, at) in [
            (Proto::Tcp, "127.0.0.1:34511"),
            (Proto::Udp, "127.0.0.1:34511"),
            (Proto::Tcp, "[::1]:34511"),
            (Proto::Udp, "[::1]:34511"),
        ] {
            let at = at.parse().unwrap();
            start("here", &[Listener { proto, at }]).unwrap();
            let outcome = ask(&question(proto, at));
            let answer = outcome.result.unwrap();
            assert_eq!((answer.pod.as_str(), Some(answer.peer)), ("here", outcome.local));
        }
    }

    #[test]
    fn nobody_there_is_refused() {
        let tcp = ask(&question(Proto::Tcp, "127.0.0.1:1".parse().unwrap())).result.unwrap_err();
        assert_eq!((tcp.stage, tcp.error.as_str()), (Stage::Connect, "ECONNREFUSED"));
        let udp = ask(&question(Proto::Udp, "127.0.0.1:1".parse().unwrap())).result.unwrap_err();
        assert_eq!((udp.stage, udp.error.as_str()), (Stage::Receive, "ECONNREFUSED"));
    }
}
