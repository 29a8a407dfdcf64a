//! Values as nf_tables messages, by libnftnl.
//!
//! The safe wrapper `nftnl` does what it can; what it does not offer (most expressions, flags of masquerade,
//! byte order of sets, elements that may exist already) is built on `nftnl_sys` in `encode/raw.rs`.
//! `nftnl::Batch` is not used: it hides where messages begin, asks for an answer to each, and parses the
//! kernel version in a way that fails on some.

mod raw;
#[cfg(test)]
mod tests;

use lb_types::RuleElement;
use nftnl::{Chain, ChainType, MsgType, Policy, ProtoFamily, Rule, Table};
use raw::{RawElements, RawExpr, RawSet, Scratch};

use crate::{
    expr,
    install::Write,
    key::{Field, put_data, put_key, put_key_end},
    nft::{self, c_string},
    spec::{
        BaseChain, ChainKind, ChainSpec, ENDPOINT_MEMORY, ENDPOINT_SWEEP, ENDPOINTS_MAX, Hook, RuleSpec,
        SetId, SetKind, TABLE_NAME, TableFamily,
    },
};

/// Encodes messages one after the other. Sequence numbers are 0.
pub(crate) struct Encoder {
    inet: Table,
    arp: Table,
    scratch: Scratch,
    /// Identifier of the next new set within its transaction.
    next_set: u32,
}

/// Elements of one set as bytes, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Elements {
    keys: Vec<u8>,
    /// The other ends of intervals; empty for other sets.
    key_ends: Vec<u8>,
    /// Marks of a map, one for each key; empty for a set.
    data: Vec<u8>,
}

impl Elements {
    pub(crate) fn push(&mut self, element: &RuleElement) {
        put_key(&mut self.keys, element);
        put_key_end(&mut self.key_ends, element);
        put_data(&mut self.data, element);
    }
}

/// Choice between adding and deleting elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    Delete,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        let table = |family| Table::new(c_string(TABLE_NAME), proto_family(family));
        let (inet, arp) = (table(TableFamily::Inet), table(TableFamily::Arp));
        Encoder { inet, arp, scratch: Scratch::new(), next_set: 1 }
    }

    /// One write to a table, its chains or its sets.
    pub(crate) fn write(&mut self, family: TableFamily, write: &Write) -> Vec<u8> {
        let table = match family {
            TableFamily::Inet => &self.inet,
            TableFamily::Arp => &self.arp,
        };
        match write {
            Write::CreateTable => self.scratch.encode(table, MsgType::Add),
            Write::DeleteTable => self.scratch.encode(table, MsgType::Del),
            Write::FlushChain(name) => {
                let chain = Chain::new(name, table);
                self.scratch.encode(&Rule::new(&chain), MsgType::Del)
            }
            Write::DeleteChain(name) => self.scratch.encode(&Chain::new(name, table), MsgType::Del),
            Write::DeleteSet(name) => {
                self.scratch.encode(&RawSet::named(name, proto_family(family)), MsgType::Del)
            }
            Write::CreateSet(id) => self.create_set(*id),
            Write::CreateChain(spec) => self.scratch.encode(&encode_chain(table, spec), MsgType::Add),
            Write::AddRule { chain, rule } => {
                let chain = Chain::new(c_string(chain), table);
                self.scratch.encode(&encode_rule(&chain, rule), MsgType::Add)
            }
        }
    }

    /// Adds or deletes elements of a set; adding those that exist succeeds.
    ///
    /// At most [`ELEMENTS_PER_MESSAGE`] keys: the length of an attribute has 16 bits.
    pub(crate) fn elements(&mut self, id: SetId, change: Change, elements: &Elements) -> Vec<u8> {
        let mut set = RawSet::of(id);
        let len = id.key_len() as usize;
        let mut ends = elements.key_ends.chunks_exact(len);
        let mut data = elements.data.chunks_exact(nft::MARK_LEN as usize);
        for key in elements.keys.chunks_exact(len) {
            set.add(key, ends.next().unwrap_or_default(), data.next().unwrap_or_default());
        }
        let kind = match change {
            Change::Add => MsgType::Add,
            Change::Delete => MsgType::Del,
        };
        self.scratch.encode(&RawElements(&set), kind)
    }

    fn create_set(&mut self, id: SetId) -> Vec<u8> {
        let mut set = RawSet::of(id);
        set.describe(id.key_type(), id.key_len(), self.next_set, id.is_map());
        if id.has_intervals() {
            let lengths: Vec<_> = id.fields().into_iter().map(Field::len).collect();
            set.of_intervals(&lengths);
        }
        if id.kind == SetKind::Endpoints {
            set.filled_by_packets(ENDPOINTS_MAX, (ENDPOINT_MEMORY, ENDPOINT_SWEEP));
        }
        self.next_set += 1;
        self.scratch.encode(&set, MsgType::Add)
    }
}

/// Elements in one message. One of the largest takes 100 bytes: an interval of IPv6.
pub(crate) const ELEMENTS_PER_MESSAGE: usize = 600;

fn encode_chain<'t>(table: &'t Table, spec: &ChainSpec) -> Chain<'t> {
    let mut chain = Chain::new(c_string(spec.name), table);
    if let Some(base) = &spec.base {
        chain.set_type(chain_type(base));
        chain.set_hook(hook(base.hook), base.priority);
        chain.set_policy(Policy::Accept);
    }
    chain
}

fn encode_rule<'c>(chain: &'c Chain<'_>, spec: &RuleSpec) -> Rule<'c> {
    let mut rule = Rule::new(chain);
    for expr in expr::lower(spec) {
        rule.add_expr(&RawExpr(expr));
    }
    // Fails only for texts longer than any of ours; such a rule would never be found current and be
    // rewritten.
    let _ = rule.set_comment(c_string(&spec.comment()));
    rule
}

const fn proto_family(family: TableFamily) -> ProtoFamily {
    match family {
        TableFamily::Inet => ProtoFamily::Inet,
        TableFamily::Arp => ProtoFamily::Arp,
    }
}

const fn chain_type(base: &BaseChain) -> ChainType {
    match base.kind {
        ChainKind::Filter => ChainType::Filter,
        ChainKind::Nat => ChainType::Nat,
    }
}

const fn hook(hook: Hook) -> nftnl::Hook {
    match hook {
        // NF_ARP_IN has the number of this one.
        Hook::Prerouting | Hook::ArpInput => nftnl::Hook::PreRouting,
        Hook::Input => nftnl::Hook::In,
        Hook::Forward => nftnl::Hook::Forward,
        Hook::Output => nftnl::Hook::Out,
        Hook::Postrouting => nftnl::Hook::PostRouting,
    }
}
