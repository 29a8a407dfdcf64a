//! Text for a terminal of 100 columns.

use std::time::Instant;

/// Where the demo talks; every step shows the time since the start.
pub struct Screen {
    start: Instant,
}

impl Screen {
    /// Begin.
    pub fn new() -> Screen {
        Screen { start: Instant::now() }
    }

    /// What this is, and what it runs on.
    pub fn title(&self, facts: &[&str]) {
        println!("\nkube-ipvs demo: a rolling update of all pods under load");
        println!("{}\n", facts.join(", "));
    }

    /// Something has been done.
    pub fn step(&self, text: &str) {
        println!("{:6.1} s  {text}", self.start.elapsed().as_secs_f64());
    }

    /// Output of a tool under a title.
    pub fn block(&self, title: &str, text: &str) {
        println!("\n{title}\n{}", "-".repeat(title.chars().count()));
        // ipvsadm pads its lines.
        text.trim_end().lines().for_each(|line| println!("{}", line.trim_end()));
        println!();
    }

    /// Names and values.
    pub fn table(&self, title: &str, rows: &[(String, String)]) {
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        let lines: Vec<_> = rows.iter().map(|(name, value)| format!("  {name:width$}  {value}")).collect();
        self.block(title, &lines.join("\n"));
    }
}
