//! Parser of `ipvsadm -Sn`.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use testkit::NetNs;

use crate::probe::Proto;

/// A virtual server as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VirtualServer {
    /// Scheduler.
    pub scheduler: String,
    /// Persistence timeout in seconds.
    pub persistence: Option<u32>,
    /// All other options, in the tool's words: `-b mh-port`, `-o`, `-M 64`.
    pub others: String,
    /// Real servers and their weights.
    pub real: BTreeMap<SocketAddr, u32>,
}

impl VirtualServer {
    /// Real servers that take new connections.
    pub fn serving(&self) -> Vec<SocketAddr> {
        self.real.iter().filter(|(_, weight)| **weight > 0).map(|(address, _)| *address).collect()
    }
}

/// All virtual servers of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ipvs {
    /// Virtual servers that have an address, by transport and address.
    pub servers: BTreeMap<(Proto, SocketAddr), VirtualServer>,
    /// Virtual servers of a packet mark, by family (true for IPv6) and mark.
    pub marked: BTreeMap<(bool, u32), VirtualServer>,
    /// Lines about others, such as real servers that are not reached by NAT.
    pub odd: Vec<String>,
}

impl Ipvs {
    /// The virtual server, if there is one.
    pub fn get(&self, proto: Proto, address: SocketAddr) -> Option<&VirtualServer> {
        self.servers.get(&(proto, address))
    }

    /// Renders one line for each, for messages.
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

/// Asks `ipvsadm` for everything.
#[track_caller]
pub fn ipvs(node: &NetNs) -> Ipvs {
    parse(&node.sh("ipvsadm -Sn"))
}

/// Parses the output of `ipvsadm -Sn`.
pub fn parse(text: &str) -> Ipvs {
    let mut ipvs = Ipvs::default();
    for line in text.lines() {
        if parse_line(line, &mut ipvs).is_none() {
            ipvs.odd.push(line.to_owned());
        }
    }
    ipvs
}

/// Parses a line; `None` for objects of a kind that we never make.
fn parse_line(line: &str, ipvs: &mut Ipvs) -> Option<()> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let server = if words.get(1) == Some(&"-f") {
        let is_v6 = words.get(3) == Some(&"-6");
        if is_v6 {
            words.remove(3);
        }
        ipvs.marked.entry((is_v6, words.get(2)?.parse().ok()?)).or_default()
    } else {
        ipvs.servers.entry(key(&words)?).or_default()
    };
    match (words[0], &words[3..]) {
        ("-A", ["-s", scheduler, rest @ ..]) => {
            (*scheduler).clone_into(&mut server.scheduler);
            let rest = match rest {
                ["-p", seconds, rest @ ..] => {
                    server.persistence = Some(seconds.parse().ok()?);
                    rest
                }
                rest => rest,
            };
            server.others = rest.join(" ");
        }
        ("-a", ["-r", real, "-m", "-w", weight]) => {
            let (real, weight) = (real.parse().ok()?, weight.parse().ok()?);
            server.real.insert(real, weight);
        }
        _ => return None,
    }
    Some(())
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
             -A -u [fd00:96::80]:80 -s mh -p 20 -M 64 -b mh-port\n\
             -a -t 10.96.0.80:80 -r 10.244.0.13:8080 -i -w 1\n\
             -A -f 5 -s rr\n\
             -A -f 6 -6 -s lc\n\
             -a -f 6 -6 -r [fd00:244::11]:8080 -m -w 1\n",
        );
        let web = ipvs.get(Proto::Tcp, "10.96.0.80:80".parse().unwrap()).unwrap();
        assert_eq!((web.scheduler.as_str(), web.persistence, web.real.len()), ("rr", Some(10800), 2));
        assert_eq!(web.serving(), ["10.244.0.11:8080".parse().unwrap()]);
        assert_eq!(ipvs.get(Proto::Sctp, "[fd00:96::80]:80".parse().unwrap()).unwrap().scheduler, "wrr");
        let udp = ipvs.get(Proto::Udp, "[fd00:96::80]:80".parse().unwrap()).unwrap();
        assert_eq!((udp.persistence, udp.others.as_str()), (Some(20), "-M 64 -b mh-port"));
        assert_eq!(ipvs.servers.len(), 3);
        assert_eq!(ipvs.odd, ["-a -t 10.96.0.80:80 -r 10.244.0.13:8080 -i -w 1"]);
        assert_eq!(ipvs.marked[&(false, 5)].scheduler, "rr");
        assert_eq!(ipvs.marked[&(true, 6)].serving(), ["[fd00:244::11]:8080".parse().unwrap()]);
        assert!(ipvs.render().contains("TCP 10.96.0.80:80 rr persistent 10800 -> 10.244.0.11:8080 w=1"));
    }
}
