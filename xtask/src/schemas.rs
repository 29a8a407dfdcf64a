//! Manifests against the OpenAPI schemas of Kubernetes, which the Python package kubernetes-validate has of each release.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{command, paths, tally::Tally, tools};

/// Releases to validate against: the oldest that the package knows, and the newest that is supported.
const RELEASES: [&str; 2] = ["1.25", "1.36"];

/// An object that no release accepts: a field of a Service is misspelled.
const MISSPELLED: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: misspelled
spec:
  clusterIp: 10.96.0.10
";

/// Validates whatever operators apply, and for each release an object that must be refused.
pub fn check(tally: &mut Tally) -> Result<()> {
    let files = files()?;
    let count = RELEASES.len() * (files.len() + 1);
    let lack = "kubernetes-validate cannot be fetched";
    let Some(package) = tally.have(tools::kubernetes_validate(), "schemas", lack, count) else {
        return Ok(());
    };
    let dir = paths::target().join("schemas");
    paths::create(&dir)?;
    let refused = dir.join("misspelled.yaml");
    fs::write(&refused, MISSPELLED).with_context(|| format!("writing {}", refused.display()))?;
    for release in RELEASES {
        for file in &files {
            match validate(&package, release, file) {
                Ok(()) => tally.pass(),
                Err(error) => {
                    tally.fail(&format!("{} for Kubernetes {release}", file.display()), &error.to_string())
                }
            }
        }
        match validate(&package, release, &refused) {
            Err(error) if error.to_string().contains("clusterIp") => tally.pass(),
            other => tally
                .fail(&format!("schemas of Kubernetes {release}"), &format!("a misspelled field: {other:?}")),
        }
    }
    Ok(())
}

/// Rendered manifests and examples, relative to the repository.
fn files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in ["manifests/rendered", "manifests/examples"] {
        for entry in
            fs::read_dir(paths::repository().join(folder)).with_context(|| format!("reading {folder}"))?
        {
            files.push(Path::new(folder).join(entry?.file_name()));
        }
    }
    files.sort();
    Ok(files)
}

/// Validates all objects of a file. The program reports what it cannot read and succeeds, so that its words count.
fn validate(package: &Path, release: &str, file: &Path) -> Result<()> {
    let mut python = Command::new("python3");
    python.current_dir(paths::repository()).env("PYTHONPATH", package);
    python.args(["-m", "kubernetes_validate", "--strict", "--kubernetes-version", release]).arg(file);
    let output = command::capture_any(&mut python)?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let objects = said.lines().filter(|line| line.starts_with("INFO ") && line.contains(" passed ")).count();
    ensure!(output.status.success() && objects > 0 && objects == said.lines().count(), "{said}");
    Ok(())
}
