//! Guest kernels: their series, and their cache outside the tree.
//!
//! A series names a kernel, never an exact version: point releases vanish from the archive. Once fetched, a
//! kernel stays until `guest kernels --update`.

mod fetch;
mod modules;
mod stanza;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::paths;

/// Layout of a cached kernel; raising it makes every cache fetch again.
const CACHE_FORMAT: u32 = 1;

/// A kernel series, and its place in Debian's archives.
#[derive(Debug, PartialEq, Eq)]
pub struct Series {
    /// Name that `--kernel` takes.
    pub name: &'static str,
    /// Start of the versions of the series.
    pub prefix: &'static str,
    /// Suites that may have it, best first.
    pub suites: &'static [&'static str],
    /// True if `xtask test` runs it without being asked, and fails without it.
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

/// Series that demo, bench and `guest run` use by default.
pub const DEFAULT_SERIES: &str = "6.12";

/// A kernel that is ready to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Series for which it was fetched.
    pub series: String,
    /// Release as `uname -r` prints it in the guest.
    pub release: String,
    /// Debian version of its package.
    pub version: String,
    format: u32,
    #[serde(skip)]
    dir: PathBuf,
}

impl Kernel {
    /// Path of the kernel image.
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// Folder of the guest's modules, which is `/lib/modules/RELEASE` there.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }

    /// Tells whether the guest can load a module of this name.
    pub fn has(&self, module: &str) -> Result<bool> {
        let path = self.modules().join("modules.dep");
        let dependencies = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let file = format!("/{module}.ko:");
        Ok(dependencies.lines().any(|line| line.contains(&file)))
    }

    fn load(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join("kernel.json")).ok()?;
        let kernel: Self = serde_json::from_str(&text).ok()?;
        (kernel.format == CACHE_FORMAT).then(|| Self { dir: dir.to_owned(), ..kernel })
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

/// Reads the cached kernel of a series, if there is one.
pub fn cached(series: &Series) -> Result<Option<Kernel>> {
    Ok(Kernel::load(&folder(series)?))
}

/// Returns the kernel of a series; fetches it at the first use.
pub fn ensure(series: &'static Series) -> Result<Kernel> {
    if let Some(kernel) = cached(series)? {
        return Ok(kernel);
    }
    update(series)
}

/// Fetches the latest kernel of a series, which replaces the cached one.
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
        format: CACHE_FORMAT,
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

/// Lock for changes of the cache, so that two runs do not disturb each other's apt.
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
