//! Comparison of both sides: one line for each difference, in both directions.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    Kernel, Wanted,
    wanted::{Server, any_of_family},
};
use crate::{observe::VirtualServer, probe::Proto};

/// Tolerance towards real servers on their way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draining {
    /// Accepts weight 0 where nothing is wanted: connections of such a real server may not have ended yet.
    /// Never with UDP, whose real servers go at once.
    MayRun,
    /// Accepts only what is wanted: every drain that may have run is over.
    Over,
}

/// Sets whose elements come from traffic and go by themselves.
const FILLED_BY_PACKETS: [&str; 2] = ["endpoints-v4", "endpoints-v6"];

type Key = (Proto, SocketAddr);

/// Lists every difference between the kernel and the objects; empty if there is none.
///
/// `rules` are the chains and rules that the table must have: they do not depend on the objects.
pub fn differences(wanted: &Wanted, kernel: &Kernel, rules: &str, draining: Draining) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(kernel.link.clone());
    found.extend(kernel.ipvs.odd.iter().map(|line| format!("IPVS has what nobody wants: {line}")));
    let mut all = |wanted: &BTreeMap<Key, Server>, have: &BTreeMap<Key, VirtualServer>, clients: &str| {
        let mut retiring = BTreeSet::new();
        for (key, server) in have.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            if may_retire(*key, server, draining) {
                retiring.insert(*key);
            } else {
                found.push(format!("virtual server {}{clients} is not wanted: {server:?}", show(*key)));
            }
        }
        for (key, want) in wanted {
            let name = format!("{}{clients}", show(*key));
            compare_server(want, have.get(key), (key.0, &name), draining, &mut found);
        }
        retiring
    };
    let retiring = all(&wanted.servers, &kernel.ipvs.servers, "");
    let retiring_external = all(&wanted.external, &kernel.external, " (external clients)");
    compare("route", &routes(wanted, &retiring), &kernel.routes, &mut found);
    match &kernel.sets {
        None => found.push("the tables of kube-ipvs are missing".to_owned()),
        Some(sets) => {
            compare_sets(wanted, (&retiring, &retiring_external), sets, &mut found);
            let (must, has) = (rules.lines().map(str::to_owned), kernel.rules.lines().map(str::to_owned));
            compare("rule", &must.collect(), &has.collect::<Vec<_>>(), &mut found);
        }
    }
    found
}

/// Tells whether an unwanted virtual server may stay until its real servers have drained.
fn may_retire((proto, _): Key, server: &VirtualServer, draining: Draining) -> bool {
    let quiesced = !server.real.is_empty() && server.real.values().all(|weight| *weight == 0);
    draining == Draining::MayRun && proto != Proto::Udp && quiesced
}

fn compare_server(
    want: &Server,
    have: Option<&VirtualServer>,
    (proto, name): (Proto, &str),
    draining: Draining,
    found: &mut Vec<String>,
) {
    let mut say = |what: String| found.push(format!("virtual server {name} of {}: {what}", want.service));
    let Some(have) = have else {
        return say(format!("is missing, with {} real servers", want.real.len()));
    };
    let others = match want.scheduler.as_str() {
        "mh" if want.hashes_addresses => "-b mh-fallback",
        "mh" => "-b mh-fallback,mh-port",
        "sh" => "-b sh-fallback",
        _ => "",
    };
    for (what, must, has) in [
        ("scheduler", want.scheduler.clone(), have.scheduler.clone()),
        ("persistence", format!("{:?}", want.persistence), format!("{:?}", have.persistence)),
        ("options", others.to_owned(), have.others.clone()),
    ] {
        if must != has {
            say(format!("{what} must be {must:?}, is {has:?}"));
        }
    }
    for real in &want.real {
        match have.real.get(real) {
            None => say(format!("real server {real} is missing")),
            Some(1) => {}
            Some(weight) => say(format!("real server {real} has weight {weight}")),
        }
    }
    for (real, weight) in have.real.iter().filter(|(real, _)| !want.real.contains(real)) {
        if *weight != 0 || draining == Draining::Over || proto == Proto::Udp {
            say(format!("real server {real} with weight {weight} is not wanted"));
        }
    }
}

fn routes(wanted: &Wanted, retiring: &BTreeSet<Key>) -> BTreeSet<String> {
    let source = |vip: IpAddr| wanted.sources.iter().find(|source| source.is_ipv4() == vip.is_ipv4());
    let text = |vip: IpAddr| match source(vip) {
        Some(source) => format!("{vip} src {source}"),
        None => vip.to_string(),
    };
    let vips = wanted.servers.keys().chain(retiring).map(|(_, vip)| vip.ip());
    vips.filter(|vip| !vip.is_unspecified() && !wanted.sources.contains(vip)).map(text).collect()
}

/// Tells whether a node port that is not wanted by one key of its virtual server is wanted by the other: by all
/// addresses of the node, or by each of them.
fn has_moved(wanted: &Wanted, (proto, at): Key) -> bool {
    let is_wanted = |ip: IpAddr| wanted.servers.contains_key(&(proto, SocketAddr::new(ip, at.port())));
    let of_family = |source: &&IpAddr| source.is_ipv4() == at.is_ipv4();
    if at.ip().is_unspecified() {
        wanted.sources.iter().filter(of_family).any(|source| is_wanted(*source))
    } else {
        wanted.sources.contains(&at.ip()) && is_wanted(any_of_family(at.ip()))
    }
}

/// Compares all sets of the table, whether known here or not.
fn compare_sets(
    wanted: &Wanted,
    (retiring, retiring_external): (&BTreeSet<Key>, &BTreeSet<Key>),
    have: &BTreeMap<String, Vec<String>>,
    found: &mut Vec<String>,
) {
    let mut must: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // What a retiring virtual server may have kept.
    let mut may: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let name = |set: &str, ip: IpAddr| {
        let place = if ip.is_unspecified() && set != "vips" { "node-" } else { "" };
        format!("{place}{set}-{}", if ip.is_ipv4() { "v4" } else { "v6" })
    };
    let put = |into: &mut BTreeMap<String, BTreeSet<String>>, set: &str, key: Key| {
        into.entry(name(set, key.1.ip())).or_default().insert(element(key));
    };
    for key @ (_, vip) in wanted.servers.keys().chain(retiring) {
        let want = wanted.servers.get(key);
        let has_moved = want.is_none() && has_moved(wanted, *key);
        put(&mut must, "services", *key);
        if vip.ip().is_unspecified() {
            put(&mut must, if has_moved { "unmarked" } else { "marks" }, *key);
        } else if !wanted.sources.contains(&vip.ip()) {
            let addr = vip.ip().to_string();
            if vip.is_ipv4() {
                must.entry(name("unanswered-vips", vip.ip())).or_default().insert(addr.clone());
            }
            must.entry(name("vips", vip.ip())).or_default().insert(addr);
        }
        match want {
            Some(want) if want.masquerade.is_empty() => {}
            Some(want) => put(&mut must, want.masquerade, *key),
            // Its connections have their sources, and new ones are masqueraded as where they go.
            None if has_moved => {}
            None if vip.ip().is_unspecified() || wanted.sources.contains(&vip.ip()) => {
                put(&mut may, "masquerade", *key);
            }
            None => put(&mut must, "masquerade-nonlocal", *key),
        }
        // A retiring virtual server takes no new connections.
        if !has_moved && want.is_none_or(|server| server.real.is_empty()) {
            put(&mut must, "no-endpoints", *key);
        }
    }
    for endpoint in &wanted.local_endpoints {
        put(&mut must, "local-endpoints", *endpoint);
    }
    for (key, want) in &wanted.external {
        put(&mut must, "marks-external", *key);
        if want.real.is_empty() {
            put(&mut must, "no-local-endpoints", *key);
        }
    }
    for key in retiring_external {
        put(&mut must, "unmarked-external", *key);
    }
    // The node has no other addresses.
    for source in &wanted.sources {
        let family = if source.is_ipv4() { "v4" } else { "v6" };
        must.entry(format!("node-addresses-{family}")).or_default().insert(source.to_string());
    }
    let nothing = BTreeSet::new();
    let names: BTreeSet<&String> = must.keys().chain(have.keys()).collect();
    for name in names.into_iter().filter(|name| !FILLED_BY_PACKETS.contains(&name.as_str())) {
        let (must, may) = (must.get(name).unwrap_or(&nothing), may.get(name).unwrap_or(&nothing));
        let have = have.get(name).map_or(&[][..], Vec::as_slice);
        let have: Vec<_> =
            have.iter().filter(|one| must.contains(*one) || !may.contains(*one)).cloned().collect();
        compare(&format!("set {name}: element"), must, &have, found);
    }
}

/// Reports each `what` that is missing, unwanted, or there twice.
fn compare(what: &str, must: &BTreeSet<String>, have: &[String], found: &mut Vec<String>) {
    let has: BTreeSet<&String> = have.iter().collect();
    let missing = must.iter().filter(|one| !has.contains(one));
    found.extend(missing.map(|one| format!("{what} {one} is missing")));
    let extra = has.iter().filter(|one| !must.contains(**one));
    found.extend(extra.map(|one| format!("{what} {one} is not wanted")));
    if has.len() != have.len() {
        found.push(format!("{what}: {} are there twice", have.len() - has.len()));
    }
}

fn show((proto, at): Key) -> String {
    format!("{proto} {at}")
}

/// Renders an element in the words of nft.
fn element((proto, at): Key) -> String {
    let port = format!("{} . {}", proto.to_string().to_lowercase(), at.port());
    if at.ip().is_unspecified() { port } else { format!("{} . {port}", at.ip()) }
}
