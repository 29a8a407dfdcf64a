//! Rules that kube-proxy has left: with another proxy in its place they refuse ports that Services have now, and lead
//! connections to endpoints that are gone.
//!
//! They are in the tables of iptables, as far as these are kept by nf_tables (`iptables-nft`), and in the table
//! `kube-proxy` of its mode nftables. Chains that the kubelet or a plugin may use stay, and so does `KUBE-FORWARD`,
//! which only lets through what a node's own rules may drop:
//!
//! | stays | because |
//! | --- | --- |
//! | `KUBE-FORWARD` | answers of pods pass it where the policy of the hook is DROP |
//! | `KUBE-NODE-PORT` and `KUBE-NODEPORTS` of table filter | health checks of load balancers pass it where the policy of the hook is DROP |
//! | `KUBE-MARK-MASQ`, `KUBE-POSTROUTING` | the portmap plugin may use them; without the others nobody marks for them |
//! | `KUBE-FIREWALL` of table filter, `KUBE-MARK-DROP`, `KUBE-KUBELET-CANARY`, `KUBE-IPTABLES-HINT` | the kubelet's |

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use netlink::{Attribute, Buffers, Message, Protocol, Request, RequestSocket};

use crate::{
    RulesError,
    nft::{self, attr},
    socket::{BatchSocket, Outcome},
    transaction::{Sent, Transaction},
};

/// Tables of iptables that kube-proxy writes to.
const TABLES: [&str; 3] = ["nat", "filter", "mangle"];
/// Table of kube-proxy's mode nftables.
const OWN_TABLE: &str = "kube-proxy";
const FAMILIES: [u8; 2] = [nft::NFPROTO_IPV4, nft::NFPROTO_IPV6];

/// Chains with exactly these names (pkg/proxy/iptables/proxier.go, pkg/proxy/ipvs/proxier.go).
const CHAINS: [&str; 10] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-PROXY-FIREWALL",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-PROXY-CANARY",
];
/// Beginnings of the names of chains that each belong to a Service or an endpoint.
const OF_SERVICES: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-"];
/// In table filter the chains that let health checks of load balancers in, of modes ipvs and iptables.
const HEALTH_CHECKS: [&str; 2] = ["KUBE-NODE-PORT", "KUBE-NODEPORTS"];
/// In table nat the chain of old versions; in table filter it is the kubelet's.
const OLD_FIREWALL: &str = "KUBE-FIREWALL";

/// Messages of a transaction: so few that an ordinary send buffer has room for them.
const MESSAGES: usize = 2000;

/// A chain of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chain {
    family: u8,
    table: String,
    name: String,
}

impl Chain {
    /// Tells whether kube-proxy makes such a chain, and nobody else. The one that lets health checks of load balancers in
    /// stays: where a firewall drops everything else, nothing does that in its place.
    fn is_leftover(&self) -> bool {
        let name = self.name.as_str();
        if self.table == "filter" && HEALTH_CHECKS.contains(&name) {
            return false;
        }
        TABLES.contains(&self.table.as_str())
            && (CHAINS.contains(&name)
                || OF_SERVICES.iter().any(|prefix| name.starts_with(prefix))
                || self.table == "nat" && name == OLD_FIREWALL)
    }
}

/// A rule that only leads to one of those chains.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Jump {
    from: Chain,
    handle: u64,
}

/// Rules of kube-proxy that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    chains: BTreeSet<Chain>,
    jumps: BTreeSet<Jump>,
    /// Families with the table of mode nftables.
    tables: BTreeSet<u8>,
}

impl fmt::Display for Leftovers {
    /// `412 chains in ip nat, 6 chains in ip filter, table ip kube-proxy`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = BTreeMap::<(u8, &str), usize>::new();
        for chain in &self.chains {
            *counts.entry((chain.family, &chain.table)).or_default() += 1;
        }
        let chains = counts
            .into_iter()
            .map(|((family, table), count)| format!("{count} chains in {} {table}", family_word(family)));
        let tables = self.tables.iter().map(|family| format!("table {} {OWN_TABLE}", family_word(*family)));
        f.write_str(&chains.chain(tables).collect::<Vec<_>>().join(", "))
    }
}

const fn family_word(family: u8) -> &'static str {
    if family == nft::NFPROTO_IPV4 { "ip" } else { "ip6" }
}

impl Leftovers {
    /// Looks for them, in the network namespace of the calling thread.
    pub fn find() -> Result<Self, RulesError> {
        let mut socket = RequestSocket::open(Protocol::NETFILTER, &Buffers::default())?;
        let mut found = Leftovers::default();
        for family in FAMILIES {
            let tables = socket.dump(&request(nft::GETTABLE, family, |_| {}), parse_table)?;
            if tables.iter().any(|table| table == OWN_TABLE) {
                found.tables.insert(family);
            }
            let all = socket.dump(&request(nft::GETCHAIN, family, |_| {}), parse_chain)?;
            let (leftover, others): (Vec<_>, Vec<_>) = all
                .into_iter()
                .map(|(table, name)| Chain { family, table, name })
                .partition(Chain::is_leftover);
            if leftover.is_empty() {
                continue;
            }
            for chain in others.into_iter().filter(|chain| TABLES.contains(&chain.table.as_str())) {
                found.jumps.extend(find_jumps(&mut socket, chain)?);
            }
            found.chains.extend(leftover);
        }
        Ok(found)
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.tables.is_empty()
    }

    /// Removes them: first what leads there, so that no packet meets half of them.
    pub fn remove(&self) -> Result<(), RulesError> {
        let mut socket = BatchSocket::open()?;
        let jumps = self.jumps.iter().map(Write::DeleteRule);
        let tables = self.tables.iter().map(|family| Write::DeleteTable(*family));
        let first: Vec<_> = jumps.chain(tables).collect();
        let rest = self.chains.iter().map(Write::Flush).chain(self.chains.iter().map(Write::DeleteChain));
        let rest: Vec<_> = rest.collect();
        for writes in [first].iter().map(Vec::as_slice).chain(rest.chunks(MESSAGES)) {
            commit(&mut socket, writes)?;
        }
        Ok(())
    }
}

/// Rules of a chain that lead to a chain of kube-proxy.
fn find_jumps(socket: &mut RequestSocket, from: Chain) -> Result<Vec<Jump>, RulesError> {
    let request = request(nft::GETRULE, from.family, |buffer| {
        buffer.attribute_str(attr::TABLE, &from.table);
        buffer.attribute_str(attr::RULE_CHAIN, &from.name);
    });
    let jumps = socket.dump(&request, |message| parse_jump(message, &from))?;
    Ok(jumps.into_iter().map(|handle| Jump { from: from.clone(), handle }).collect())
}

fn request(message: u16, family: u8, build: impl FnOnce(&mut netlink::MessageBuffer)) -> Request {
    Request::new(nft::kind(message), |buffer| {
        buffer.put(&nft::header(family));
        build(buffer);
    })
}

fn text(attribute: &Attribute<'_>) -> String {
    String::from_utf8_lossy(attribute.string()).into_owned()
}

fn find<'a>(message: &Message<'a>, kind: u16) -> Option<Attribute<'a>> {
    message.attributes(nft::HEADER).find(|attribute| attribute.kind == kind)
}

pub(crate) fn parse_table(message: &Message<'_>) -> Option<String> {
    find(message, attr::TABLE).map(|name| text(&name))
}

pub(crate) fn parse_chain(message: &Message<'_>) -> Option<(String, String)> {
    Some((text(&find(message, attr::TABLE)?), text(&find(message, attr::CHAIN_NAME)?)))
}

/// Reads the handle of a rule of a chain, if the rule leads to a chain of kube-proxy.
fn parse_jump(message: &Message<'_>, from: &Chain) -> Option<u64> {
    let is_of = |kind, name: &str| find(message, kind).is_some_and(|found| text(&found) == name);
    (is_of(attr::TABLE, &from.table) && is_of(attr::RULE_CHAIN, &from.name)).then_some(())?;
    let to = Chain { name: parse_target(message)?, ..from.clone() };
    to.is_leftover().then_some(())?;
    let handle = find(message, attr::RULE_HANDLE)?;
    Some(u64::from_be_bytes(handle.payload.try_into().ok()?))
}

/// Reads the chain that a rule jumps or goes to.
pub(crate) fn parse_target(message: &Message<'_>) -> Option<String> {
    let expressions = find(message, attr::RULE_EXPRESSIONS)?;
    let target = |expression: Attribute<'_>| {
        let data = expression.nested().find(|a| a.kind == attr::EXPRESSION_DATA)?;
        let data = data.nested().find(|a| a.kind == attr::IMMEDIATE_DATA)?;
        let verdict = data.nested().find(|a| a.kind == attr::DATA_VERDICT)?;
        Some(text(&verdict.nested().find(|a| a.kind == attr::VERDICT_CHAIN)?))
    };
    let is_immediate = |expression: &Attribute<'_>| {
        let mut parts = expression.nested();
        parts.any(|part| part.kind == attr::EXPRESSION_NAME && part.string() == b"immediate")
    };
    expressions.nested().filter(is_immediate).find_map(target)
}

/// One message of a removal.
#[derive(Clone, Copy)]
enum Write<'a> {
    DeleteRule(&'a Jump),
    DeleteTable(u8),
    /// Deletes all rules of a chain.
    Flush(&'a Chain),
    DeleteChain(&'a Chain),
}

impl Write<'_> {
    fn message(self) -> Request {
        let (number, family) = match self {
            Write::DeleteRule(jump) => (nft::DELRULE, jump.from.family),
            Write::DeleteTable(family) => (nft::DELTABLE, family),
            Write::Flush(chain) => (nft::DELRULE, chain.family),
            Write::DeleteChain(chain) => (nft::DELCHAIN, chain.family),
        };
        request(number, family, |buffer| match self {
            Write::DeleteRule(Jump { from, handle }) => {
                buffer.attribute_str(attr::TABLE, &from.table);
                buffer.attribute_str(attr::RULE_CHAIN, &from.name);
                buffer.attribute(attr::RULE_HANDLE, &handle.to_be_bytes());
            }
            Write::DeleteTable(_) => buffer.attribute_str(attr::TABLE, OWN_TABLE),
            Write::Flush(chain) => {
                buffer.attribute_str(attr::TABLE, &chain.table);
                buffer.attribute_str(attr::RULE_CHAIN, &chain.name);
            }
            Write::DeleteChain(chain) => {
                buffer.attribute_str(attr::TABLE, &chain.table);
                buffer.attribute_str(attr::CHAIN_NAME, &chain.name);
            }
        })
    }
}

fn commit(socket: &mut BatchSocket, writes: &[Write<'_>]) -> Result<(), RulesError> {
    if writes.is_empty() {
        return Ok(());
    }
    let mut transaction = Transaction::default();
    for (index, write) in writes.iter().enumerate() {
        transaction.messages.push(Sent { start: transaction.bytes.len(), ops: vec![index] });
        transaction.bytes.extend_from_slice(write.message().as_bytes());
        transaction.bytes.resize(transaction.bytes.len().next_multiple_of(4), 0);
    }
    let refusal = match socket.commit(&transaction, None)? {
        Outcome::Committed => return Ok(()),
        Outcome::Refused { refusals, .. } => refusals.into_iter().next(),
        Outcome::Outdated | Outcome::Unknown => None,
    };
    let errno = refusal.as_ref().map_or(libc::EAGAIN, |refusal| refusal.errno);
    let source = std::io::Error::from_raw_os_error(errno);
    Err(RulesError::Refused { source, text: refusal.and_then(|refusal| refusal.text) })
}
