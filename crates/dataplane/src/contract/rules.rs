//! What every nftables table must do.

mod elements;
mod layout;
mod scale;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32},
};

use ipnetwork::IpNetwork;
use lb_types::{
    Front, IpFamily, LocalDetection, Protocol, RuleElement, RuleSet, RulesLayout, RulesOp, VipPort,
};

use crate::{BatchReport, ObservedRules, RulesTable};

/// One demand on a table.
pub struct Case {
    /// Demand of the contract.
    pub name: &'static str,
    /// Panics if it is not met. At the start there is no table.
    pub run: fn(&mut dyn RulesTable),
}

const fn case(name: &'static str, run: fn(&mut dyn RulesTable)) -> Case {
    Case { name, run }
}

/// Demands with a few elements; [`LARGE_CASES`] are the others.
pub const CASES: &[Case] = &[
    case("there is no table at first", layout::fresh),
    case("an empty transaction does nothing", layout::empty),
    case("an installed layout is current, any other is not", layout::install),
    case("installing again changes nothing", layout::install_again),
    case("another layout keeps the elements", layout::change),
    case("every layout can follow every other", layout::all_pairs),
    case("deleting the table takes everything along; deleting it again succeeds", layout::delete),
    case("table and elements can be made in one transaction", layout::install_with_elements),
    case("the table can be deleted and made anew in one transaction", layout::delete_and_install),
    case("element operations without a table: ENOENT", layout::no_table),
    case("every set keeps elements of both families", elements::every_set),
    case("adding a present element succeeds", elements::add_again),
    case("a map keeps the mark that it has: EEXIST", elements::another_mark),
    case("prefixes of one port that overlap replace each other in one transaction", elements::clients),
    case("deleting an absent element: ENOENT, and nothing is executed", elements::delete_absent),
    case("every failed operation is named, whatever its neighbours", elements::all_failures_are_named),
    case("operations on one element are executed in order", elements::order),
    case("reasons name operation, key, error and meaning", elements::reasons),
];

/// Demands with elements by the thousand, which take their time on emulated kernels.
pub const LARGE_CASES: &[Case] = &[
    case("10,000 elements in one transaction", scale::ten_thousand),
    case("100,000 elements in one transaction, and their deletion", scale::hundred_thousand),
    case("a set that has just grown is dumped in full", scale::grown),
    case("failures among 10,000 operations are found", scale::failures_among_many),
    case("a transaction of 3,000 failures names them", scale::all_fail),
];

fn addr(family: IpFamily, number: u32) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4((0x0a60_0000 + number).into()),
        IpFamily::V6 => IpAddr::V6(((0xfd00_0096_u128 << 96) + u128::from(number)).into()),
    }
}

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("ports of tests are not 0")
}

fn mark(number: u32) -> NonZeroU32 {
    NonZeroU32::new(0x01b5_0000 + number).expect("marks of tests are not 0")
}

fn vip(number: u32) -> RuleElement {
    RuleElement::Vip(addr(IpFamily::V4, number))
}

fn service_port(family: IpFamily, number: u32) -> VipPort {
    let protocol = Protocol::ALL[number as usize % 3];
    VipPort { addr: addr(family, number), protocol, port: port(80) }
}

fn service(set: RuleSet, family: IpFamily, number: u32) -> RuleElement {
    set.of_port(service_port(family, number)).expect("a set of ports")
}

/// One element of each set and family, by number.
fn one_of_each(number: u32) -> Vec<RuleElement> {
    let of = |family| {
        let address = addr(family, number);
        let mut elements = vec![
            RuleElement::Vip(address),
            RuleElement::SteeredVip(address),
            RuleElement::NodeAddress(address),
        ];
        elements.extend(address.is_ipv4().then_some(RuleElement::UnansweredVip(address)));
        let of_port = |set: RuleSet| set.of_port(service_port(family, number));
        elements.extend(RuleSet::ALL.into_iter().filter_map(of_port));
        let (node_port, mark) =
            (Front::node(family, Protocol::Tcp, port(30_000 + number as u16)), mark(number));
        let external =
            Front { port: VipPort { addr: address, ..node_port.port }, ..node_port.for_external() };
        elements
            .extend([RuleElement::Mark(node_port, mark), RuleElement::Mark(node_port.for_external(), mark)]);
        elements.extend([RuleElement::Mark(external, mark), RuleElement::Unmarked(external, mark)]);
        elements.push(RuleElement::Unmarked(node_port, mark));
        let clients = |length| IpNetwork::new(address, length).expect("prefixes of tests are valid");
        elements.push(RuleElement::Allow(external.port, clients(family.host_prefix())));
        elements
    };
    IpFamily::ALL.into_iter().flat_map(of).collect()
}

/// Layouts of every kind of local detection.
fn layouts() -> Vec<RulesLayout> {
    let net = |text: &str| text.parse().expect("prefixes of tests are valid");
    let kinds = [
        (LocalDetection::None, LocalDetection::None),
        (
            LocalDetection::ClusterCidr(vec![net("10.244.0.0/16")]),
            LocalDetection::ClusterCidr(vec![net("fd00:244::/56"), net("fd00:245::1/128")]),
        ),
        (
            LocalDetection::NodeCidr(vec![net("10.244.1.0/24"), net("10.244.2.0/24")]),
            LocalDetection::NodeCidr(vec![]),
        ),
        (
            LocalDetection::BridgeInterface("cbr0".to_owned()),
            LocalDetection::BridgeInterface("cbr0".to_owned()),
        ),
        (LocalDetection::InterfaceNamePrefix("veth".to_owned()), LocalDetection::None),
        (LocalDetection::None, LocalDetection::InterfaceNamePrefix("cali".to_owned())),
    ];
    let layout = |(local_v4, local_v6)| RulesLayout { local_v4, local_v6, ..RulesLayout::default() };
    let mut layouts: Vec<_> = kinds.into_iter().map(layout).collect();
    layouts.push(RulesLayout { masquerade_bit: 31, ..layouts[3].clone() });
    let marks = "0x200/0xfffffe00".parse().expect("ranges of tests are valid");
    layouts.push(RulesLayout { arp: None, ..layouts[1].clone() });
    let links = ["eth0", "br-1"].map(str::to_owned).to_vec();
    layouts.push(RulesLayout { arp: Some(links), ..layouts[2].clone() });
    layouts.push(RulesLayout { marks, ..RulesLayout::default() });
    layouts
}

fn apply(table: &mut dyn RulesTable, ops: &[RulesOp]) -> BatchReport {
    table.apply(ops).expect("the table takes transactions")
}

fn must_apply(table: &mut dyn RulesTable, ops: &[RulesOp]) {
    let report = apply(table, ops);
    assert!(report.is_clean(), "{report:?}");
}

fn install(table: &mut dyn RulesTable) {
    must_apply(table, &[RulesOp::InstallLayout(RulesLayout::default())]);
}

fn adds(elements: &[RuleElement]) -> Vec<RulesOp> {
    elements.iter().copied().map(RulesOp::AddElement).collect()
}

fn deletes(elements: &[RuleElement]) -> Vec<RulesOp> {
    elements.iter().copied().map(RulesOp::DeleteElement).collect()
}

fn observe(table: &mut dyn RulesTable) -> ObservedRules {
    table.observe(&RulesLayout::default()).expect("the table can be dumped")
}

fn assert_elements(table: &mut dyn RulesTable, wanted: &[RuleElement]) {
    let seen: BTreeSet<_> = observe(table).elements.into_iter().collect();
    let wanted: BTreeSet<_> = wanted.iter().copied().collect();
    let missing: Vec<_> = wanted.difference(&seen).take(5).collect();
    let extra: Vec<_> = seen.difference(&wanted).take(5).collect();
    assert!(seen == wanted, "missing, among others: {missing:?}; not wanted, among others: {extra:?}");
}

/// Positions and error numbers of failures.
fn failures(report: &BatchReport) -> Vec<(usize, i32)> {
    report.failed.iter().map(|failed| (failed.index, failed.errno)).collect()
}
