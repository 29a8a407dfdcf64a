//! Contents of the kernel, and what happens to them, through tools that are not ours.

mod events;
mod ipvs;
mod timeline;
mod trace;

use std::fmt::Write as _;

use testkit::NetNs;

pub use events::Events;
pub use ipvs::{Ipvs, VirtualServer, ipvs, parse as parse_ipvs};
pub use timeline::Timeline;
pub use trace::Writes;

/// All kernel state that kube-ipvs may write, as text that is equal if and only if nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    sections: Vec<(&'static str, String)>,
}

/// Commands whose output together is the state.
const SECTIONS: [(&str, &str); 7] = [
    ("ipvsadm -Sn", "virtual and real servers"),
    // Handles are in it: an object that was deleted and added again has another one.
    ("nft -a list ruleset", "nftables"),
    ("ip -o link show", "links"),
    ("ip -o address show", "addresses"),
    ("ip -4 route show table all", "IPv4 routes"),
    ("ip -6 route show table all", "IPv6 routes"),
    ("ip rule show", "rules"),
];

impl Snapshot {
    /// Reads everything.
    pub fn take(node: &NetNs) -> Snapshot {
        let sections = SECTIONS.map(|(command, name)| (name, normalize(&node.sh(command))));
        Snapshot { sections: sections.into_iter().collect() }
    }

    /// Panics with the lines that differ.
    #[track_caller]
    pub fn assert_same(&self, later: &Snapshot, when: &str) {
        let changes = self.render_changes(later);
        assert!(changes.is_empty(), "kernel state changed {when}:\n{changes}");
    }

    /// Renders lines only in `self` (`-`) and only in `later` (`+`), by section; empty if the two are equal.
    pub fn render_changes(&self, later: &Snapshot) -> String {
        let mut text = String::new();
        for ((name, before), (_, after)) in self.sections.iter().zip(&later.sections) {
            if before == after {
                continue;
            }
            let _ = writeln!(text, "{name}:");
            for (sign, lines, others) in [('-', before, after), ('+', after, before)] {
                for line in lines.lines().filter(|line| !others.lines().any(|other| other == *line)) {
                    let _ = writeln!(text, "  {sign} {line}");
                }
            }
        }
        text
    }
}

/// Removes counters of packets and time, and the order of entries where it has no meaning.
fn normalize(text: &str) -> String {
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let mut kept = Vec::new();
            let mut skip = 0;
            for word in words {
                if skip > 0 {
                    skip -= 1;
                } else if matches!(word, "packets" | "bytes" | "expires") {
                    skip = 1;
                } else {
                    kept.push(word);
                }
            }
            kept.join(" ").trim_end().to_owned()
        })
        .collect();
    // ipvsadm lists virtual servers by hash: "-A" lines first, then "-a" lines that name theirs.
    if lines.iter().any(|line| line.starts_with("-A ")) {
        lines.sort();
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Snapshot, normalize};

    #[test]
    fn counters_and_order_do_not_count() {
        assert_eq!(normalize("  counter packets 5 bytes 300 accept"), "  counter accept");
        let (one, other) = (
            "-A -t 1.1.1.1:80 -s rr\n-A -t 2.2.2.2:80 -s rr\n",
            "-A -t 2.2.2.2:80 -s rr\n-A -t 1.1.1.1:80 -s rr\n",
        );
        assert_eq!(normalize(one), normalize(other));
    }

    #[test]
    fn changes_name_their_section() {
        let take = |routes: &str| Snapshot {
            sections: vec![("links", "lo".to_owned()), ("routes", routes.to_owned())],
        };
        let (before, after) = (take("a\nb"), take("a\nc"));
        assert_eq!(before.render_changes(&after), "routes:\n  - b\n  + c\n");
        assert_eq!(before.render_changes(&before.clone()), "");
    }
}
