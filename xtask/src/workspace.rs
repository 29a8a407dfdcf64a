//! The workspace according to `cargo metadata`.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{command, paths};

/// The packages of the workspace.
#[derive(Debug, Deserialize)]
pub struct Workspace {
    /// Packages in cargo's order.
    pub packages: Vec<Package>,
}

/// A package of the workspace.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Identifier in cargo's messages.
    pub id: String,
    /// Its `Cargo.toml`.
    pub manifest_path: PathBuf,
    /// Libraries, programs and tests.
    pub targets: Vec<Target>,
    /// All dependencies, on other packages of the workspace and on crates.
    pub dependencies: Vec<Dependency>,
    /// Features, and those that they turn on.
    pub features: BTreeMap<String, Vec<String>>,
}

/// Something that cargo builds out of a package.
#[derive(Debug, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// `lib`, `bin`, `test`, ...
    pub kind: Vec<String>,
    /// Features without which cargo ignores it.
    #[serde(default, rename = "required-features")]
    pub required_features: Vec<String>,
}

/// One entry below `[dependencies]` and the like.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// Name of the package.
    pub name: String,
    /// Kind: `dev` or `build`; `None` for an ordinary one.
    pub kind: Option<String>,
    /// Path, for packages of the workspace.
    pub path: Option<PathBuf>,
}

impl Workspace {
    /// Asks cargo for the workspace.
    pub fn load() -> Result<Self> {
        let mut cargo = cargo();
        let json = command::capture(cargo.args(["metadata", "--no-deps", "--format-version", "1"]))?;
        serde_json::from_str(&json).context("reading cargo's metadata")
    }

    /// Finds a package by name.
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }
}

impl Package {
    /// The targets of a kind.
    pub fn targets_of(&self, kind: &str) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(move |target| target.kind.iter().any(|of| of == kind))
    }
}

/// Makes a command for cargo, in the repository.
///
/// It leaves out the variables that `cargo run` has set for us: build scripts (ring's) run again whenever
/// they differ, so that a build by hand after one of ours, or the reverse, would compile much of the tree
/// anew.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::repository());
    for (name, _) in std::env::vars_os() {
        if is_about_us(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
}

fn is_about_us(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| variable.starts_with(prefix))
}
