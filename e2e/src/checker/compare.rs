//! Comparison of both sides: one line for each difference, in both directions.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{Kernel, Wanted};
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
    let mut retiring = BTreeSet::new();
    for (key, server) in &kernel.ipvs.servers {
        if !wanted.servers.contains_key(key) {
            if may_retire(*key, server, draining) {
                retiring.insert(*key);
            } else {
                found.push(format!("virtual server {} is not wanted: {server:?}", show(*key)));
            }
        }
    }
    for key in wanted.servers.keys() {
        compare_server(wanted, kernel, *key, draining, &mut found);
    }
    compare("route", &routes(wanted, &retiring), &kernel.routes, &mut found);
    match &kernel.sets {
        None => found.push("the table inet kube-ipvs is missing".to_owned()),
        Some(sets) => {
            compare_sets(wanted, &retiring, sets, &mut found);
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

fn compare_server(wanted: &Wanted, kernel: &Kernel, key: Key, draining: Draining, found: &mut Vec<String>) {
    let want = &wanted.servers[&key];
    let mut say =
        |what: String| found.push(format!("virtual server {} of {}: {what}", show(key), want.service));
    let Some(have) = kernel.ipvs.servers.get(&key) else {
        return say(format!("is missing, with {} real servers", want.real.len()));
    };
    let others = match want.scheduler.as_str() {
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
        if *weight != 0 || draining == Draining::Over || key.0 == Proto::Udp {
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
    wanted.servers.keys().chain(retiring).map(|(_, vip)| text(vip.ip())).collect()
}

/// Compares all sets of the table, whether known here or not.
fn compare_sets(
    wanted: &Wanted,
    retiring: &BTreeSet<Key>,
    have: &BTreeMap<String, Vec<String>>,
    found: &mut Vec<String>,
) {
    let mut must: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut put = |set: &str, ip: IpAddr, element: String| {
        let family = if ip.is_ipv4() { "v4" } else { "v6" };
        must.entry(format!("{set}-{family}")).or_default().insert(element);
    };
    for key @ (_, vip) in wanted.servers.keys().chain(retiring) {
        put("vips", vip.ip(), vip.ip().to_string());
        put("services", vip.ip(), element(*key));
        put("masquerade-nonlocal", vip.ip(), element(*key));
        // A retiring virtual server takes no new connections.
        if wanted.servers.get(key).is_none_or(|server| server.real.is_empty()) {
            put("no-endpoints", vip.ip(), element(*key));
        }
    }
    let nothing = (BTreeSet::new(), Vec::new());
    let names: BTreeSet<&String> = must.keys().chain(have.keys()).collect();
    for name in names.into_iter().filter(|name| !FILLED_BY_PACKETS.contains(&name.as_str())) {
        let (must, have) = (must.get(name).unwrap_or(&nothing.0), have.get(name).unwrap_or(&nothing.1));
        compare(&format!("set {name}: element"), must, have, found);
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
    format!("{} . {} . {}", at.ip(), proto.to_string().to_lowercase(), at.port())
}
