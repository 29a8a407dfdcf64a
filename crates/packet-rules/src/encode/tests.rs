//! What we write is what we read; the kernel's own reading is tested on kernels.

use lb_types::{LocalDetection, RuleElement, RulesLayout};
use netlink::{Message, Messages, flags};
use proptest::prelude::*;

use super::*;
use crate::{
    nft,
    observed::{ChainFacts, SetFacts, parse_chain, parse_elements, parse_rule, parse_set, parse_table},
    render_table,
};

fn read<T>(bytes: &[u8], parse: impl FnOnce(&Message<'_>) -> T) -> (u16, u16, T) {
    let mut messages = Messages::new(bytes);
    let message = messages.next().expect("a whole message");
    assert!(messages.next().is_none(), "one message only");
    assert_eq!(nft::subsystem(message.kind), nft::SUBSYSTEM);
    (nft::number(message.kind), message.flags, parse(&message))
}

fn layout() -> RulesLayout {
    let local_v6 = LocalDetection::InterfaceNamePrefix("veth".to_owned());
    RulesLayout { local_v6, ..RulesLayout::default() }
}

#[test]
fn tables_chains_rules_and_sets_come_back() {
    let mut encoder = Encoder::new();
    assert_eq!(read(&encoder.write(TableFamily::Inet, &Write::CreateTable), parse_table).2, Some(0));
    let table = render_table(&layout());
    for id in &table.sets {
        let (kind, _, set) = read(&encoder.write(id.table(), &Write::CreateSet(*id)), parse_set);
        assert_eq!((kind, set), (9, Some((c_string(&id.name()), SetFacts::from(*id)))));
    }
    for chain in &table.chains {
        let expected = ChainFacts { comments: vec![], ..ChainFacts::from(chain) };
        let (kind, _, seen) =
            read(&encoder.write(TableFamily::Inet, &Write::CreateChain(chain.clone())), parse_chain);
        assert_eq!((kind, seen), (3, Some((c_string(chain.name), expected))));
        for rule in &chain.rules {
            let write = Write::AddRule { chain: chain.name, rule: rule.clone() };
            let (kind, flags, seen) = read(&encoder.write(TableFamily::Inet, &write), parse_rule);
            assert_eq!((kind, seen), (6, Some((c_string(chain.name), Some(rule.comment())))));
            assert_ne!(flags & flags::APPEND, 0, "rules keep their order");
        }
    }
}

#[test]
fn deletions_name_their_object() {
    let mut encoder = Encoder::new();
    let name = c_string("older");
    assert_eq!(read(&encoder.write(TableFamily::Inet, &Write::DeleteTable), parse_table), (2, 5, Some(0)));
    assert_eq!(
        read(&encoder.write(TableFamily::Inet, &Write::DeleteChain(name.clone())), parse_chain)
            .2
            .map(|c| c.0),
        Some(name.clone())
    );
    assert_eq!(
        read(&encoder.write(TableFamily::Inet, &Write::FlushChain(name.clone())), parse_rule),
        (8, 5, Some((name.clone(), None)))
    );
    let (kind, flags, set) =
        read(&encoder.write(TableFamily::Inet, &Write::DeleteSet(name.clone())), parse_set);
    assert_eq!((kind, flags, set.map(|set| set.0)), (11, 1, Some(name)));
}

#[test]
fn sets_of_a_transaction_have_different_identifiers() {
    let mut encoder = Encoder::new();
    let ids: std::collections::BTreeSet<_> = SetId::all()
        .map(|id| {
            let bytes = encoder.write(id.table(), &Write::CreateSet(id));
            // NFTA_SET_ID
            read(&bytes, |message| message.attributes(4).find(|a| a.kind == 10).and_then(|a| a.u32_be())).2
        })
        .collect();
    assert_eq!(ids.len(), SetId::all().count());
    assert!(!ids.contains(&None));
}

#[test]
fn a_full_message_of_the_largest_elements_fits() {
    let port = "[fd00::1]:80/TCP".parse().unwrap();
    let mut elements = Elements::default();
    for n in 0..ELEMENTS_PER_MESSAGE as u16 {
        let clients = std::net::Ipv6Addr::from(u128::from(n) << 112);
        elements.push(&RuleElement::Allow(port, ipnetwork::IpNetwork::new(clients.into(), 16).unwrap()));
    }
    let id = SetId::planned(lb_types::RuleSet::Allowed, lb_types::IpFamily::V6);
    let bytes = Encoder::new().elements(id, Change::Add, &elements);
    assert!(bytes.len() < 64_000, "{}", bytes.len());
    let count = read(&bytes, |message| {
        let list = message.attributes(4).find(|attribute| attribute.kind == 3).expect("a list");
        list.nested().count()
    });
    assert_eq!(count.2, ELEMENTS_PER_MESSAGE);
}

fn element() -> impl Strategy<Value = RuleElement> {
    let addr = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(std::net::IpAddr::from),
        any::<std::net::Ipv6Addr>().prop_map(std::net::IpAddr::from)
    ];
    let protocol = proptest::sample::select(lb_types::Protocol::ALL.as_slice());
    let set = proptest::sample::select(lb_types::RuleSet::ALL.as_slice());
    (set, addr, protocol, any::<std::num::NonZeroU16>(), any::<std::num::NonZeroU32>()).prop_map(
        |(set, addr, protocol, port, mark)| {
            let port = lb_types::VipPort { addr, protocol, port };
            let front = lb_types::Front::from(port);
            set.of_port(port).unwrap_or(match set {
                lb_types::RuleSet::Vips => RuleElement::Vip(addr),
                lb_types::RuleSet::NodeAddresses => RuleElement::NodeAddress(addr),
                lb_types::RuleSet::Allowed => {
                    let clients = ipnetwork::IpNetwork::new(addr, port.port.get() as u8 % 33).unwrap();
                    let clients = ipnetwork::IpNetwork::new(clients.network(), clients.prefix()).unwrap();
                    RuleElement::Allow(port, clients)
                }
                lb_types::RuleSet::Marks => RuleElement::Mark(front, mark),
                lb_types::RuleSet::MarksExternal => RuleElement::Mark(front.for_external(), mark),
                lb_types::RuleSet::Unmarked => RuleElement::Unmarked(front, mark),
                _ => RuleElement::Unmarked(front.for_external(), mark),
            })
        },
    )
}

proptest! {
    #[test]
    fn elements_come_back(element in element(), delete in any::<bool>()) {
        let id = SetId::of(&element);
        let change = if delete { Change::Delete } else { Change::Add };
        let mut elements = Elements::default();
        elements.push(&element);
        let bytes = Encoder::new().elements(id, change, &elements);
        let (kind, flags, seen) = read(&bytes, |message| parse_elements(id, message));
        prop_assert_eq!((kind, flags & flags::EXCL), (if delete { 14 } else { 12 }, 0));
        prop_assert_eq!(seen, [element]);
    }

    #[test]
    fn no_message_makes_the_parsers_panic(
        kind in any::<u16>(),
        mut payload in proptest::collection::vec(any::<u8>(), 0..200),
        ours in any::<bool>(),
    ) {
        if ours {
            // Past the check whose table it is.
            payload.splice(0..0, *b"\x01\0\0\0\x0e\0\x01\0kube-ipvs\0\0\0");
        }
        let kind = if ours { nft::kind(kind & 0xff) } else { kind };
        let message = Message { kind, flags: 0, sequence: 0, port_id: 0, payload: &payload };
        let _ = (parse_table(&message), parse_chain(&message), parse_rule(&message), parse_set(&message));
        for id in SetId::all() {
            parse_elements(id, &message);
        }
    }
}
