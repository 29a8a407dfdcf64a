//! Guest kernels: which series there are, and their cache outside the tree.
//!
//! A kernel is named by its series, never by an exact version: point releases vanish from the archive.
//! Once fetched, a kernel stays until `guest kernels --update`.

mod fetch;
mod modules;
mod stanza;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::paths;

/// Layout of a cached kernel; raising it makes every cache fetch again.
const FORMAT: u32 = 1;

/// A kernel series and where Debian keeps it.
#[derive(Debug, PartialEq, Eq)]
pub struct Series {
    /// What `--kernel` takes.
    pub name: &'static str,
    /// Versions of the series start with this.
    pub prefix: &'static str,
    /// Suites to look in, best first.
    pub suites: &'static [&'static str],
    /// Whether `xtask test` runs it without being asked, and fails without it.
    pub required: bool,
}

/// All series, oldest first.
pub const SERIES: &[Series] = &[
    Series { name: "5.10", prefix: "5.10.", suites: &["bullseye-security", "bullseye"], required: false },
    Series { name: "6.1", prefix: "6.1.", suites: &["bookworm-security", "bookworm"], required: true },
    Series {
        name: "6.12",
        prefix: "6.12.",
        suites: &["trixie-security", "trixie", "bookworm-backports", "bookworm-security"],
        required: true,
    },
    Series { name: "newest", prefix: "", suites: &["sid", "forky"], required: false },
];

/// The series that demo, bench and `guest run` use unless told otherwise.
pub const DEFAULT: &str = "6.12";

/// A kernel that is ready to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// The series it was fetched for.
    pub series: String,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The Debian version of its package.
    pub version: String,
    format: u32,
    #[serde(skip)]
    dir: PathBuf,
}

impl Kernel {
    /// The kernel image.
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The folder with the guest's modules: what the guest sees as `/lib/modules/RELEASE`.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }

    /// Whether the guest can load a module of this name.
    pub fn has(&self, module: &str) -> Result<bool> {
        let path = self.modules().join("modules.dep");
        let dependencies = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let file = format!("/{module}.ko:");
        Ok(dependencies.lines().any(|line| line.contains(&file)))
    }

    fn load(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join("kernel.json")).ok()?;
        let kernel: Self = serde_json::from_str(&text).ok()?;
        (kernel.format == FORMAT).then(|| Self { dir: dir.to_owned(), ..kernel })
    }

    fn store(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(dir.join("kernel.json"), text).context("writing kernel.json")
    }
}

/// Finds a series by its name.
pub fn series(name: &str) -> Result<&'static Series> {
    let found = SERIES.iter().find(|series| series.name == name);
    found.with_context(|| {
        let names: Vec<_> = SERIES.iter().map(|series| series.name).collect();
        format!("no kernel series {name:?}: choose one of {}", names.join(", "))
    })
}

/// The cached kernel of a series, if there is one.
pub fn cached(series: &Series) -> Result<Option<Kernel>> {
    Ok(Kernel::load(&folder(series)?))
}

/// The kernel of a series, fetched on first use.
pub fn ensure(series: &'static Series) -> Result<Kernel> {
    if let Some(kernel) = cached(series)? {
        return Ok(kernel);
    }
    update(series)
}

/// Fetches the latest kernel of a series, replacing the cached one.
pub fn update(series: &'static Series) -> Result<Kernel> {
    let _lock = lock()?;
    let dir = folder(series)?;
    let scratch = dir.with_extension(format!("new-{}", std::process::id()));
    paths::create(&scratch)?;
    let fetched = fetch::fetch(series, &scratch);
    let installed = fetched.and_then(|fetched| install(series, fetched, &scratch, &dir));
    if installed.is_err() {
        let _ = fs::remove_dir_all(&scratch);
    }
    installed.with_context(|| format!("fetching a kernel of series {}", series.name))
}

fn install(series: &Series, fetched: fetch::Fetched, scratch: &Path, dir: &Path) -> Result<Kernel> {
    let kernel = Kernel {
        series: series.name.to_owned(),
        release: fetched.release,
        version: fetched.version,
        format: FORMAT,
        dir: dir.to_owned(),
    };
    kernel.store(scratch)?;
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    fs::rename(scratch, dir).with_context(|| format!("renaming to {}", dir.display()))?;
    Ok(kernel)
}

fn folder(series: &Series) -> Result<PathBuf> {
    let parent = paths::cache()?.join("kernels");
    paths::create(&parent)?;
    Ok(parent.join(series.name))
}

/// Held while the cache changes, so that two runs do not disturb each other's apt.
fn lock() -> Result<File> {
    let file = File::create(paths::cache()?.join("lock")).context("creating the cache's lock")?;
    file.lock().context("waiting for the cache's lock")?;
    Ok(file)
}

/// Selects series by name; with no names, the required ones or all.
pub fn select(names: &[String], all: bool) -> Result<Vec<&'static Series>> {
    if all && !names.is_empty() {
        bail!("--kernel and --all-kernels exclude each other");
    }
    if names.is_empty() {
        return Ok(SERIES.iter().filter(|series| all || series.required).collect());
    }
    names.iter().map(|name| series(name)).collect()
}
