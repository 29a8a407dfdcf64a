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
/// route comes before the old one goes, so that the VIP always has one. Routes of ours that are left on another link,
/// because somebody has renamed the one that was ours, go too.
pub(crate) fn resolve(
    vip: IpAddr,
    source: Option<IpAddr>,
    link: u32,
    rivals: &[LocalRoute],
) -> Result<Vec<RouteWrite>, Foreign> {
    match vip {
        IpAddr::V4(_) if !rivals.iter().any(is_ours) => {
            add_ipv4(source, link, rivals).map(|write| vec![write])
        }
        IpAddr::V4(_) => {
            let writes = replace_ipv4(source, link, &sources_on(link, rivals));
            Ok(writes.into_iter().chain(deletes_elsewhere(link, rivals)).collect())
        }
        IpAddr::V6(_) => ensure_ipv6(source, link, rivals),
    }
}

/// Tells whether a route is of our protocol, be it on our link or on one that has been ours.
fn is_ours(rival: &LocalRoute) -> bool {
    rival.protocol == ROUTE_PROTOCOL && rival.link.is_some()
}

/// Sources of our routes on our link.
fn sources_on(link: u32, rivals: &[LocalRoute]) -> Vec<Option<IpAddr>> {
    let own = rivals.iter().filter(|rival| is_ours(rival) && rival.link == Some(link));
    own.map(|rival| rival.source).collect()
}

/// Deletions of our routes on other links.
fn deletes_elsewhere(link: u32, rivals: &[LocalRoute]) -> impl Iterator<Item = RouteWrite> {
    let left = rivals.iter().filter(move |rival| is_ours(rival) && rival.link != Some(link));
    left.filter_map(|rival| Some(RouteWrite::Delete { link: rival.link?, source: None }))
}

/// Replaces the first route if that is ours: IPv6 offers no way to put one before it.
fn ensure_ipv6(source: Option<IpAddr>, link: u32, rivals: &[LocalRoute]) -> Result<Vec<RouteWrite>, Foreign> {
    let Some((first, rest)) = rivals.split_first() else { return Ok(vec![RouteWrite::Add(source)]) };
    let is_own = is_ours(first) && first.link == Some(link);
    let is_there =
        sources_on(link, if is_own { std::slice::from_ref(first) } else { rest }).contains(&source);
    if is_there {
        Ok(deletes_elsewhere(link, rivals).collect())
    } else if is_ours(first) {
        Ok([RouteWrite::Replace(source)].into_iter().chain(deletes_elsewhere(link, rest)).collect())
    } else {
        Err(Foreign(*first))
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

/// Replaces our routes on our link without `NLM_F_REPLACE`, which would take whatever route is first by then, ours or
/// not.
fn replace_ipv4(source: Option<IpAddr>, link: u32, ours: &[Option<IpAddr>]) -> Vec<RouteWrite> {
    // The kernel offers no way to delete the route without a source and to spare those with one
    // (`fib_table_delete`), so all of them go before the new one comes.
    let ambiguous = ours.contains(&None) && (ours.len() > 1 || source.is_some());
    if ambiguous {
        let deletes = ours.iter().map(|_| RouteWrite::Delete { link, source: None });
        return deletes.chain([RouteWrite::AddBefore(source)]).collect();
    }
    let add = (!ours.contains(&source)).then_some(RouteWrite::AddBefore(source));
    let outdated = ours.iter().filter(|old| **old != source);
    let outdated = outdated.map(|old| RouteWrite::Delete { link, source: *old });
    add.into_iter().chain(outdated).collect()
}

#[cfg(test)]
mod tests {
    use RouteWrite::Delete;
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
        use RouteWrite::{Add, AddBefore};
        let delete = |source| Delete { link: LINK, source };
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let [ours_a, ours_b, ours_none] = ["192.0.2.1", "192.0.2.2", ""].map(ours);
        let (kernel, foreign) = (rival(2, LINK, V4), rival(4, 3, ""));
        let (left, left_b) = (rival(ROUTE_PROTOCOL, 3, ""), rival(ROUTE_PROTOCOL, 3, "192.0.2.2"));
        let delete_left = Delete { link: 3, source: None };
        let node_address = rival(2, 3, V4);
        fn check_a(rivals: &[LocalRoute], expect: Result<&[RouteWrite], LocalRoute>) {
            check(V4, "192.0.2.1", rivals, expect);
        }
        check_a(&[], Ok(&[Add(a)]));
        check_a(&[ours_a], Ok(&[]));
        check_a(&[ours_b], Ok(&[AddBefore(a), delete(b)]));
        check_a(&[ours_b, ours_a], Ok(&[delete(b)]));
        check_a(&[ours_none], Ok(&[delete(None), AddBefore(a)]));
        check_a(&[ours_a, ours_none], Ok(&[delete(None), delete(None), AddBefore(a)]));
        check(V4, "", &[ours_a], Ok(&[AddBefore(None), delete(a)]));
        check(V4, "", &[ours_none], Ok(&[]));
        check_a(&[kernel], Ok(&[AddBefore(a)]));
        check_a(&[kernel, ours_a], Ok(&[]));
        check_a(&[foreign], Err(foreign));
        check_a(&[kernel, foreign], Err(foreign));
        // On a link that has been ours until somebody renamed it.
        check_a(&[left], Ok(&[AddBefore(a), delete_left]));
        check_a(&[left, left_b], Ok(&[AddBefore(a), delete_left, delete_left]));
        check_a(&[left_b, ours_a], Ok(&[delete_left]));
        check_a(&[ours_none, left_b], Ok(&[delete(None), AddBefore(a), delete_left]));
        check_a(&[foreign, left_b], Ok(&[AddBefore(a), delete_left]));
        check_a(&[node_address], Err(node_address));
        check_a(&[foreign, ours_b], Ok(&[AddBefore(a), delete(b)]));
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
        // On a link that has been ours until somebody renamed it.
        let left = |from: &str| rival(ROUTE_PROTOCOL, 3, from);
        let delete_left = Delete { link: 3, source: None };
        check_a(&[left("fd00::a")], Ok(&[Replace(a)]));
        check_a(&[left("fd00::b"), left("")], Ok(&[Replace(a), delete_left]));
        check_a(&[left("fd00::b"), ours_a], Ok(&[delete_left]));
        check_a(&[ours_a, left("fd00::b")], Ok(&[delete_left]));
        check_a(&[ours_b, left("fd00::b")], Ok(&[Replace(a), delete_left]));
        check_a(&[foreign, left("fd00::b")], Err(foreign));
    }
}
