//! Alerts and dashboard: promtool checks and tests them, and every metric that they name must be in
//! docs/metrics.md, which a test keeps equal to the program.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{command, paths, tally::Tally, tools};

const ALERTS: &str = "alerts.yaml";
const ALERT_TESTS: &str = "alerts-test.yaml";
const DASHBOARD: &str = "dashboard.json";
const METRICS: &str = "docs/metrics.md";

/// Beginnings of names of metrics that we have, or that a reader may expect.
const PREFIXES: [&str; 5] = ["kube_ipvs_", "kubeproxy_", "kubernetes_", "process_", "rest_client_"];
/// Series that a histogram consists of.
const SERIES: [&str; 3] = ["_bucket", "_count", "_sum"];
/// Number of runs of promtool.
const RUNS: usize = 3;

/// Counts the names of metrics as one check, and each run of promtool; skips these where promtool is not to be had.
pub fn check(tally: &mut Tally) -> Result<()> {
    let unknown = unknown_metrics()?;
    for metric in &unknown {
        tally.fail("monitoring", &format!("{metric}, which {METRICS} does not have"));
    }
    if unknown.is_empty() {
        tally.pass();
    }
    match tally.have(tools::promtool(), "promtool", "promtool cannot be fetched", RUNS) {
        Some(promtool) => run_promtool(&promtool, tally),
        None => Ok(()),
    }
}

fn run_promtool(promtool: &Path, tally: &mut Tally) -> Result<()> {
    let queries = paths::target().join("dashboard-queries.json");
    fs::write(&queries, rules_of(&dashboard()?).to_string())?;
    let runs: [(&str, PathBuf); RUNS] =
        [("check", monitoring(ALERTS)), ("test", monitoring(ALERT_TESTS)), ("check", queries)];
    for (verb, file) in runs {
        match command::run(Command::new(promtool).args([verb, "rules"]).arg(&file)) {
            Ok(()) => tally.pass(),
            Err(error) => tally.fail("promtool", &format!("{error:#}")),
        }
    }
    Ok(())
}

fn monitoring(name: &str) -> PathBuf {
    paths::repository().join("manifests/monitoring").join(name)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn dashboard() -> Result<Value> {
    serde_json::from_str(&read(&monitoring(DASHBOARD))?).with_context(|| format!("reading {DASHBOARD}"))
}

/// Lists `FILE names METRIC` for each metric that the page does not have.
fn unknown_metrics() -> Result<Vec<String>> {
    let page = read(&paths::repository().join(METRICS))?;
    let known = exported(&page);
    let mut unknown = Vec::new();
    for name in [ALERTS, ALERT_TESTS, DASHBOARD] {
        let text = read(&monitoring(name))?;
        let named = metrics_in(&text).into_iter().filter(|metric| !known.contains(*metric));
        unknown.extend(named.map(|metric| format!("{name} names {metric}")));
    }
    Ok(unknown)
}

/// Series of the metrics in the tables of the page, whose columns are name and type.
fn exported(page: &str) -> BTreeSet<String> {
    let mut series = BTreeSet::new();
    for line in page.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(names), Some(kind)) = (cells.next(), cells.next()) else { continue };
        let endings: &[&str] = if kind == "histogram" { &SERIES } else { &[""] };
        for name in metrics_in(names) {
            series.extend(endings.iter().map(|ending| format!("{name}{ending}")));
        }
    }
    series
}

/// Finds the names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix))).collect()
}

/// Recording rules with the queries of a dashboard, which promtool can parse.
fn rules_of(dashboard: &Value) -> Value {
    let mut queries = Vec::new();
    collect_queries(dashboard, &mut queries);
    let rules = queries.iter().enumerate().map(|(number, query)| {
        // Variables stand where a duration or a matched text does.
        let query = query.replace("$__rate_interval", "5m").replace("$__range", "1h");
        json!({ "record": format!("dashboard:query{number}"), "expr": query })
    });
    json!({ "groups": [{ "name": "dashboard", "rules": rules.collect::<Vec<_>>() }] })
}

/// Collects each text of a field `expr`, however deep it is.
fn collect_queries<'a>(value: &'a Value, queries: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            queries.extend(fields.get("expr").and_then(Value::as_str));
            for field in fields.values() {
                collect_queries(field, queries);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_queries(item, queries)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_words_and_histograms_have_three_series() {
        let known = exported(
            "| `kube_ipvs_drift_total` | counter | `table` | `kube_ipvs_other` |\n\
             | `kube_ipvs_drain_seconds` | histogram | | |\n",
        );
        for (text, expect) in [
            ("increase(kube_ipvs_drift_total[5m]) > 1", true),
            ("kube_ipvs_drain_seconds_bucket{le=\"5\"}", true),
            ("kube_ipvs_drift_total_bucket", false),
            ("kube_ipvs_drift", false),
            ("kube_ipvs_other", false),
            ("kube_ipvs_drain_seconds", false),
            ("kube_ipvs_drain_seconds_total", false),
            ("rate(rest_client_request_total[5m])", false),
        ] {
            let all_known = metrics_in(text).iter().all(|metric| known.contains(*metric));
            assert_eq!(all_known, expect, "{text}");
        }
    }

    #[test]
    fn the_queries_of_a_dashboard_become_rules() {
        let dashboard = json!({ "panels": [{ "targets": [{ "expr": "rate(a[$__rate_interval])" }] }, { "panels":
            [{ "targets": [{ "expr": "b" }] }] }] });
        let rules = rules_of(&dashboard);
        assert_eq!(rules["groups"][0]["rules"][0]["expr"], "rate(a[5m])");
        assert_eq!(rules["groups"][0]["rules"][1]["record"], "dashboard:query1");
    }
}
