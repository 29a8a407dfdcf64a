//! Servers and clients that know nothing of kube-ipvs: they see addresses, answers and error numbers.
//!
//! Everything speaks one line protocol (see [`server`]), over TCP and SCTP as a stream and over UDP as
//! datagrams, and every answer names the pod that gave it and the source address that pod saw. Every wait is
//! bounded.

pub mod cli;
pub mod download;
mod errno;
pub mod load;
pub mod once;
pub mod server;
pub mod socket;
pub mod talk;

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::Serialize;

/// Transport of a client or server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, one-to-one style.
    Sctp,
}

impl Proto {
    /// All three.
    pub const ALL: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Sctp];
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Proto::Tcp => "TCP",
            Proto::Udp => "UDP",
            Proto::Sctp => "SCTP",
        })
    }
}

impl FromStr for Proto {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Proto> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Proto::Tcp),
            "udp" => Ok(Proto::Udp),
            "sctp" => Ok(Proto::Sctp),
            _ => anyhow::bail!("{text:?} is not one of tcp, udp, sctp"),
        }
    }
}

/// Answer of a server, which says who answers and whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Name with which the server was started.
    pub pod: String,
    /// Source address as the server saw it, after every translation on the way.
    pub peer: SocketAddr,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod={} peer={}", self.pod, self.peer)
    }
}

impl FromStr for Answer {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Answer> {
        let parts = line.trim_end().strip_prefix("pod=").and_then(|rest| rest.split_once(" peer="));
        let (pod, peer) = parts.ok_or_else(|| anyhow::anyhow!("{line:?} is not an answer"))?;
        Ok(Answer { pod: pod.to_owned(), peer: peer.parse()? })
    }
}

/// Stage that a client reached before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Making the socket or binding the source port: nothing has left the client yet.
    Local,
    /// connect().
    Connect,
    /// Sending the request.
    Send,
    /// Waiting for or reading the answer.
    Receive,
}

/// Failure that a client met instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Failure {
    /// Stage that it reached.
    pub stage: Stage,
    /// `ECONNREFUSED` and its like, `TIMEOUT`, `EOF` (closed without an answer) or `GARBAGE`.
    pub error: String,
}

impl Failure {
    fn new(stage: Stage, error: &std::io::Error) -> Failure {
        Failure { stage, error: errno::name(error) }
    }

    /// Failure of a connection that was closed where an answer was due.
    fn eof() -> Failure {
        Failure { stage: Stage::Receive, error: "EOF".to_owned() }
    }

    /// Tells whether it was refused, by a reset or by an ICMP error.
    pub fn is_refused(&self) -> bool {
        self.error == "ECONNREFUSED"
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Local => "bind",
            Stage::Connect => "connect",
            Stage::Send => "send",
            Stage::Receive => "receive",
        };
        write!(f, "{} in {stage}", self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::Answer;

    #[test]
    fn answers_survive_the_wire() {
        for peer in ["10.244.0.11:4000", "[fd00:244::11]:4000"] {
            let answer = Answer { pod: "web-1".to_owned(), peer: peer.parse().unwrap() };
            assert_eq!(format!("{answer}\n").parse::<Answer>().unwrap(), answer);
        }
        assert!("pod=web-1".parse::<Answer>().is_err());
    }
}
