//! The table as the kernel reports it: parsers of dumps, and the facts to compare with a [`TableSpec`].

use std::{collections::BTreeMap, ffi::CString};

use lb_types::{RuleElement, RulesLayout};
use netlink::{Attribute, Attributes, Message, Request};

use crate::{
    key,
    nft::{self, attr},
    render::render,
    spec::{ChainSpec, ENDPOINTS_MAX, SetId, SetKind, TABLE_NAME, TableFamily, TableSpec},
};

/// Our tables, without elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObservedTables {
    pub(crate) inet: ObservedTable,
    pub(crate) arp: ObservedTable,
}

impl ObservedTables {
    pub(crate) const fn table(&self, family: TableFamily) -> &ObservedTable {
        match family {
            TableFamily::Inet => &self.inet,
            TableFamily::Arp => &self.arp,
        }
    }

    pub(crate) const fn table_mut(&mut self, family: TableFamily) -> &mut ObservedTable {
        match family {
            TableFamily::Inet => &mut self.inet,
            TableFamily::Arp => &mut self.arp,
        }
    }
}

impl From<&RulesLayout> for ObservedTables {
    /// Tables that the kernel will report once a layout has been written.
    fn from(layout: &RulesLayout) -> Self {
        let mut tables = ObservedTables::default();
        for family in TableFamily::ALL {
            let wanted = render(family, layout);
            *tables.table_mut(family) = wanted.as_ref().map(ObservedTable::from).unwrap_or_default();
        }
        tables
    }
}

/// Chains, rules and sets of one of our tables, without elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObservedTable {
    /// Flags of the table (bit 0: dormant); `None` if there is no table.
    pub(crate) flags: Option<u32>,
    /// Sets by name, except anonymous ones, which go with their rules.
    pub(crate) sets: BTreeMap<CString, SetFacts>,
    /// Chains by name.
    pub(crate) chains: BTreeMap<CString, ChainFacts>,
}

/// Facts by which a set is one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetFacts {
    pub(crate) key_type: u32,
    pub(crate) key_len: u32,
    /// Bytes of what a map has for a key; 0 for a set.
    pub(crate) data_len: u32,
    /// Flags: map, interval, timeout, ...
    pub(crate) flags: u32,
    /// Bound of the number of elements; 0 for none.
    pub(crate) size: u32,
}

/// Facts by which a chain is one of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainFacts {
    /// Facts of a base chain; `None` for a regular chain.
    pub(crate) base: Option<BaseFacts>,
    /// Comments of the rules, in order; `None` for a rule without one.
    pub(crate) comments: Vec<Option<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseFacts {
    /// Hook, NF_INET_*.
    pub(crate) hook: u32,
    pub(crate) priority: i32,
    /// Type: "filter", "nat", ...
    pub(crate) kind: String,
    /// Policy, NF_ACCEPT or NF_DROP.
    pub(crate) policy: u32,
}

impl From<&TableSpec> for ObservedTable {
    /// Table that the kernel will report once a specification has been written.
    fn from(spec: &TableSpec) -> Self {
        ObservedTable {
            flags: Some(0),
            sets: spec.sets.iter().map(|id| (nft::c_string(&id.name()), SetFacts::from(*id))).collect(),
            chains: spec.chains.iter().map(|chain| (nft::c_string(chain.name), chain.into())).collect(),
        }
    }
}

impl From<SetId> for SetFacts {
    fn from(id: SetId) -> Self {
        let (flags, size) = match id.kind {
            SetKind::Planned(_) if id.has_intervals() => (nft::SET_INTERVAL | nft::SET_CONCAT, 0),
            SetKind::Planned(_) | SetKind::NodePorts(_) if id.is_map() => (nft::SET_MAP, 0),
            SetKind::Planned(_) | SetKind::NodePorts(_) => (0, 0),
            SetKind::Endpoints => (nft::SET_TIMEOUT | nft::SET_EVAL, ENDPOINTS_MAX),
        };
        let data_len = if id.is_map() { nft::MARK_LEN } else { 0 };
        SetFacts { key_type: id.key_type(), key_len: id.key_len(), data_len, flags, size }
    }
}

impl From<&ChainSpec> for ChainFacts {
    fn from(chain: &ChainSpec) -> Self {
        let base = chain.base.as_ref().map(|base| BaseFacts {
            hook: nft::hook_number(base.hook),
            priority: base.priority,
            kind: base.kind.as_str().to_owned(),
            policy: nft::NF_ACCEPT,
        });
        ChainFacts { base, comments: chain.rules.iter().map(|rule| Some(rule.comment())).collect() }
    }
}

/// Asks about one of our tables.
pub(crate) fn request(message: u16, table: TableFamily) -> Request {
    request_in(message, table, None)
}

/// Asks for the elements of a set.
pub(crate) fn elements_request(set: SetId) -> Request {
    request_in(nft::GETSETELEM, set.table(), Some(set))
}

fn request_in(message: u16, table: TableFamily, set: Option<SetId>) -> Request {
    Request::new(nft::kind(message), |buffer| {
        buffer.put(&nft::header(nft::family_number(table)));
        if message != nft::GETCHAIN {
            buffer.attribute_str(attr::TABLE, TABLE_NAME);
        }
        if let Some(set) = set {
            buffer.attribute_str(attr::SET_NAME, &set.name());
        }
    })
}

/// Asks for the number of the ruleset's generation.
pub(crate) fn generation_request() -> Request {
    Request::new(nft::kind(nft::GETGEN), |buffer| buffer.put(&nft::header(nft::NFPROTO_UNSPEC)))
}

pub(crate) fn parse_generation(message: &Message<'_>) -> Option<u32> {
    find(&mut message.attributes(nft::HEADER), attr::GEN_ID)?.u32_be()
}

/// Reads the flags of a table of ours.
pub(crate) fn parse_table(message: &Message<'_>) -> Option<u32> {
    is_ours(message).then_some(())?;
    find(&mut message.attributes(nft::HEADER), attr::TABLE_FLAGS).map_or(Some(0), |flags| flags.u32_be())
}

pub(crate) fn parse_chain(message: &Message<'_>) -> Option<(CString, ChainFacts)> {
    is_ours(message).then_some(())?;
    let (mut name, mut hook, mut kind, mut policy) = (None, None, String::new(), nft::NF_ACCEPT);
    for attribute in message.attributes(nft::HEADER) {
        match attribute.kind {
            attr::CHAIN_NAME => name = c_string(&attribute),
            attr::CHAIN_HOOK => hook = parse_hook(attribute.nested()),
            attr::CHAIN_TYPE => kind = String::from_utf8_lossy(attribute.string()).into_owned(),
            attr::CHAIN_POLICY => policy = attribute.u32_be()?,
            _ => {}
        }
    }
    let base = hook.map(|(hook, priority)| BaseFacts { hook, priority, kind, policy });
    Some((name?, ChainFacts { base, comments: Vec::new() }))
}

fn parse_hook(attributes: Attributes<'_>) -> Option<(u32, i32)> {
    let (mut number, mut priority) = (None, None);
    for attribute in attributes {
        match attribute.kind {
            attr::HOOK_NUMBER => number = attribute.u32_be(),
            attr::HOOK_PRIORITY => priority = attribute.u32_be(),
            _ => {}
        }
    }
    Some((number?, priority? as i32))
}

/// Reads the chain and the comment of a rule.
pub(crate) fn parse_rule(message: &Message<'_>) -> Option<(CString, Option<String>)> {
    is_ours(message).then_some(())?;
    let (mut chain, mut comment) = (None, None);
    for attribute in message.attributes(nft::HEADER) {
        match attribute.kind {
            attr::RULE_CHAIN => chain = c_string(&attribute),
            attr::RULE_USERDATA => comment = parse_comment(attribute.payload),
            _ => {}
        }
    }
    Some((chain?, comment))
}

/// Reads user data, a list of type, length (one byte each) and value; type 0 of a rule is its comment.
fn parse_comment(mut data: &[u8]) -> Option<String> {
    while let Some((&[kind, len], rest)) = data.split_first_chunk() {
        let value = rest.get(..usize::from(len))?;
        if kind == nft::USERDATA_COMMENT {
            let text = value.split(|b| *b == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        data = rest.get(usize::from(len)..)?;
    }
    None
}

/// Reads a named set.
pub(crate) fn parse_set(message: &Message<'_>) -> Option<(CString, SetFacts)> {
    is_ours(message).then_some(())?;
    let mut name = None;
    let mut facts = SetFacts { key_type: 0, key_len: 0, data_len: 0, flags: 0, size: 0 };
    for attribute in message.attributes(nft::HEADER) {
        match attribute.kind {
            attr::SET_NAME => name = c_string(&attribute),
            attr::SET_FLAGS => facts.flags = attribute.u32_be()?,
            attr::SET_KEY_TYPE => facts.key_type = attribute.u32_be()?,
            attr::SET_KEY_LEN => facts.key_len = attribute.u32_be()?,
            attr::SET_DATA_LEN => facts.data_len = attribute.u32_be()?,
            attr::SET_DESC => {
                let size = find(&mut attribute.nested(), attr::SET_DESC_SIZE);
                facts.size = size.and_then(|size| size.u32_be()).unwrap_or(0);
            }
            _ => {}
        }
    }
    (facts.flags & nft::SET_ANONYMOUS == 0).then_some((name?, facts))
}

/// Reads the elements of one message that our vocabulary can express; no others are ours.
pub(crate) fn parse_elements(id: SetId, message: &Message<'_>) -> Vec<RuleElement> {
    if !is_ours(message) {
        return Vec::new();
    }
    let lists = message.attributes(nft::HEADER).filter(|attribute| attribute.kind == attr::ELEMENTS);
    let elements = lists.flat_map(|list| list.nested());
    elements.filter_map(|element| parse_element(id, element.nested())).collect()
}

fn parse_element<'a>(id: SetId, attributes: Attributes<'a>) -> Option<RuleElement> {
    let (mut key, mut key_end, mut data): (Option<&[u8]>, &[u8], &[u8]) = (None, &[], &[]);
    for attribute in attributes {
        let value = |attribute: &Attribute<'a>| find(&mut attribute.nested(), attr::DATA_VALUE);
        match attribute.kind {
            attr::ELEMENT_KEY => key = Some(value(&attribute)?.payload),
            attr::ELEMENT_KEY_END => key_end = value(&attribute)?.payload,
            attr::ELEMENT_DATA => data = value(&attribute)?.payload,
            _ => {}
        }
    }
    key::parse_element(id, key?, key_end, data)
}

/// Tells whether a message is about one of our tables or something in it: all kinds have the table's name in
/// attribute 1.
pub(crate) fn is_ours(message: &Message<'_>) -> bool {
    nft::subsystem(message.kind) == nft::SUBSYSTEM
        && !matches!(nft::number(message.kind), nft::NEWGEN | nft::GETGEN)
        && matches!(message.payload.first(), Some(&nft::NFPROTO_INET | &nft::NFPROTO_ARP))
        && find(&mut message.attributes(nft::HEADER), attr::TABLE)
            .is_some_and(|name| name.string() == TABLE_NAME.as_bytes())
}

fn find<'a>(attributes: &mut Attributes<'a>, kind: u16) -> Option<Attribute<'a>> {
    attributes.find(|attribute| attribute.kind == kind)
}

fn c_string(attribute: &Attribute<'_>) -> Option<CString> {
    CString::new(attribute.string()).ok()
}

#[cfg(test)]
mod tests {
    use super::parse_comment;

    #[test]
    fn comments_are_found_among_other_user_data() {
        assert_eq!(parse_comment(b"\x00\x03ab\x00").as_deref(), Some("ab"));
        assert_eq!(parse_comment(b"\x07\x01x\x00\x02ab").as_deref(), Some("ab"));
        assert_eq!(parse_comment(b"\x07\x01x"), None);
        assert_eq!(parse_comment(b""), None);
    }

    #[test]
    fn cut_off_user_data_has_no_comment() {
        assert_eq!(parse_comment(b"\x00\x09ab"), None);
        assert_eq!(parse_comment(b"\x00"), None);
        assert_eq!(parse_comment(b"\x07\xff"), None);
    }
}
