//! Results of a run as a table and as JSON, and their comparison with those of an earlier one.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Row, ways::Way};
use crate::report::series;

/// Share by which a figure of kube-ipvs may be higher than in the run that it is compared with.
const TOLERANCE: f64 = 0.05;

/// Everything about one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Day, UTC.
    pub date: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Output of `kube-ipvs version`.
    pub version: String,
    /// Size of the program.
    pub program_bytes: u64,
    /// Reason why these results replace earlier ones, where somebody gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// All figures.
    pub rows: Vec<Row>,
}

impl Results {
    /// Reads the results of a run.
    pub fn load(path: &Path) -> Result<Results> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Writes JSON.
    pub fn store(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| path.display().to_string())
    }

    /// Name of the file of a kernel, by its series.
    pub fn file_name(&self) -> PathBuf {
        format!("exact-linux-{}.json", series(&self.kernel)).into()
    }

    /// Renders a table in Markdown: one line for each work and unit, with what each way costs.
    pub fn table(&self) -> String {
        let Results { date, kernel, version, program_bytes, .. } = self;
        let mut text = format!(
            "{date}, Linux {kernel}, {version}, {program_bytes} bytes\n\n| instructions | for each |"
        );
        let ways = self.ways();
        for way in &ways {
            let _ = write!(text, " {way} |");
        }
        text += &format!("\n| --- | --- |{}\n", " --- |".repeat(ways.len()));
        let mut lines: Vec<(&str, &str)> = Vec::new();
        for row in &self.rows {
            let line = (row.work.as_str(), row.unit.as_str());
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        for (work, unit) in lines {
            let _ = write!(text, "| {work} | {unit} |");
            let of = |way: &str| self.find(work, unit, way);
            let bare = of(Way::Bare.as_str());
            for way in &ways {
                text += &match (of(way), bare) {
                    (None, _) => " |".to_owned(),
                    (Some(count), Some(bare)) if *way != Way::Bare.as_str() => {
                        format!(" {count:.0} ({:.3}) |", count / bare)
                    }
                    (Some(count), _) => format!(" {count:.0} |"),
                };
            }
            text.push('\n');
        }
        text
    }

    fn ways(&self) -> Vec<&str> {
        let mut ways = Vec::new();
        for row in &self.rows {
            if !ways.contains(&row.way.as_str()) {
                ways.push(&row.way);
            }
        }
        ways
    }

    fn find(&self, work: &str, unit: &str, way: &str) -> Option<f64> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.work == work && row.unit == unit && row.way == way).map(|row| row.instructions)
    }

    /// Compares with an earlier run.
    pub fn compare(&self, before: &Results) -> Comparison {
        let key = |row: &Row| (row.work.clone(), row.unit.clone(), row.way.clone());
        let known: BTreeMap<_, _> = before.rows.iter().map(|row| (key(row), row.instructions)).collect();
        let change = |row: &Row| {
            let before = *known.get(&key(row))?;
            Some(Change { row: row.clone(), before })
        };
        Comparison { changes: self.rows.iter().filter_map(change).collect() }
    }
}

/// Figures of two runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq)]
struct Change {
    row: Row,
    before: f64,
}

impl Change {
    fn share(&self) -> f64 {
        self.row.instructions / self.before - 1.0
    }

    fn is_worse(&self) -> bool {
        self.row.way == Way::KubeIpvs.as_str() && self.share() > TOLERANCE
    }
}

impl Comparison {
    /// Number of figures that both runs have.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Tells whether the runs have no figure in common.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Largest difference of any figure, as a share.
    pub fn largest(&self) -> f64 {
        self.changes.iter().map(|change| change.share().abs()).fold(0.0, f64::max)
    }

    /// Figures of kube-ipvs that are higher than they may be.
    pub fn worse(&self) -> impl Iterator<Item = String> {
        self.changes.iter().filter(|change| change.is_worse()).map(Change::to_string)
    }

    /// Renders both runs side by side.
    pub fn table(&self) -> String {
        let mut text =
            "| instructions | for each | | before | now | change |\n| --- | --- | --- | --- | --- | --- |\n"
                .to_owned();
        for change in &self.changes {
            let Row { work, unit, way, instructions } = &change.row;
            let _ = writeln!(
                text,
                "| {work} | {unit} | {way} | {:.0} | {instructions:.0} | {:+.1} % |",
                change.before,
                change.share() * 100.0
            );
        }
        text
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Row { work, unit, instructions, .. } = &self.row;
        let share = self.share() * 100.0;
        write!(
            f,
            "{work}: {instructions:.0} instructions for each {unit}, {:.0} before ({share:+.1} %)",
            self.before
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(figures: &[(&str, f64)]) -> Results {
        let row = |(way, instructions): &(&str, f64)| Row {
            work: "pod to ClusterIP".into(),
            unit: "connection".into(),
            way: (*way).into(),
            instructions: *instructions,
        };
        Results {
            date: "2026-11-30".into(),
            kernel: "6.12.1".into(),
            version: "kube-ipvs 0.1.0".into(),
            program_bytes: 1,
            reason: None,
            rows: figures.iter().map(row).collect(),
        }
    }

    #[test]
    fn a_line_has_every_way_and_its_share_of_the_bare_one() {
        let table = results(&[("bare", 100.0), ("kube-ipvs", 102.0), ("kube-proxy", 110.0)]).table();
        assert!(
            table.ends_with("| pod to ClusterIP | connection | 100 | 102 (1.020) | 110 (1.100) |\n"),
            "{table}"
        );
    }

    #[test]
    fn only_kube_ipvs_can_be_worse() {
        let before = results(&[("bare", 100.0), ("kube-ipvs", 100.0)]);
        let worse = |figures: &[(&str, f64)]| results(figures).compare(&before).worse().collect::<Vec<_>>();
        assert_eq!(worse(&[("bare", 120.0), ("kube-ipvs", 104.0)]), Vec::<String>::new());
        assert_eq!(worse(&[("kube-ipvs", 50.0)]), Vec::<String>::new());
        assert_eq!(
            worse(&[("kube-ipvs", 106.0)]),
            ["pod to ClusterIP: 106 instructions for each connection, 100 before (+6.0 %)"]
        );
        let unknown = results(&[("kube-proxy", 7.0)]).compare(&before);
        assert!(unknown.is_empty());
    }
}
