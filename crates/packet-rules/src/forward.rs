//! Chains of others that drop the answers of pods.
//!
//! Packets from a client to a VIP do not pass the forward hook, but the answers of the pod do. No rule of
//! ours can accept what a chain of another table drops, so all that we can do is report it. The judgement
//! covers base chains of the forward hook whose policy is drop. It asks of each reachable rule whether it
//! concerns a packet that whose policy is drop. The judgement asks of each rule that could be reached whether
//! it concerns a packet that
//!
//! - answers an established connection of TCP or UDP,
//! - comes in through the interface of a pod and goes out through any but those of a container engine.
//!
//! A condition that it cannot judge, such as an address or a mark, counts as met where its rule accepts, and
//! as not met where its rule drops: no alarm is better than a false one.

use std::collections::{BTreeMap, HashMap};

use netlink::{Attribute, Message, Request};

use self::Judgement::{Doubtful, No, Yes};
use crate::{
    nft::{self, attr},
    spec::TABLE_NAME,
};

/// Depth of calls from chain to chain that the kernel allows (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;
/// Number of chains read for one judgement; a ruleset that leads to more gets none, and no alarm.
const CHAINS: usize = 256;
/// Register of verdicts (`NFT_REG_VERDICT`).
const VERDICT_REGISTER: u32 = 0;
/// Bit of an established connection in `ct state` and in the state masks of xtables.
const ESTABLISHED: u32 = 2;

/// A chain: family, table, name.
pub(crate) type ChainId = (u8, String, String);

/// Asks for all chains of all tables.
pub(crate) fn chains_request() -> Request {
    Request::new(nft::kind(nft::GETCHAIN), |buffer| buffer.put(&nft::header(nft::NFPROTO_UNSPEC)))
}

/// Asks for the rules of a chain; kernels before 4.7 send those of other chains, too.
pub(crate) fn rules_request((family, table, chain): &ChainId) -> Request {
    Request::new(nft::kind(nft::GETRULE), |buffer| {
        buffer.put(&nft::header(*family));
        buffer.attribute_str(attr::TABLE, table);
        buffer.attribute_str(attr::RULE_CHAIN, chain);
    })
}

/// Reads a base chain of the forward hook whose policy is drop.
pub(crate) fn parse_dropping_chain(message: &Message<'_>) -> Option<ChainId> {
    const NF_INET_FORWARD: u32 = 2;
    const NF_DROP: u32 = 0;
    let family = *message.payload.first()?;
    let concerns_us = [nft::NFPROTO_INET, nft::NFPROTO_IPV4, nft::NFPROTO_IPV6].contains(&family);
    let (mut table, mut name, mut hook, mut policy) = (None, None, None, None);
    for attribute in message.attributes(nft::HEADER) {
        match attribute.kind {
            attr::TABLE => table = Some(text(&attribute)),
            attr::CHAIN_NAME => name = Some(text(&attribute)),
            attr::CHAIN_HOOK => hook = find(&attribute, attr::HOOK_NUMBER).and_then(|hook| hook.u32_be()),
            attr::CHAIN_POLICY => policy = attribute.u32_be(),
            _ => {}
        }
    }
    let (table, name) = (table?, name?);
    let drops = concerns_us && hook == Some(NF_INET_FORWARD) && policy == Some(NF_DROP);
    (drops && table != TABLE_NAME).then_some((family, table, name))
}

/// Judgement whether something holds for an answer of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Judgement {
    No,
    Doubtful,
    Yes,
}

/// Effect of a rule on the packets that it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    Return,
    Call(String),
    /// Goes on in another chain, and leaves out the rest of the calling one.
    Goto(String),
}

/// Condition and effect of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    chain: String,
    concerns: Judgement,
    verdict: Option<Verdict>,
}

/// Fate of an answer in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped,
    /// The chain has no opinion.
    Undecided,
}

/// Tells whether a chain whose policy is drop drops the answers of pods. `read` returns the rules of a chain.
pub(crate) fn drops_answers<E>(
    chain: &ChainId,
    read: &mut dyn FnMut(&ChainId) -> Result<Vec<Rule>, E>,
) -> Result<bool, E> {
    let (family, table, _) = chain;
    let mut walk = Walk { family: *family, table, read, known: BTreeMap::new() };
    Ok(walk.fate(&chain.2, 0)? != Fate::Accepted)
}

struct Walk<'a, E> {
    family: u8,
    table: &'a str,
    read: &'a mut dyn FnMut(&ChainId) -> Result<Vec<Rule>, E>,
    known: BTreeMap<String, Fate>,
}

impl<E> Walk<'_, E> {
    fn fate(&mut self, chain: &str, depth: usize) -> Result<Fate, E> {
        if let Some(fate) = self.known.get(chain) {
            return Ok(*fate);
        }
        if depth > DEPTH || self.known.len() > CHAINS {
            return Ok(Fate::Accepted);
        }
        let rules = (self.read)(&(self.family, self.table.to_owned(), chain.to_owned()))?;
        let mut fate = Fate::Undecided;
        for rule in rules.iter().filter(|rule| rule.chain == chain && rule.concerns != No) {
            let certain = rule.concerns == Yes;
            let (of_rule, ends) = match &rule.verdict {
                None => continue,
                Some(Verdict::Accept) => (Fate::Accepted, true),
                Some(Verdict::Drop) => (Fate::Dropped, true),
                Some(Verdict::Return) => (Fate::Undecided, true),
                Some(Verdict::Call(to)) => (self.fate(to, depth + 1)?, false),
                Some(Verdict::Goto(to)) => (self.fate(to, depth + 1)?, true),
            };
            if of_rule == Fate::Accepted || certain && (ends || of_rule == Fate::Dropped) {
                fate = of_rule;
                break;
            }
        }
        self.known.insert(chain.to_owned(), fate);
        Ok(fate)
    }
}

/// Content of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    InterfaceName,
    /// Bits of `ct state` that a mask has left.
    State(u32),
    Protocol,
    Ports,
    Family,
    Other,
}

/// Reads a rule.
pub(crate) fn parse_rule(message: &Message<'_>) -> Option<Rule> {
    const EXPRESSIONS: u16 = 4;
    const ELEMENT: u16 = 1;
    let mut chain = None;
    let mut reading = Reading { registers: HashMap::new(), concerns: Yes, verdict: None };
    for attribute in message.attributes(nft::HEADER) {
        match attribute.kind {
            attr::RULE_CHAIN => chain = Some(text(&attribute)),
            EXPRESSIONS => {
                for element in attribute.nested().filter(|element| element.kind == ELEMENT) {
                    reading.take(&element);
                }
            }
            _ => {}
        }
    }
    Some(Rule { chain: chain?, concerns: reading.concerns, verdict: reading.verdict })
}

struct Reading {
    registers: HashMap<u32, Loaded>,
    concerns: Judgement,
    verdict: Option<Verdict>,
}

impl Reading {
    fn take(&mut self, expression: &Attribute<'_>) {
        const NAME: u16 = 1;
        const DATA: u16 = 2;
        let Some(name) = find(expression, NAME).map(|name| text(&name)) else { return };
        // Expressions such as "counter" have attributes of their own that do not matter.
        let Some(data) = find(expression, DATA) else { return self.take_bare(&name) };
        match name.as_str() {
            "meta" => self.load(&data, 1, meta(&data)),
            "ct" => self.load(&data, 1, ct(&data)),
            "payload" => self.load(&data, 1, payload(&data)),
            "bitwise" => self.mask(&data),
            "cmp" => self.compare(&data),
            "lookup" => self.look_up(&data),
            "range" => self.require(match self.source(&data, 1) {
                Loaded::Ports => No,
                _ => Doubtful,
            }),
            "immediate" => self.decide(&data),
            "match" => self.require(xt_match(&data)),
            "target" => self.xt_target(&data),
            other => self.take_bare(other),
        }
    }

    fn take_bare(&mut self, name: &str) {
        match name {
            "counter" | "log" | "notrack" | "last" => {}
            "reject" => self.verdict = Some(Verdict::Drop),
            // These leave the decision to somebody else.
            "queue" | "flow_offload" | "synproxy" => {
                self.require(Doubtful);
                self.verdict = Some(Verdict::Accept);
            }
            _ => self.require(Doubtful),
        }
    }

    fn require(&mut self, judgement: Judgement) {
        self.concerns = self.concerns.min(judgement);
    }

    fn source(&self, data: &Attribute<'_>, attribute: u16) -> Loaded {
        let register = find(data, attribute).and_then(|register| register.u32_be());
        register.and_then(|register| self.registers.get(&register)).copied().unwrap_or(Loaded::Other)
    }

    fn load(&mut self, data: &Attribute<'_>, attribute: u16, loaded: Loaded) {
        if let Some(register) = find(data, attribute).and_then(|register| register.u32_be()) {
            self.registers.insert(register, loaded);
        }
    }

    fn mask(&mut self, data: &Attribute<'_>) {
        const SOURCE: u16 = 1;
        const DESTINATION: u16 = 2;
        const MASK: u16 = 4;
        let loaded = match self.source(data, SOURCE) {
            Loaded::State(_) => {
                Loaded::State(value(data, MASK).and_then(|mask| u32_at(&mask)).unwrap_or(u32::MAX))
            }
            other => other,
        };
        self.load(data, DESTINATION, loaded);
    }

    fn compare(&mut self, data: &Attribute<'_>) {
        const SOURCE: u16 = 1;
        const OPERATION: u16 = 2;
        const DATA: u16 = 3;
        const EQUAL: u32 = 0;
        const UNEQUAL: u32 = 1;
        let operation = find(data, OPERATION).and_then(|operation| operation.u32_be());
        let compared = value(data, DATA).unwrap_or_default();
        let equal = match self.source(data, SOURCE) {
            Loaded::InterfaceName => {
                if is_of_engine(&compared) {
                    No
                } else {
                    Doubtful
                }
            }
            Loaded::State(mask) => match (mask & ESTABLISHED, u32_at(&compared)) {
                (0, Some(0)) => Yes,
                (0, _) => No,
                (_, Some(state)) if mask == u32::MAX || state != 0 => {
                    if state & ESTABLISHED == 0 {
                        No
                    } else {
                        Yes
                    }
                }
                _ => No,
            },
            Loaded::Protocol => match compared.first() {
                Some(6 | 17) => Doubtful,
                _ => No,
            },
            Loaded::Ports => No,
            Loaded::Family => Yes,
            Loaded::Other => Doubtful,
        };
        self.require(match operation {
            Some(EQUAL) => equal,
            Some(UNEQUAL) => match (equal, self.source(data, SOURCE)) {
                (_, Loaded::Ports | Loaded::Protocol) => Doubtful,
                (Yes, _) => No,
                (No, _) => Yes,
                (Doubtful, _) => Doubtful,
            },
            _ => Doubtful,
        });
    }

    fn look_up(&mut self, data: &Attribute<'_>) {
        const SOURCE: u16 = 2;
        const DESTINATION: u16 = 3;
        let source = self.source(data, SOURCE);
        self.require(if source == Loaded::Ports { No } else { Doubtful });
        let destination = find(data, DESTINATION).and_then(|register| register.u32_be());
        if destination == Some(VERDICT_REGISTER) {
            // This is a map of verdicts, such as `ct state vmap { established : accept, ... }`.
            self.verdict = Some(Verdict::Accept);
        }
    }

    fn decide(&mut self, data: &Attribute<'_>) {
        const DESTINATION: u16 = 1;
        const DATA: u16 = 2;
        const VERDICT: u16 = 2;
        const CODE: u16 = 1;
        const CHAIN: u16 = 2;
        if find(data, DESTINATION).and_then(|register| register.u32_be()) != Some(VERDICT_REGISTER) {
            return;
        }
        let Some(verdict) = find(data, DATA).and_then(|data| find(&data, VERDICT)) else { return };
        let code = find(&verdict, CODE).and_then(|code| code.u32_be()).map(|code| code as i32);
        let to = || find(&verdict, CHAIN).map(|chain| text(&chain)).unwrap_or_default();
        self.verdict = match code {
            Some(0) => Some(Verdict::Drop),
            Some(-3) => Some(Verdict::Call(to())),
            Some(-4) => Some(Verdict::Goto(to())),
            Some(-5) => Some(Verdict::Return),
            // NFT_CONTINUE, NFT_BREAK
            Some(-1 | -2) => None,
            // NF_ACCEPT, and verdicts that hand the packet on to somebody else.
            _ => Some(Verdict::Accept),
        };
    }

    fn xt_target(&mut self, data: &Attribute<'_>) {
        const NAME: u16 = 1;
        match find(data, NAME).map(|name| text(&name)).as_deref() {
            Some("REJECT" | "DROP") => self.verdict = Some(Verdict::Drop),
            Some("NFQUEUE") => {
                self.require(Doubtful);
                self.verdict = Some(Verdict::Accept);
            }
            _ => {}
        }
    }
}

fn meta(data: &Attribute<'_>) -> Loaded {
    const KEY: u16 = 2;
    match find(data, KEY).and_then(|key| key.u32_be()) {
        // NFT_META_IIFNAME, NFT_META_OIFNAME
        Some(6 | 7) => Loaded::InterfaceName,
        // NFT_META_PROTOCOL, NFT_META_NFPROTO
        Some(1 | 15) => Loaded::Family,
        // NFT_META_L4PROTO
        Some(16) => Loaded::Protocol,
        _ => Loaded::Other,
    }
}

fn ct(data: &Attribute<'_>) -> Loaded {
    const KEY: u16 = 2;
    const NFT_CT_STATE: u32 = 0;
    match find(data, KEY).and_then(|key| key.u32_be()) {
        Some(NFT_CT_STATE) => Loaded::State(u32::MAX),
        _ => Loaded::Other,
    }
}

fn payload(data: &Attribute<'_>) -> Loaded {
    const BASE: u16 = 2;
    const OFFSET: u16 = 3;
    const TRANSPORT: u32 = 2;
    const NETWORK: u32 = 1;
    const IPV4_PROTOCOL: u32 = 9;
    const IPV6_NEXT_HEADER: u32 = 6;
    let number = |attribute| find(data, attribute).and_then(|number| number.u32_be());
    match (number(BASE), number(OFFSET)) {
        (Some(TRANSPORT), _) => Loaded::Ports,
        (Some(NETWORK), Some(IPV4_PROTOCOL | IPV6_NEXT_HEADER)) => Loaded::Protocol,
        _ => Loaded::Other,
    }
}

/// Judges a match of iptables in its binary form (include/uapi/linux/netfilter/xt_*.h).
fn xt_match(data: &Attribute<'_>) -> Judgement {
    const NAME: u16 = 1;
    const REVISION: u16 = 2;
    const INFO: u16 = 3;
    let info = find(data, INFO).map(|info| info.payload).unwrap_or_default();
    let revision = find(data, REVISION).and_then(|revision| revision.u32_be());
    match find(data, NAME).map(|name| text(&name)).as_deref() {
        Some("comment") => Yes,
        Some("conntrack") if revision >= Some(2) => xt_conntrack(info),
        Some("state") => match u32_at(info) {
            Some(states) if states & ESTABLISHED == 0 => No,
            _ => Yes,
        },
        Some("tcp" | "udp" | "sctp" | "dccp" | "icmp" | "icmp6" | "multiport") => No,
        _ => Doubtful,
    }
}

/// Judges `struct xt_conntrack_mtinfo2` or `_mtinfo3`, which begin alike: eight addresses, two times, five
/// numbers.
fn xt_conntrack(info: &[u8]) -> Judgement {
    const FLAGS: usize = 8 * 16 + 2 * 4 + 5 * 2;
    const INVERTED: usize = FLAGS + 2;
    const STATES: usize = FLAGS + 4;
    const XT_CONNTRACK_STATE: u16 = 1;
    let u16_at = |at: usize| Some(u16::from_ne_bytes(*info.get(at..)?.first_chunk()?));
    let (Some(flags), Some(inverted), Some(states)) = (u16_at(FLAGS), u16_at(INVERTED), u16_at(STATES))
    else {
        return Doubtful;
    };
    if flags & XT_CONNTRACK_STATE == 0 {
        return Doubtful;
    }
    let has = u32::from(states) & ESTABLISHED != 0;
    let is_inverted = inverted & XT_CONNTRACK_STATE != 0;
    if has == is_inverted {
        No
    } else if flags == XT_CONNTRACK_STATE {
        Yes
    } else {
        // Other conditions of the same match are not judged.
        Doubtful
    }
}

/// Tells whether an interface, by its name, leads to containers that are no pods, or is the loopback.
fn is_of_engine(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 8] =
        [b"docker", b"br-", b"podman", b"virbr", b"lxdbr", b"lxcbr", b"incusbr", b"lo\0"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn find<'a>(parent: &Attribute<'a>, kind: u16) -> Option<Attribute<'a>> {
    parent.nested().find(|attribute| attribute.kind == kind)
}

/// Reads the bytes of a comparison or mask.
fn value(data: &Attribute<'_>, attribute: u16) -> Option<Vec<u8>> {
    let value = find(&find(data, attribute)?, attr::DATA_VALUE)?;
    Some(value.payload.to_vec())
}

fn u32_at(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}

fn text(attribute: &Attribute<'_>) -> String {
    String::from_utf8_lossy(attribute.string()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conntrack(flags: u16, inverted: u16, states: u16) -> Judgement {
        let mut info = vec![0; 160];
        for (at, number) in [(146, flags), (148, inverted), (150, states)] {
            info[at..at + 2].copy_from_slice(&u16::to_ne_bytes(number));
        }
        xt_conntrack(&info)
    }

    #[test]
    fn states_of_iptables() {
        assert_eq!(conntrack(1, 0, 6), Yes, "--ctstate RELATED,ESTABLISHED");
        assert_eq!(conntrack(1, 0, 1), No, "--ctstate INVALID");
        assert_eq!(conntrack(1, 1, 1), Yes, "! --ctstate INVALID");
        assert_eq!(conntrack(1, 1, 2), No, "! --ctstate ESTABLISHED");
        assert_eq!(conntrack(1 | 2, 0, 2), Doubtful, "and something else");
        assert_eq!(xt_conntrack(&[0; 100]), Doubtful, "an older form");
    }

    fn rule(chain: &str, concerns: Judgement, verdict: Verdict) -> Rule {
        Rule { chain: chain.to_owned(), concerns, verdict: Some(verdict) }
    }

    fn drops(rules: &[Rule]) -> bool {
        let mut read = |_: &ChainId| Ok::<_, ()>(rules.to_vec());
        drops_answers(&(2, "filter".to_owned(), "FORWARD".to_owned()), &mut read).unwrap()
    }

    #[test]
    fn rules_are_followed_and_doubt_is_no_alarm() {
        use Verdict::{Accept, Call, Drop, Goto, Return};
        let f = "FORWARD";
        let call = |concerns| rule(f, concerns, Call("user".to_owned()));
        let accept = rule(f, Yes, Accept);
        for (what, rules, expect) in [
            ("nothing", vec![], true),
            ("accept", vec![accept.clone()], false),
            ("accept of something else", vec![rule(f, No, Accept)], true),
            ("accept in doubt", vec![rule(f, Doubtful, Accept)], false),
            ("drop before accept", vec![rule(f, Yes, Drop), accept.clone()], true),
            ("drop in doubt before accept", vec![rule(f, Doubtful, Drop), accept.clone()], false),
            ("accept in another chain", vec![call(Yes), rule("user", Yes, Accept)], false),
            (
                "the other chain returns",
                vec![call(Yes), rule("user", Yes, Return), rule("user", Yes, Accept)],
                true,
            ),
            ("and goes on", vec![call(Yes), rule("user", Yes, Return), accept.clone()], false),
            ("a call of something else", vec![call(No), rule("user", Yes, Accept)], true),
            ("drop in another chain", vec![call(Yes), rule("user", Yes, Drop), accept.clone()], true),
            ("goto does not come back", vec![rule(f, Yes, Goto("user".to_owned())), accept], true),
            ("a chain that calls itself", vec![call(Yes), rule("user", Yes, Call("user".to_owned()))], false),
        ] {
            assert_eq!(drops(&rules), expect, "{what}");
        }
    }
}
