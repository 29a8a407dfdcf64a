//! `ipvsadm -Sn`, understood.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use testkit::NetNs;

use crate::probe::Proto;

/// A virtual server as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VirtualServer {
    /// Its scheduler.
    pub scheduler: String,
    /// Persistence timeout in seconds.
    pub persistence: Option<u32>,
    /// Real servers and their weights.
    pub real: BTreeMap<SocketAddr, u32>,
}

impl VirtualServer {
    /// Real servers that take new connections.
    pub fn serving(&self) -> Vec<SocketAddr> {
        self.real.iter().filter(|(_, weight)| **weight > 0).map(|(address, _)| *address).collect()
    }
}

/// All virtual servers of a namespace that have an address (fwmark ones are left out).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ipvs {
    /// By transport and address.
    pub servers: BTreeMap<(Proto, SocketAddr), VirtualServer>,
}

impl Ipvs {
    /// The virtual server, if there is one.
    pub fn get(&self, proto: Proto, address: SocketAddr) -> Option<&VirtualServer> {
        self.servers.get(&(proto, address))
    }

    /// One line for each, for messages.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for ((proto, address), server) in &self.servers {
            let _ = write!(text, "{proto} {address} {}", server.scheduler);
            if let Some(seconds) = server.persistence {
                let _ = write!(text, " persistent {seconds}");
            }
            for (real, weight) in &server.real {
                let _ = write!(text, " -> {real} w={weight}");
            }
            text.push('\n');
        }
        text
    }
}

/// Ask `ipvsadm` for everything.
#[track_caller]
pub fn ipvs(node: &NetNs) -> Ipvs {
    parse(&node.sh("ipvsadm -Sn"))
}

fn parse(text: &str) -> Ipvs {
    let mut ipvs = Ipvs::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(key) = key(&words) else { continue };
        let server = ipvs.servers.entry(key).or_default();
        let value = |option: &str| {
            words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1)).copied()
        };
        if words[0] == "-A" {
            server.scheduler = value("-s").unwrap_or_default().to_owned();
            server.persistence = value("-p").and_then(|seconds| seconds.parse().ok());
        } else if let Some(Ok(real)) = value("-r").map(str::parse) {
            let weight = value("-w").and_then(|weight| weight.parse().ok()).unwrap_or(1);
            server.real.insert(real, weight);
        }
    }
    ipvs
}

fn key(words: &[&str]) -> Option<(Proto, SocketAddr)> {
    let proto = match *words.get(1)? {
        "-t" => Proto::Tcp,
        "-u" => Proto::Udp,
        "--sctp-service" => Proto::Sctp,
        _ => return None,
    };
    Some((proto, words.get(2)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::probe::Proto;

    #[test]
    fn the_tool_s_output_is_understood() {
        let ipvs = parse(
            "-A -t 10.96.0.80:80 -s rr -p 10800\n\
             -a -t 10.96.0.80:80 -r 10.244.0.11:8080 -m -w 1\n\
             -a -t 10.96.0.80:80 -r 10.244.0.12:8080 -m -w 0\n\
             -A --sctp-service [fd00:96::80]:80 -s wrr\n\
             -A -f 5 -s rr\n",
        );
        let web = ipvs.get(Proto::Tcp, "10.96.0.80:80".parse().unwrap()).unwrap();
        assert_eq!((web.scheduler.as_str(), web.persistence, web.real.len()), ("rr", Some(10800), 2));
        assert_eq!(web.serving(), ["10.244.0.11:8080".parse().unwrap()]);
        assert_eq!(ipvs.get(Proto::Sctp, "[fd00:96::80]:80".parse().unwrap()).unwrap().scheduler, "wrr");
        assert_eq!(ipvs.servers.len(), 2);
        assert!(ipvs.render().contains("TCP 10.96.0.80:80 rr persistent 10800 -> 10.244.0.11:8080 w=1"));
    }
}
