//! `kube-ipvs drains`: what the running process has recorded, with the kernel's counters of this moment.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{IsTerminal as _, stdout},
    time::Duration,
};

use anyhow::Context;
use dataplane::IpvsTable as _;
use drain::{Key, Time};
use drain_file::{DrainFile, Entry, Saved};
use ipvs::IpvsClient;
use lb_types::{ConnectionCounters, Front};
use serde::Serialize;

use crate::{
    clock,
    config::Settings,
    flags::Output,
    output::{self, Reader},
};

/// Between two lists with `--watch`.
const PERIOD: Duration = Duration::from_secs(1);

/// Clears a terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// One draining real server, as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    virtual_server: String,
    real_server: String,
    /// `NAMESPACE/NAME`; null if it is not known.
    pod: Option<String>,
    reason: String,
    policy: String,
    /// Null if the kernel does not have the real server any more.
    active_connections: Option<u32>,
    inactive_connections: Option<u32>,
    since_seconds: u64,
    /// Until it is removed in any case; null if it may take for ever.
    deadline_seconds: Option<u64>,
}

/// Prints the list, once or for ever.
pub fn drains(settings: &Settings, output: Output, watch: bool) -> anyhow::Result<()> {
    let file = DrainFile::new(&settings.state_dir, kernel::boot_id().context("find out the boot's id")?);
    let mut kernel = IpvsClient::open().context("open the IPVS tables")?;
    loop {
        let rows = read(&file, &mut kernel)?;
        let text = match output {
            Output::Table => render_table(&rows),
            Output::Json if watch => serde_json::to_string(&rows)? + "\n",
            Output::Json => serde_json::to_string_pretty(&rows)? + "\n",
        };
        let clear = if watch && output == Output::Table && stdout().is_terminal() { CLEAR } else { "" };
        let reader = output::print(&format!("{clear}{text}"))?;
        if reader == Reader::Gone || !watch {
            return Ok(());
        }
        std::thread::sleep(PERIOD);
    }
}

fn read(file: &DrainFile, kernel: &mut IpvsClient) -> anyhow::Result<Vec<Row>> {
    let loaded = file.load().with_context(|| file.path().display().to_string())?;
    for problem in loaded.problems {
        output::complain(&format!("{}: an entry is left out: {problem}", file.path().display()));
    }
    let mut servers: BTreeMap<Front, BTreeMap<_, ConnectionCounters>> = BTreeMap::new();
    for Saved { key: Key { front, .. }, .. } in &loaded.drains {
        if !servers.contains_key(front) {
            let dump =
                kernel.dump_real_servers(front.port.into()).with_context(|| format!("read {front}"))?;
            servers.insert(*front, dump.into_iter().map(|rs| (rs.id, rs.connections)).collect());
        }
    }
    let now = clock::now();
    let counters = |key: &Key| servers.get(&key.front)?.get(&key.rs);
    let row = |saved: &Saved| Row::new(&saved.entry, counters(&saved.key), now);
    Ok(loaded.drains.iter().map(row).collect())
}

impl Row {
    fn new(entry: &Entry, counters: Option<&ConnectionCounters>, now: Time) -> Self {
        Row {
            virtual_server: entry.virtual_server().to_owned(),
            real_server: entry.real_server().to_owned(),
            pod: entry.pod().map(str::to_owned),
            reason: entry.cause().to_owned(),
            policy: entry.policy().to_owned(),
            active_connections: counters.map(|counters| counters.active),
            inactive_connections: counters.map(|counters| counters.inactive),
            since_seconds: now.saturating_sub(entry.since()).as_secs(),
            deadline_seconds: entry.deadline().map(|deadline| deadline.saturating_sub(now).as_secs()),
        }
    }

    fn cells(&self) -> [String; 9] {
        let count = |count: Option<u32>| count.map_or_else(|| "gone".to_owned(), |count| count.to_string());
        let deadline = match self.deadline_seconds {
            None => "never".to_owned(),
            Some(0) => "now".to_owned(),
            Some(seconds) => format!("in {}", short(seconds)),
        };
        [
            self.virtual_server.clone(),
            self.real_server.clone(),
            self.pod.clone().unwrap_or_else(|| "-".to_owned()),
            self.reason.clone(),
            self.policy.clone(),
            count(self.active_connections),
            count(self.inactive_connections),
            short(self.since_seconds),
            deadline,
        ]
    }
}

const HEADER: [&str; 9] =
    ["VIRTUAL SERVER", "REAL SERVER", "POD", "REASON", "POLICY", "ACTIVE", "INACTIVE", "SINCE", "DEADLINE"];

fn render_table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "nothing drains\n".to_owned();
    }
    let lines: Vec<_> = [HEADER.map(str::to_owned)].into_iter().chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..HEADER.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _infallible = write!(row, "{cell:width$}   ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// As kubectl shows ages: two units at most.
fn short(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, 0) => format!("{minutes}m"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, 0, _) => format!("{hours}h"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pod: Option<&str>, active: Option<u32>, since: u64, deadline: Option<u64>) -> Row {
        Row {
            virtual_server: "10.96.0.80:80/TCP".to_owned(),
            real_server: "10.244.0.11:8080".to_owned(),
            pod: pod.map(str::to_owned),
            reason: "terminating".to_owned(),
            policy: "active-only".to_owned(),
            active_connections: active,
            inactive_connections: active.map(|active| active * 10),
            since_seconds: since,
            deadline_seconds: deadline,
        }
    }

    #[test]
    fn tables_are_for_people() {
        assert_eq!(render_table(&[]), "nothing drains\n");
        let rows = [
            row(Some("shop/web-1"), Some(3), 12, Some(888)),
            row(None, None, 7260, None),
            row(Some("a/b"), Some(0), 900, Some(0)),
        ];
        let expect = "\
VIRTUAL SERVER      REAL SERVER        POD          REASON        POLICY        ACTIVE   INACTIVE   SINCE   DEADLINE
10.96.0.80:80/TCP   10.244.0.11:8080   shop/web-1   terminating   active-only   3        30         12s     in 14m48s
10.96.0.80:80/TCP   10.244.0.11:8080   -            terminating   active-only   gone     gone       2h1m    never
10.96.0.80:80/TCP   10.244.0.11:8080   a/b          terminating   active-only   0        0          15m     now
";
        assert_eq!(render_table(&rows), expect);
    }

    #[test]
    fn json_is_for_programs() {
        let json = serde_json::to_value([row(None, None, 1, None)]).unwrap();
        let expect = serde_json::json!([{
            "virtualServer": "10.96.0.80:80/TCP",
            "realServer": "10.244.0.11:8080",
            "pod": null,
            "reason": "terminating",
            "policy": "active-only",
            "activeConnections": null,
            "inactiveConnections": null,
            "sinceSeconds": 1,
            "deadlineSeconds": null,
        }]);
        assert_eq!(json, expect);
    }
}
