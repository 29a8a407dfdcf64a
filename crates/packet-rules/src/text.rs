//! A table as text, word for word what `nft list table inet kube-ipvs` prints for it without elements.

use std::{fmt, time::Duration};

use ipnetwork::IpNetwork;
use lb_types::{IpFamily, MarkRange};

use crate::{
    expr,
    spec::{
        BaseChain, ChainKind, ChainSpec, ENDPOINT_MEMORY, ENDPOINT_SWEEP, ENDPOINTS_MAX, Hook, Interface,
        RuleSpec, Selector, SetId, SetKind, SoftError, Statement, TABLE_NAME, TableSpec,
    },
};

impl fmt::Display for TableSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {TABLE_NAME} {{", self.family.as_str())?;
        for set in &self.sets {
            let fields: Vec<_> = set.fields().into_iter().map(|field| field.type_name()).collect();
            let (kind, data) = if set.is_map() { ("map", " : mark") } else { ("set", "") };
            writeln!(f, "\t{kind} {set} {{\n\t\ttype {}{data}", fields.join(" . "))?;
            if set.has_intervals() {
                f.write_str("\t\tflags interval\n")?;
            }
            if set.kind == SetKind::Endpoints {
                writeln!(f, "\t\tsize {ENDPOINTS_MAX}\n\t\tflags dynamic,timeout")?;
                let (memory, sweep) = (time_text(ENDPOINT_MEMORY), time_text(ENDPOINT_SWEEP));
                writeln!(f, "\t\ttimeout {memory}\n\t\tgc-interval {sweep}")?;
            }
            f.write_str("\t}\n\n")?;
        }
        for (i, chain) in self.chains.iter().enumerate() {
            write!(f, "{}{chain}", if i == 0 { "" } else { "\n" })?;
        }
        f.write_str("}\n")
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl fmt::Display for ChainSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(base) = &self.base {
            writeln!(f, "\t\t{base}")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule} comment \"{}\"", rule.comment())?;
        }
        f.write_str("\t}\n")
    }
}

impl fmt::Display for BaseChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, hook) = (self.kind.as_str(), self.hook.as_str());
        write!(f, "type {kind} hook {hook} priority {}; policy accept;", self.priority_text())
    }
}

impl BaseChain {
    /// The nft tool names a standard priority when it is at most 10 away.
    fn priority_text(&self) -> String {
        let of_nat = match self.hook {
            Hook::Prerouting => Some(("dstnat", -100)),
            Hook::Postrouting => Some(("srcnat", 100)),
            Hook::Input | Hook::ArpInput | Hook::Forward | Hook::Output => None,
        };
        let standard =
            [("raw", -300), ("mangle", -150), ("filter", 0), ("security", 50)].into_iter().chain(of_nat);
        let near = standard.map(|(name, value)| (name, self.priority - value)).find(|(_, n)| n.abs() <= 10);
        match near {
            Some((name, 0)) => name.to_owned(),
            Some((name, n)) if n > 0 => format!("{name} + {n}"),
            Some((name, n)) => format!("{name} - {}", -n),
            None => self.priority.to_string(),
        }
    }
}

impl ChainKind {
    /// Name in nft and in the kernel.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        }
    }
}

impl Hook {
    /// Name in nft.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input | Hook::ArpInput => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        }
    }
}

impl RuleSpec {
    /// Comment of the rule in the kernel: its purpose, and a digest by which a current rule is recognised.
    ///
    /// The digest covers the rule's text and how we translate it, so that a rule by an older version differs.
    pub fn comment(&self) -> String {
        let bytes = format!("{}{self}", expr::ENCODING);
        let digest = bytes.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        format!("{} [{digest:08x}]", self.about)
    }
}

impl fmt::Display for RuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, statement) in self.statements.iter().enumerate() {
            write!(f, "{}{statement}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Family(family) => write!(f, "meta nfproto {}", family_word(*family)),
            Statement::Protocol(number) => write!(f, "meta l4proto {}", protocol_word(*number)),
            Statement::SoftError(family, error) => f.write_str(error.text(*family)),
            Statement::Reply => f.write_str("ct direction reply"),
            Statement::Original => f.write_str("ct direction original"),
            Statement::NoRequest => f.write_str("tcp flags != syn / syn,ack"),
            Statement::NewOrUntracked => f.write_str("ct state new,untracked"),
            Statement::Established => f.write_str("ct state established"),
            Statement::Resent => f.write_str("ct status 0x100 / confirmed,0x100"),
            Statement::Invalid => f.write_str("ct state invalid"),
            Statement::HasSocket => f.write_str("meta skuid >= 0"),
            Statement::ToLoopback => f.write_str("oif \"lo\""),
            Statement::InvalidOrUntracked => f.write_str("ct state invalid,untracked"),
            Statement::Related => f.write_str("ct state related"),
            Statement::SeenReply => f.write_str("ct status seen-reply"),
            Statement::ConnectionNot(number) => write!(f, "ct protocol != {}", protocol_word(*number)),
            Statement::ClientIn(net) => {
                write!(f, "ct original {} saddr {}", header_word(IpFamily::of(net.ip())), network_text(*net))
            }
            Statement::ClientNotIn(net) => {
                write!(
                    f,
                    "ct original {} saddr != {}",
                    header_word(IpFamily::of(net.ip())),
                    network_text(*net)
                )
            }
            Statement::NotFrom(interface) => write!(f, "iifname != \"{interface}\""),
            Statement::Marked(bit) => write!(f, "meta mark & {0:#010x} == {0:#010x}", 1_u32 << bit),
            Statement::MarkIn(range) => f.write_str(&mark_text(*range)),
            Statement::MapMark(selector, map) => {
                write!(f, "meta mark set {} map @{map}", selector.text(map.family))
            }
            Statement::ZeroMark => f.write_str("meta mark set 0x00000000"),
            Statement::ArpRequest => f.write_str("arp operation request"),
            Statement::From(interface) => write!(f, "iifname \"{interface}\""),
            Statement::In(selector, set) => write!(f, "{} @{set}", selector.text(set.family)),
            Statement::NotIn(selector, set) => write!(f, "{} != @{set}", selector.text(set.family)),
            Statement::Remember(set) => {
                let ip = header_word(set.family);
                write!(f, "update @{set} {{ {ip} daddr . meta l4proto . th dport . {ip} daddr }}")
            }
            Statement::SetMark(bit) => write!(f, "meta mark set meta mark | {:#010x}", 1_u32 << bit),
            Statement::ClearMark(bit) => write!(f, "meta mark set meta mark & {:#010x}", !(1_u32 << bit)),
            Statement::KeepDestination(family) => write!(f, "dnat {0} to {0} daddr", header_word(*family)),
            Statement::Masquerade => f.write_str("masquerade fully-random"),
            Statement::RejectReset => f.write_str("reject with tcp reset"),
            Statement::RejectPort => f.write_str("reject"),
            Statement::RejectProtocol => f.write_str("reject with icmp prot-unreachable"),
            Statement::Accept => f.write_str("accept"),
            Statement::Drop => f.write_str("drop"),
            Statement::Jump(chain) => write!(f, "jump {chain}"),
            Statement::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Selector {
    fn text(self, family: IpFamily) -> String {
        let ip = header_word(family);
        match self {
            Selector::Destination => format!("{ip} daddr"),
            Selector::DestinationPort => format!("{ip} daddr . meta l4proto . th dport"),
            Selector::OriginalDestinationPort => {
                format!("ct original {ip} daddr . meta l4proto . ct original proto-dst")
            }
            Selector::OriginalService => {
                format!("ct original {ip} daddr . ct protocol . ct original proto-dst")
            }
            Selector::OriginalClient => format!("ct original {ip} saddr"),
            Selector::DestinationPair => format!("{ip} daddr . {ip} daddr"),
            Selector::DestinationAndServer => format!("{ip} daddr . ct reply {ip} saddr"),
            Selector::DestinationPortAndSource => {
                format!("{ip} daddr . meta l4proto . th dport . {ip} saddr")
            }
            Selector::Sender => format!("{ip} saddr . meta l4proto . th sport . {ip} saddr"),
            Selector::NodePort => "meta l4proto . th dport".to_owned(),
            Selector::OriginalNodePort => "meta l4proto . ct original proto-dst".to_owned(),
            Selector::OriginalNodeService => "ct protocol . ct original proto-dst".to_owned(),
            Selector::OriginalDestination => format!("ct original {ip} daddr"),
            Selector::ArpTarget => "arp daddr ip".to_owned(),
        }
    }
}

impl SoftError {
    const fn text(self, family: IpFamily) -> &'static str {
        match (self, family) {
            (SoftError::Unreachable, IpFamily::V4) => {
                "icmp type destination-unreachable icmp code != prot-unreachable icmp code != frag-needed"
            }
            (SoftError::TimeExceeded, IpFamily::V4) => "icmp type time-exceeded",
            (SoftError::Unreachable, IpFamily::V6) => "icmpv6 type destination-unreachable",
            (SoftError::TimeExceeded, IpFamily::V6) => "icmpv6 type time-exceeded",
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interface::Name(name) => f.write_str(&name.replace('*', "\\*")),
            Interface::Prefix(prefix) => write!(f, "{}*", prefix.replace('*', "\\*")),
        }
    }
}

/// The nft tool takes leading bits for a prefix.
fn mark_text(range: MarkRange) -> String {
    let (value, mask) = (range.value(), range.mask());
    let length = mask.leading_ones();
    if mask.count_ones() == length {
        format!("meta mark {value:#010x}/{length}")
    } else {
        format!("meta mark & {mask:#010x} == {value:#010x}")
    }
}

/// Whole hours or minutes; we use no others.
fn time_text(duration: Duration) -> String {
    match duration.as_secs() / 60 {
        minutes if minutes % 60 == 0 => format!("{}h", minutes / 60),
        minutes => format!("{minutes}m"),
    }
}

const fn family_word(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ipv4",
        IpFamily::V6 => "ipv6",
    }
}

const fn header_word(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    }
}

fn protocol_word(number: u8) -> String {
    match number {
        expr::ICMP => "icmp".to_owned(),
        expr::TCP => "tcp".to_owned(),
        expr::ICMPV6 => "ipv6-icmp".to_owned(),
        expr::UDP => "udp".to_owned(),
        expr::SCTP => "sctp".to_owned(),
        other => other.to_string(),
    }
}

/// Prefix without host bits; a whole address without its length.
fn network_text(net: IpNetwork) -> String {
    let host = net.prefix() == if net.is_ipv4() { 32 } else { 128 };
    if host { net.network().to_string() } else { format!("{}/{}", net.network(), net.prefix()) }
}
