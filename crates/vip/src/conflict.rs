//! Writes that resolve a conflict: the kernel says that a route of the same key exists.

use std::net::IpAddr;

use crate::{ROUTE_PROTOCOL, dump::LocalRoute, encode::RouteWrite};

/// Protocol RTPROT_KERNEL, of routes that come with an address of the link.
const PROTOCOL_KERNEL: u8 = 2;

/// A route of somebody else that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign(pub(crate) LocalRoute);

/// Writes that leave exactly one route of ours for `vip`, with this source, and change nobody else's.
///
/// `rivals` are the routes with the key of ours, in the kernel's order. Where the family allows it, the new
/// route comes before the old one goes, so that the VIP always has one.
pub(crate) fn resolve(
    vip: IpAddr,
    source: Option<IpAddr>,
    link: u32,
    rivals: &[LocalRoute],
) -> Result<Vec<RouteWrite>, Foreign> {
    let is_ours = |rival: &&LocalRoute| rival.protocol == ROUTE_PROTOCOL && rival.link == Some(link);
    let ours: Vec<_> = rivals.iter().filter(is_ours).map(|rival| rival.source).collect();
    match vip {
        IpAddr::V4(_) if ours.is_empty() => add_ipv4(source, link, rivals).map(|write| vec![write]),
        IpAddr::V4(_) => Ok(replace_ipv4(source, &ours)),
        IpAddr::V6(_) => match rivals.first() {
            Some(first) if is_ours(&first) && first.source == source => Ok(vec![]),
            Some(first) if is_ours(&first) => Ok(vec![RouteWrite::Replace(source)]),
            Some(_) if ours.contains(&source) => Ok(vec![]),
            Some(first) => Err(Foreign(*first)),
            None => Ok(vec![RouteWrite::Add(source)]),
        },
    }
}

/// Adds where none of the rivals is ours; a route that an address of our own link brought yields to ours.
fn add_ipv4(source: Option<IpAddr>, link: u32, rivals: &[LocalRoute]) -> Result<RouteWrite, Foreign> {
    let yields = |rival: &&LocalRoute| rival.protocol == PROTOCOL_KERNEL && rival.link == Some(link);
    match rivals.iter().find(|rival| !yields(rival)) {
        Some(foreign) => Err(Foreign(*foreign)),
        None if rivals.is_empty() => Ok(RouteWrite::Add(source)),
        None => Ok(RouteWrite::AddBefore(source)),
    }
}

/// Replaces our routes without `NLM_F_REPLACE`, which would take whatever route is first by then, ours or
/// not.
fn replace_ipv4(source: Option<IpAddr>, ours: &[Option<IpAddr>]) -> Vec<RouteWrite> {
    // The kernel offers no way to delete the route without a source and to spare those with one
    // (`fib_table_delete`), so all of them go before the new one comes.
    let ambiguous = ours.contains(&None) && (ours.len() > 1 || source.is_some());
    if ambiguous {
        let deletes = ours.iter().map(|_| RouteWrite::Delete(None));
        return deletes.chain([RouteWrite::AddBefore(source)]).collect();
    }
    let add = (!ours.contains(&source)).then_some(RouteWrite::AddBefore(source));
    let outdated = ours.iter().filter(|old| **old != source).map(|old| RouteWrite::Delete(*old));
    add.into_iter().chain(outdated).collect()
}

#[cfg(test)]
mod tests {
    use lb_types::RouteTable;

    use super::*;

    const LINK: u32 = 7;
    const V4: &str = "10.96.0.1";
    const V6: &str = "fd00::1";

    fn source(text: &str) -> Option<IpAddr> {
        (!text.is_empty()).then(|| text.parse().unwrap())
    }

    fn rival(protocol: u8, link: u32, from: &str) -> LocalRoute {
        let addr = V4.parse().unwrap();
        LocalRoute {
            addr,
            table: RouteTable::Local,
            protocol,
            tos: 0,
            metric: 0,
            link: Some(link),
            source: source(from),
        }
    }

    fn ours(from: &str) -> LocalRoute {
        rival(ROUTE_PROTOCOL, LINK, from)
    }

    fn check(vip: &str, from: &str, rivals: &[LocalRoute], expect: Result<&[RouteWrite], LocalRoute>) {
        let got = resolve(vip.parse().unwrap(), source(from), LINK, rivals);
        assert_eq!(got, expect.map(<[_]>::to_vec).map_err(Foreign), "{vip} from {from:?}: {rivals:?}");
    }

    #[test]
    fn ipv4() {
        use RouteWrite::{Add, AddBefore, Delete};
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let [ours_a, ours_b, ours_none] = ["192.0.2.1", "192.0.2.2", ""].map(ours);
        let (kernel, foreign) = (rival(2, LINK, V4), rival(4, 3, ""));
        let elsewhere = rival(ROUTE_PROTOCOL, 3, "");
        let node_address = rival(2, 3, V4);
        fn check_a(rivals: &[LocalRoute], expect: Result<&[RouteWrite], LocalRoute>) {
            check(V4, "192.0.2.1", rivals, expect);
        }
        check_a(&[], Ok(&[Add(a)]));
        check_a(&[ours_a], Ok(&[]));
        check_a(&[ours_b], Ok(&[AddBefore(a), Delete(b)]));
        check_a(&[ours_b, ours_a], Ok(&[Delete(b)]));
        check_a(&[ours_none], Ok(&[Delete(None), AddBefore(a)]));
        check_a(&[ours_a, ours_none], Ok(&[Delete(None), Delete(None), AddBefore(a)]));
        check(V4, "", &[ours_a], Ok(&[AddBefore(None), Delete(a)]));
        check(V4, "", &[ours_none], Ok(&[]));
        check_a(&[kernel], Ok(&[AddBefore(a)]));
        check_a(&[kernel, ours_a], Ok(&[]));
        check_a(&[foreign], Err(foreign));
        check_a(&[kernel, foreign], Err(foreign));
        check_a(&[elsewhere], Err(elsewhere));
        check_a(&[node_address], Err(node_address));
        check_a(&[foreign, ours_b], Ok(&[AddBefore(a), Delete(b)]));
        check_a(&[rival(4, LINK, "")], Err(rival(4, LINK, "")));
    }

    #[test]
    fn ipv6() {
        use RouteWrite::{Add, Replace};
        let a = source("fd00::a");
        let (ours_a, ours_b, foreign) = (ours("fd00::a"), ours("fd00::b"), rival(4, 3, ""));
        fn check_a(rivals: &[LocalRoute], expect: Result<&[RouteWrite], LocalRoute>) {
            check(V6, "fd00::a", rivals, expect);
        }
        check_a(&[], Ok(&[Add(a)]));
        check_a(&[ours_a], Ok(&[]));
        check_a(&[ours_b], Ok(&[Replace(a)]));
        check_a(&[ours("")], Ok(&[Replace(a)]));
        check(V6, "", &[ours_a], Ok(&[Replace(None)]));
        check_a(&[foreign], Err(foreign));
        check_a(&[foreign, ours_a], Ok(&[]));
        check_a(&[foreign, ours_b], Err(foreign));
        check_a(&[ours_b, foreign], Ok(&[Replace(a)]));
    }
}
