//! What `cargo metadata` says of this workspace.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command;
use crate::paths;

/// The packages of the workspace.
#[derive(Debug, Deserialize)]
pub struct Workspace {
    /// In cargo's order.
    pub packages: Vec<Package>,
}

/// A package of the workspace.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// What cargo's messages call it.
    pub id: String,
    /// Its `Cargo.toml`.
    pub manifest_path: PathBuf,
    /// Libraries, programs and tests.
    pub targets: Vec<Target>,
    /// All dependencies, of other packages of the workspace and of crates.
    pub dependencies: Vec<Dependency>,
    /// Features and what they turn on.
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
    /// `dev` or `build`; nothing for an ordinary one.
    pub kind: Option<String>,
    /// Set for packages of the workspace.
    pub path: Option<PathBuf>,
}

impl Workspace {
    /// Asks cargo.
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

/// Cargo, in the repository.
///
/// What `cargo run` tells us about ourselves is kept from it: build scripts (ring's) run again whenever that differs, so
/// that a build by hand after one of ours, or the reverse, would compile much of the tree anew.
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
