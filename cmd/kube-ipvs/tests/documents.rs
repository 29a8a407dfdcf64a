//! Pages in `docs/` against the program.

use std::collections::BTreeSet;

use telemetry::{Family, Metrics};

const PAGE: &str = include_str!("../../../docs/metrics.md");

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
