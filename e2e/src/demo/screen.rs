//! Text for a terminal of 100 columns.

use std::time::Instant;

/// Output of the demo; every step shows the time since the start.
pub struct Screen {
    start: Instant,
}

impl Screen {
    /// Starts the clock.
    pub fn new() -> Screen {
        Screen { start: Instant::now() }
    }

    /// Prints the title of the demo and the facts about it.
    pub fn title(&self, facts: &[&str]) {
        println!("\nkube-ipvs demo: the same rolling update under load, by two rules");
        println!("{}\n", facts.join(", "));
    }

    /// Prints the heading of a part.
    pub fn chapter(&self, name: &str, flags: &[&str]) {
        println!("{}{name}", if self.start.elapsed().as_secs() == 0 { "" } else { "\n" });
        for flag in flags {
            println!("          {flag}");
        }
    }

    /// Prints a step that is done.
    pub fn step(&self, text: &str) {
        println!("{:6.1} s  {text}", self.start.elapsed().as_secs_f64());
    }

    /// Prints the output of a tool under a title.
    pub fn block(&self, title: &str, text: &str) {
        println!("\n{title}\n{}", "-".repeat(title.chars().count()));
        // ipvsadm pads its lines.
        for line in text.trim_end().lines() {
            println!("{}", line.trim_end());
        }
        println!();
    }

    /// Prints a table: a head and rows of as many columns.
    pub fn table(&self, title: &str, rows: &[[String; 3]]) {
        let width =
            |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let (first, second) = (width(0), width(1));
        let lines: Vec<_> = rows.iter().map(|[a, b, c]| format!("  {a:first$}  {b:second$}  {c}")).collect();
        self.block(title, &lines.join("\n"));
    }
}
