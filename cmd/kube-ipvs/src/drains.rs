//! `kube-ipvs drains`: what the running process has recorded, with the kernel's counters of this moment.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{IsTerminal as _, stdout},
    time::Duration,
};

use anyhow::Context;
use dataplane::IpvsTable as _;
use drain::{Cause, Key, Policy, Time, WaitsFor};
use drain_file::{DrainFile, Saved};
use ipvs::IpvsClient;
use lb_types::{ConnectionCounters, Front, VirtualServerId};
use serde::Serialize;

use crate::{
    clock,
    config::Settings,
    flags::Output,
    output::{self, Reader},
    state_dir,
};

/// Between two lists with `--watch`.
const PERIOD: Duration = Duration::from_secs(1);

/// Clears a terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// One draining real server, as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    key: Key,
    /// `NAMESPACE/NAME:PORT`; null if it is not known.
    service: Option<String>,
    /// `NAMESPACE/NAME`; null if it is not known.
    pod: Option<String>,
    reason: Cause,
    policy: Policy,
    /// Null if the kernel does not have the real server any more.
    active_connections: Option<u32>,
    inactive_connections: Option<u32>,
    since_seconds: u64,
    /// Time until it is removed in any case; null if it may take for ever.
    deadline_seconds: Option<u64>,
    /// In words; null if neither the file nor the kernel tells.
    waits_for: Option<String>,
}

/// Prints the list, once or for ever.
pub fn drains(settings: &Settings, output: Output, watch: bool) -> anyhow::Result<()> {
    let file = DrainFile::new(&settings.state_dir, kernel::boot_id().context("find out the boot's id")?);
    let mut kernel = IpvsClient::open().context("open the IPVS tables")?;
    if !state_dir::is_locked(&settings.state_dir) {
        output::complain(&format!(
            "no running kube-ipvs is seen with --state-dir {}: what follows is what the last one has left there, and nothing ends \
             it; name the directory of the process that runs (--state-dir, or --config with its file)",
            settings.state_dir.display()
        ));
    }
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
    for Saved { key: Key { front, .. }, mark, .. } in &loaded.drains {
        if !servers.contains_key(front) {
            let by_mark = mark.map(|mark| VirtualServerId::FwMark { family: front.family(), mark });
            let vs = by_mark.unwrap_or_else(|| front.port.into());
            let dump = kernel.dump_real_servers(vs).with_context(|| format!("read {front}"))?;
            servers.insert(*front, dump.into_iter().map(|rs| (rs.id, rs.connections)).collect());
        }
    }
    let now = clock::now();
    let counters = |key: &Key| servers.get(&key.front)?.get(&key.rs);
    let row = |saved: &Saved| Row::new(saved, counters(&saved.key), now);
    Ok(loaded.drains.iter().map(row).collect())
}

impl Row {
    fn new(saved: &Saved, counters: Option<&ConnectionCounters>, now: Time) -> Self {
        Row {
            key: saved.key,
            service: saved.service_port.clone(),
            pod: saved.pod().map(str::to_owned),
            reason: saved.record.cause,
            policy: saved.policy,
            active_connections: counters.map(|counters| counters.active),
            inactive_connections: counters.map(|counters| counters.inactive),
            since_seconds: now.saturating_sub(saved.record.since).as_secs(),
            deadline_seconds: saved.deadline.map(|deadline| deadline.saturating_sub(now).as_secs()),
            waits_for: waits_for(saved, counters, now).map(|waits_for| waits_for.render(now)),
        }
    }

    fn cells(&self) -> [String; 11] {
        let count = |count: Option<u32>| count.map_or_else(|| "gone".to_owned(), |count| count.to_string());
        let deadline = match self.deadline_seconds {
            None => "never".to_owned(),
            Some(0) => "now".to_owned(),
            Some(seconds) => format!("in {}", short(seconds)),
        };
        [
            self.key.front.to_string(),
            self.service.clone().unwrap_or_else(|| "-".to_owned()),
            self.key.rs.to_string(),
            self.pod.clone().unwrap_or_else(|| "-".to_owned()),
            self.reason.to_string(),
            self.policy.to_string(),
            count(self.active_connections),
            count(self.inactive_connections),
            short(self.since_seconds),
            deadline,
            self.waits_for.clone().unwrap_or_else(|| "-".to_owned()),
        ]
        .map(|cell| cell.replace(char::is_control, "\u{fffd}"))
    }
}

/// Chooses what was recorded, unless the kernel's counters of this moment say otherwise.
fn waits_for(saved: &Saved, counters: Option<&ConnectionCounters>, now: Time) -> Option<WaitsFor> {
    let open = counters.map(|counters| saved.policy.awaited(counters));
    match saved.waits_for.clone() {
        Some(recorded) => Some(recorded.by(open, now)),
        // A process of before does not record it.
        None => open.filter(|open| *open > 0).map(WaitsFor::Connections),
    }
}

const HEADER: [&str; 11] = [
    "VIRTUAL SERVER",
    "SERVICE",
    "REAL SERVER",
    "POD",
    "REASON",
    "POLICY",
    "ACTIVE",
    "INACTIVE",
    "SINCE",
    "DEADLINE",
    "WAITS FOR",
];

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

    /// A row from an entry as the file has it, 1,000 s after the node was booted.
    fn row(fields: &str, active: Option<u32>) -> Row {
        let text = format!(
            r#"{{"version":1,"bootId":"boot","drains":[{{"virtualServer":"10.96.0.80:80/TCP",
            "realServer":"10.244.0.11:8080","cause":"terminating","policy":"active-only",{fields}}}]}}"#
        );
        let file = DrainFile::new("/nonexistent".as_ref(), "boot".to_owned());
        let loaded = file.parse(text.as_bytes()).unwrap();
        assert_eq!(loaded.problems, [""; 0]);
        let counters =
            active.map(|active| ConnectionCounters { active, inactive: active * 10, persistent: 0 });
        Row::new(&loaded.drains[0], counters.as_ref(), Time::from_secs(1000))
    }

    #[test]
    fn tables_are_for_people() {
        assert_eq!(render_table(&[]), "nothing drains\n");
        let rows = [
            row(
                r#""servicePort":"shop/web:http","pod":"shop/web-1/uid","sinceMillis":988000,"deadlineMillis":1888000,"waitsFor":{"connections":5}"#,
                Some(3),
            ),
            row(r#""sinceMillis":0,"waitsFor":{"connections":5}"#, None),
            row(
                r#""pod":"a/b/uid","sinceMillis":100000,"deadlineMillis":999000,
                "waitsFor":{"retry":{"atMillis":1003500,"refused":"EPERM: no"}}"#,
                Some(0),
            ),
            row(r#""sinceMillis":990000,"waitsFor":{"quietUntilMillis":1003000}"#, Some(0)),
        ];
        let expect = "\
VIRTUAL SERVER      SERVICE         REAL SERVER        POD          REASON        POLICY        ACTIVE   INACTIVE   SINCE    DEADLINE    WAITS FOR
10.96.0.80:80/TCP   shop/web:http   10.244.0.11:8080   shop/web-1   terminating   active-only   3        30         12s      in 14m48s   3 connections
10.96.0.80:80/TCP   -               10.244.0.11:8080   -            terminating   active-only   gone     gone       16m40s   never       the next reading
10.96.0.80:80/TCP   -               10.244.0.11:8080   a/b          terminating   active-only   0        0          15m      now         retry in 4s: EPERM: no
10.96.0.80:80/TCP   -               10.244.0.11:8080   -            terminating   active-only   0        0          10s      never       quiet for 3s more
";
        assert_eq!(render_table(&rows), expect);
    }

    #[test]
    fn a_process_of_before_does_not_say_what_a_drain_waits_for() {
        let waits_for = |active| row(r#""sinceMillis":0"#, active).waits_for;
        assert_eq!([waits_for(Some(1)), waits_for(Some(0))], [Some("1 connection".to_owned()), None]);
    }

    #[test]
    fn ages_have_two_units_at_most() {
        let ages = [0, 59, 60, 90, 3600, 7260].map(short);
        assert_eq!(ages, ["0s", "59s", "1m", "1m30s", "1h", "2h1m"]);
    }

    #[test]
    fn json_is_for_programs() {
        let json =
            serde_json::to_value([row(r#""sinceMillis":999000,"waitsFor":{"connections":5}"#, Some(2))])
                .unwrap();
        let expect = serde_json::json!([{
            "virtualServer": "10.96.0.80:80/TCP",
            "realServer": "10.244.0.11:8080",
            "service": null,
            "pod": null,
            "reason": "terminating",
            "policy": "active-only",
            "activeConnections": 2,
            "inactiveConnections": 20,
            "sinceSeconds": 1,
            "deadlineSeconds": null,
            "waitsFor": "2 connections",
        }]);
        assert_eq!(json, expect);
    }
}
