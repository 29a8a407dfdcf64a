//! Pages in `docs/` against the program.

use std::collections::BTreeSet;

use kube_source::Reason;
use telemetry::{Family, Metrics};

const PAGE: &str = include_str!("../../../docs/metrics.md");
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// A metric as one line, so that a difference can be read.
fn describe(name: &str, kind: &str, labels: &[String]) -> String {
    format!("{name} ({kind}) {{{}}}", labels.join(", "))
}

/// Words of a cell in backquotes.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Metrics in the tables of the page; the columns are found by their headings, and labels may be left out.
fn documented() -> BTreeSet<String> {
    let mut heading: Vec<&str> = Vec::new();
    let mut found = BTreeSet::new();
    for line in PAGE.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let column =
            |title: &str| heading.iter().position(|cell| *cell == title).and_then(|at| cells.get(at));
        if cells[0] == "metric" {
            heading = cells;
        } else if let Some(kind) = column("type").filter(|_| cells[0].starts_with('`')) {
            let labels = column("labels").map(|cell| quoted(cell)).unwrap_or_default();
            found.extend(quoted(cells[0]).iter().map(|name| describe(name, kind, &labels)));
        }
    }
    found
}

#[test]
fn the_page_of_metrics_has_every_metric_and_no_other() {
    let metrics = Metrics::new([]).expect("metrics");
    let exported = metrics.families().into_iter();
    let exported: BTreeSet<_> =
        exported.map(|Family { name, kind, labels }| describe(&name, kind, &labels)).collect();
    let documented = documented();
    let lacks: Vec<_> = exported.difference(&documented).collect();
    let invents: Vec<_> = documented.difference(&exported).collect();
    assert!(
        lacks.is_empty() && invents.is_empty(),
        "docs/metrics.md lacks {lacks:#?} and invents {invents:#?}"
    );
}

#[test]
fn the_table_of_events_has_every_reason_and_no_other() {
    let table = OPERATING.split("\n## Events\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows = table.expect("a section on events").lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            [cells[0].trim_matches('`'), cells[2], cells[3].trim_matches('`')].map(str::to_owned)
        })
        .collect();
    let known: BTreeSet<_> = Reason::ALL
        .into_iter()
        .map(|reason| [reason.as_str(), reason.kind(), reason.action()].map(str::to_owned))
        .collect();
    assert_eq!(documented, known);
}
