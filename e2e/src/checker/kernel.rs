//! Contents of the kernel according to the tools.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::Value;
use testkit::NetNs;

use crate::{
    observe::{Ipvs, VirtualServer, parse_ipvs},
    probe::Proto,
};

/// Link that carries the routes.
const LINK: &str = "kube-ipvs0";
/// Address that the link may have, after one that others had put there was removed: without any, its IPv4
/// routes would go.
const PLACEHOLDER: &str = "127.177.177.177";

/// The tables of one network namespace, as far as kube-ipvs writes them.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// Virtual and real servers; those of a packet mark stand under the port that gets it, at the unspecified address
    /// if it is a node port.
    pub ipvs: Ipvs,
    /// Virtual servers for clients outside alone, in the same way.
    pub external: BTreeMap<(Proto, SocketAddr), VirtualServer>,
    /// Local routes on our link that are not the kernel's own, such as `10.96.0.80 src 192.168.50.10`.
    pub routes: Vec<String>,
    /// Fault of the link; `None` if it is a dummy, up, and has no address.
    pub link: Option<String>,
    /// Elements by set, in the words of nft, such as `10.96.0.80 . tcp . 80`; `None` without our tables.
    pub sets: Option<BTreeMap<String, Vec<String>>>,
    /// Chains and rules of our tables, without handles.
    pub rules: String,
}

impl Kernel {
    /// Asks the tools; a look is not atomic, so that it must be repeated if something is changing.
    pub fn read(node: &NetNs) -> Result<Kernel, String> {
        let run = |line: &str| {
            node.try_run(&line.split(' ').collect::<Vec<_>>()).map_err(|error| error.to_string())
        };
        let mut tables = Vec::new();
        for family in ["inet", "arp"] {
            match run(&format!("nft -j list table {family} kube-ipvs")) {
                Err(error) if error.contains("No such file or directory") => {}
                table => tables.push(table?),
            }
        }
        Kernel::parse(
            &run("ipvsadm -Sn")?,
            &[run("ip -j -4 route show table local")?, run("ip -j -6 route show table local")?],
            &run("ip -j -d address show")?,
            &tables,
        )
    }

    /// Reads the output of the tools; of nft, that about each of our tables.
    pub fn parse(
        ipvs: &str,
        routes: &[String],
        addresses: &str,
        tables: &[String],
    ) -> Result<Kernel, String> {
        let mut kernel = Kernel { ipvs: parse_ipvs(ipvs), ..Kernel::default() };
        for text in routes {
            kernel.routes.extend(parse(text)?.iter().filter_map(route));
        }
        kernel.link = link_problem(&parse(addresses)?);
        for table in tables {
            let table: Value = serde_json::from_str(table).map_err(|error| format!("nft: {error}"))?;
            let parts = table.get("nftables").and_then(Value::as_array).ok_or("nft: no list")?;
            let mut sets: BTreeMap<_, _> = parts.iter().filter_map(|part| part.get("set")).map(set).collect();
            for map in parts.iter().filter_map(|part| part.get("map")) {
                sets.insert(word(map, "name").to_owned(), kernel.resolve_marks(map));
            }
            kernel.sets.get_or_insert_default().append(&mut sets);
            kernel.rules += &rules(parts);
        }
        let unknown = std::mem::take(&mut kernel.ipvs.marked);
        kernel
            .ipvs
            .odd
            .extend(unknown.keys().map(|(_, mark)| format!("mark {mark:#x}, which no element names")));
        Ok(kernel)
    }

    /// Puts the virtual servers of the marks in a map where their ports belong, and returns the map's keys.
    fn resolve_marks(&mut self, map: &Value) -> Vec<String> {
        let name = word(map, "name");
        let is_v6 = name.ends_with("-v6");
        let mut keys = Vec::new();
        for pair in map.get("elem").and_then(Value::as_array).into_iter().flatten() {
            let Some([key, mark]) = pair.as_array().map(Vec::as_slice) else { continue };
            let key = element(key);
            let mark = mark.as_u64().and_then(|mark| u32::try_from(mark).ok()).unwrap_or_default();
            if let (Some(server), Some(port)) = (self.ipvs.marked.remove(&(is_v6, mark)), port(&key, is_v6)) {
                let servers =
                    if name.contains("external") { &mut self.external } else { &mut self.ipvs.servers };
                servers.insert(port, server);
            }
            keys.push(key);
        }
        keys
    }
}

/// Reads the output of `ip`, which prints nothing, not even an empty list, where there is nothing.
fn parse(text: &str) -> Result<Vec<Value>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(text).map_err(|error| format!("ip: {error}"))
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Reads a route of ours, or of somebody who put it among ours.
fn route(route: &Value) -> Option<String> {
    if word(route, "dev") != LINK || word(route, "protocol") == "kernel" {
        return None;
    }
    let mut text = word(route, "dst").to_owned();
    if let Some(source) = route.get("prefsrc").and_then(Value::as_str) {
        text.push_str(" src ");
        text.push_str(source);
    }
    Some(text)
}

fn link_problem(links: &[Value]) -> Option<String> {
    let Some(link) = links.iter().find(|link| word(link, "ifname") == LINK) else {
        return Some(format!("the link {LINK} is missing"));
    };
    let has_flag = |name: &str| {
        let flags = link.get("flags").and_then(Value::as_array);
        flags.is_some_and(|flags| flags.iter().any(|flag| flag.as_str() == Some(name)))
    };
    let kind = link.pointer("/linkinfo/info_kind").and_then(Value::as_str).unwrap_or_default();
    if kind != "dummy" {
        return Some(format!("the link {LINK} is of type {kind:?}, not dummy"));
    }
    if !has_flag("UP") {
        return Some(format!("the link {LINK} is down"));
    }
    let addresses = link.get("addr_info").and_then(Value::as_array);
    // The kernel may give the link a link-local address.
    let is_odd = |address: &&Value| word(address, "scope") != "link" && word(address, "local") != PLACEHOLDER;
    let odd = addresses.into_iter().flatten().find(is_odd);
    odd.map(|address| format!("the link {LINK} has the address {}", word(address, "local")))
}

fn set(set: &Value) -> (String, Vec<String>) {
    let elements = set.get("elem").and_then(Value::as_array).into_iter().flatten().map(element).collect();
    (word(set, "name").to_owned(), elements)
}

/// Reads `ADDRESS . PROTOCOL . PORT`, or the same without an address.
fn port(key: &str, is_v6: bool) -> Option<(Proto, SocketAddr)> {
    let mut words = key.split(" . ").collect::<Vec<_>>();
    if words.len() == 2 {
        words.insert(0, if is_v6 { "::" } else { "0.0.0.0" });
    }
    let [addr, proto, port] = words[..] else { return None };
    Some((proto.to_uppercase().parse().ok()?, SocketAddr::new(addr.parse().ok()?, port.parse().ok()?)))
}

fn element(element: &Value) -> String {
    let one = |part: &Value| part.as_str().map_or_else(|| part.to_string(), str::to_owned);
    match element.get("concat").and_then(Value::as_array) {
        Some(parts) => parts.iter().map(one).collect::<Vec<_>>().join(" . "),
        None => one(element),
    }
}

/// Renders one line for each chain and rule. Handles count how often the table was made, which is of no
/// interest.
fn rules(parts: &[Value]) -> String {
    let mut lines = String::new();
    for part in parts.iter().filter_map(|part| part.get("chain").or_else(|| part.get("rule"))) {
        let mut part = part.clone();
        if let Some(fields) = part.as_object_mut() {
            fields.remove("handle");
        }
        lines.push_str(&part.to_string());
        lines.push('\n');
    }
    lines
}
