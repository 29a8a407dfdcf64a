//! Costs of the chains of the packet rules, one by one: a path is measured again without each of them.
//!
//! Traffic goes on without a chain of ours, because IPVS finds its virtual servers by itself: refusals, marks of node
//! ports and masquerading are lost, so that only paths that need none of them are measured.

use std::fmt::Write as _;

use anyhow::Result;
use testkit::NetNs;

use super::{
    paths::{Client, Path, To},
    ways::Way,
};
use crate::programming::Bench;

/// Name of a part that is every nat chain: without any, the kernel has no address translation to look at.
const ALL_NAT: &str = "all nat chains";

/// Instructions that a path costs more because of a part of the rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Path of the packets.
    path: String,
    /// Part of the rules.
    name: String,
    /// Instructions by unit.
    counts: Vec<(&'static str, f64)>,
}

/// A base chain of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    name: String,
    is_nat: bool,
}

/// Measures the paths on which traffic needs no rule of ours.
pub fn measure(bench: &Bench, mut progress: impl FnMut(&str)) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for from in [Client::Pod, Client::Node] {
        let path = Path { from, to: To::ClusterIp, is_v6: false, affinity: false, others: 0 };
        let mut chains = Vec::new();
        progress(&path.name());
        let whole = path.measure_changed(Way::KubeIpvs, bench, |node| {
            chains = base_chains(node)?;
            Ok(())
        })?;
        let singles = chains.iter().map(|chain| (chain.name.clone(), vec![chain.clone()]));
        let nat = chains.iter().filter(|chain| chain.is_nat).cloned().collect();
        let cases: Vec<_> = singles.chain([(ALL_NAT.to_owned(), nat)]).collect();
        for (name, without) in cases {
            progress(&format!("{} without {name}", path.name()));
            let counts = path.measure_changed(Way::KubeIpvs, bench, |node| delete(node, &without))?;
            let counts = whole.iter().zip(counts).map(|((unit, whole), (_, rest))| (*unit, whole - rest));
            parts.push(Part { path: path.name(), name, counts: counts.collect() });
        }
    }
    Ok(parts)
}

/// Renders a table in Markdown.
pub fn table(parts: &[Part]) -> String {
    let mut text = "| path | part | connection | exchange |\n| --- | --- | --- | --- |\n".to_owned();
    for Part { path, name, counts } in parts {
        let _ = write!(text, "| {path} | {name} |");
        for (_, count) in counts {
            let _ = write!(text, " {count:.0} |");
        }
        text.push('\n');
    }
    text
}

fn delete(node: &NetNs, chains: &[Chain]) -> Result<()> {
    for Chain { name, .. } in chains {
        node.try_run(&["nft", "flush", "chain", "inet", "kube-ipvs", name])?;
        node.try_run(&["nft", "delete", "chain", "inet", "kube-ipvs", name])?;
    }
    Ok(())
}

fn base_chains(node: &NetNs) -> Result<Vec<Chain>> {
    let listing = node.try_run(&["nft", "list", "table", "inet", "kube-ipvs"])?;
    Ok(parse(&listing))
}

/// Chains of a listing that belong to a hook.
fn parse(listing: &str) -> Vec<Chain> {
    let lines: Vec<_> = listing.lines().map(str::trim).collect();
    let chain = |lines: &[&str]| {
        let [head, hook] = lines else { return None };
        let name = head.strip_prefix("chain ")?.strip_suffix(" {")?;
        let is_nat = hook.starts_with("type nat hook ");
        (is_nat || hook.starts_with("type filter hook ")).then(|| Chain { name: name.to_owned(), is_nat })
    };
    lines.windows(2).filter_map(chain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chains_of_hooks_are_measured() {
        let listing = "table inet kube-ipvs {\n\tchain refuse {\n\t\treject\n\t}\n\n\tchain input {\n\t\ttype filter hook \
                       input priority 90; policy accept;\n\t}\n\tchain postrouting {\n\t\ttype nat hook postrouting \
                       priority srcnat; policy accept;\n\t}\n}\n";
        let names: Vec<_> = parse(listing).into_iter().map(|chain| (chain.name, chain.is_nat)).collect();
        assert_eq!(names, [("input".to_owned(), false), ("postrouting".to_owned(), true)]);
    }

    #[test]
    fn a_line_has_the_cost_of_a_part() {
        let counts = vec![("connection", 1234.4), ("exchange", -3.0)];
        let parts = [Part { path: "pod to ClusterIP".into(), name: "input".into(), counts }];
        assert!(table(&parts).ends_with("| pod to ClusterIP | input | 1234 | -3 |\n"), "{}", table(&parts));
    }
}
