//! Results as a table for the terminal, as JSON and as a picture.

mod plot;
mod table;
mod targets;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    noise::{Noise, Probe},
    objects::Size,
    programming::Programming,
    running::Running,
};

pub use targets::Verdict;

/// Everything about one run.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// Machine and time of the run.
    pub run: Run,
    /// Results by size, the smallest first.
    pub sizes: Vec<SizeResults>,
    /// Targets, and whether they are met.
    pub targets: Vec<Verdict>,
    /// kube-proxy 1.36 in ipvs mode, measured elsewhere.
    pub kube_proxy: KubeProxy,
}

/// Machine and time of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Day, UTC.
    pub date: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the processor according to the kernel.
    pub cpu: String,
    /// Number of processors.
    pub cpus: usize,
    /// True if that processor is emulated in software: then times are 10 to 20 times those of hardware.
    pub emulated: bool,
    /// Output of `kube-ipvs version`.
    pub version: String,
    /// Commit, if the caller gave one.
    pub commit: Option<String>,
    /// True for fewer sizes and samples.
    pub quick: bool,
    /// Length of the whole run.
    pub seconds: f64,
    /// Steadiness of the machine.
    pub noise: Noise,
}

/// Results for one size.
#[derive(Debug, Clone, Serialize)]
pub struct SizeResults {
    /// Size of the cluster.
    #[serde(flatten)]
    pub size: Size,
    /// Filling an empty kernel.
    pub programming: Programming,
    /// The process with everything programmed, fed by an API server.
    pub running: Running,
}

/// kube-proxy 1.36 in ipvs mode in such a guest (6.12), 1,000 Services with 10 endpoints each.
#[derive(Debug, Clone, Serialize)]
pub struct KubeProxy {
    /// Origin of the figures.
    pub note: &'static str,
    /// Time until everything was programmed.
    pub programmed_ms: f64,
    /// Shortest and longest time from one endpoint change to the kernel.
    pub change_ms: [f64; 2],
    /// Time of a full sync.
    pub full_sync_ms: f64,
    /// Share of a core when idle, in percent.
    pub idle_percent: f64,
    /// Resident memory.
    pub resident_mb: f64,
}

impl KubeProxy {
    const MEASURED: KubeProxy = KubeProxy {
        note: "kube-proxy 1.36 --proxy-mode=ipvs, 1,000 x 10, measured elsewhere in such a guest (6.12), not in this run",
        programmed_ms: 9_900.0,
        change_ms: [1_600.0, 11_000.0],
        full_sync_ms: 10_000.0,
        idle_percent: 10.0,
        resident_mb: 86.0,
    };
}

impl Run {
    /// Asks the machine about itself.
    pub fn here(version: String, quick: bool) -> Result<Run> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
        let cpuinfo = read("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cpu = model.map_or("unknown", |(_, name)| name.trim()).to_owned();
        Ok(Run {
            date: today(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            emulated: cpu.contains("QEMU TCG"),
            cpu,
            cpus: std::thread::available_parallelism()?.get(),
            version,
            commit: std::env::var("KUBE_IPVS_COMMIT").ok(),
            quick,
            seconds: 0.0,
            noise: Noise::default(),
        })
    }

    /// Beginning of the names of its files.
    pub fn stem(&self) -> String {
        let kind = if self.quick { "-quick" } else { "" };
        format!("{}-linux-{}{kind}", self.date, series(&self.kernel))
    }

    /// Machine and time in one line.
    pub fn line(&self) -> String {
        let commit = self.commit.as_ref().map_or_else(String::new, |commit| format!(" ({commit})"));
        let Run { date, kernel, cpu, cpus, version, .. } = self;
        format!("{date}, Linux {kernel}, {cpus} x {cpu}, {version}{commit}")
    }

    /// Advice about the meaning of the times.
    pub fn caution(&self) -> &'static str {
        if self.emulated {
            "The processor is emulated in software: times are 10 to 20 times those of hardware; compare ratios only."
        } else {
            "Times of this machine; compare ratios."
        }
    }
}

/// Series of a kernel, by its release: 6.12 for 6.12.94-amd64.
pub fn series(release: &str) -> String {
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

impl Run {
    /// Notes the end of a run.
    pub fn end(&mut self, start: Instant, probe: Probe) {
        self.seconds = start.elapsed().as_secs_f64();
        self.noise = probe.noise();
    }

    /// Use of the machine by others, in words.
    pub fn disturbance(&self) -> String {
        let (median, worst) = self.noise.ratios();
        format!(
            "The same work took {median:.1} times (median) to {worst:.1} times (worst) its shortest time."
        )
    }
}

impl Results {
    /// Judges the measurements.
    pub fn new(run: Run, sizes: Vec<SizeResults>) -> Results {
        Results { run, targets: targets::judge(&sizes), sizes, kube_proxy: KubeProxy::MEASURED }
    }

    /// Renders the table for the terminal.
    pub fn table(&self) -> String {
        table::render(self)
    }

    /// Writes JSON and picture; returns their paths.
    pub fn store(&self, directory: &Path) -> Result<[PathBuf; 2]> {
        fs::create_dir_all(directory)?;
        let stem = self.run.stem();
        let files = [directory.join(format!("{stem}.json")), directory.join(format!("{stem}.svg"))];
        let json = serde_json::to_string_pretty(self)? + "\n";
        for (path, text) in files.iter().zip([json, plot::render(self)]) {
            fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        Ok(files)
    }
}

/// Today's day, UTC, as `2026-11-21`; the civil calendar from days since 1970 (the usual era arithmetic).
fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    date_of(i64::try_from(now.as_secs() / 86_400).unwrap_or(0))
}

fn date_of(days: i64) -> String {
    // Years begin in March here, so that a leap day is the last of its year.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::date_of;

    #[test]
    fn dates() {
        for (days, date) in
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_778, "2026-11-21")]
        {
            assert_eq!(date_of(days), date);
        }
    }
}
