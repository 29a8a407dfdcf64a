//! Fetch of one kernel: from a suite's index to a pruned folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    Series, modules,
    stanza::{self, Stanza},
};
use crate::{
    apt::{self, AptRoot, Installed},
    command, paths,
};

/// Contents of the folder after a fetch.
#[derive(Debug)]
pub struct Fetched {
    /// Release as `uname -r` will print it.
    pub release: String,
    /// Version of the Debian package.
    pub version: String,
}

/// Flavours in order of preference: the cloud kernels are smaller and have had everything so far; the full
/// ones are the fallback.
const FLAVOURS: &[&str] = &["cloud-amd64", "amd64"];

/// Looks through the suites of a series and unpacks the first complete kernel into `into`.
pub fn fetch(series: &Series, into: &Path) -> Result<Fetched> {
    apt::check_host()?;
    let mut reasons = Vec::new();
    for suite in series.suites {
        match from_suite(series, suite, into) {
            Ok(fetched) => return Ok(fetched),
            Err(error) => reasons.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("no suite has it:\n  {}", reasons.join("\n  "));
}

fn from_suite(series: &Series, suite: &str, into: &Path) -> Result<Fetched> {
    println!("Looking for kernel {} in {suite}", series.name);
    let apt = AptRoot::create(suite, &[suite], Installed::Nothing)?;
    apt.update()?;
    let mut reasons = Vec::new();
    for flavour in FLAVOURS {
        let Some(image) = find_image(&apt, series, flavour)? else {
            reasons.push(format!("no {flavour} image of series {}", series.name));
            continue;
        };
        match unpack(&apt, &image, into) {
            Ok(fetched) => return Ok(fetched),
            Err(error) => reasons.push(format!("{}: {error:#}", image.package)),
        }
    }
    bail!("{}", reasons.join("; "));
}

/// The image package that the newest matching metapackage depends on.
fn find_image(apt: &AptRoot, series: &Series, flavour: &str) -> Result<Option<Stanza>> {
    let metapackages = [format!("linux-image-{flavour}"), format!("linux-image-{}-{flavour}", series.name)];
    let stanzas = stanza::parse(&apt.show(&metapackages)?);
    let Some(meta) = stanza::newest(stanzas, series.prefix) else { return Ok(None) };
    let image = meta.exact.into_iter().find(|(name, _)| name.starts_with("linux-image-"));
    let Some((name, version)) = image else { return Ok(None) };
    let image = stanza::parse(&apt.show(&[format!("{name}={version}")])?);
    Ok(image.into_iter().next())
}

/// Downloads the image and the packages of the same version that it is split into, and prunes them.
fn unpack(apt: &AptRoot, image: &Stanza, into: &Path) -> Result<Fetched> {
    let scratch = into.join("unpacked");
    let _ = fs::remove_dir_all(&scratch);
    paths::create(&scratch)?;
    let siblings = image.exact.iter().filter(|(name, _)| name.starts_with("linux-"));
    let mut pins: Vec<_> = siblings.map(|(name, version)| format!("{name}={version}")).collect();
    pins.push(image.pin());
    apt.download(&pins, &scratch)?;
    let tree = scratch.join("tree");
    for package in files_in(&scratch)? {
        command::run(Command::new("dpkg").arg("-x").arg(package).arg(&tree))?;
    }
    let (release, vmlinuz) = locate(&tree)?;
    fs::copy(&vmlinuz, into.join("vmlinuz")).context("copying the kernel image")?;
    modules::prune(&tree, &release, into)?;
    fs::remove_dir_all(&scratch)?;
    println!("Kernel {release} is ready");
    Ok(Fetched { release, version: image.version.clone() })
}

/// Finds the release and the image; up to 6.x it is in /boot, split packages keep it with the modules.
fn locate(tree: &Path) -> Result<(String, PathBuf)> {
    let modules = modules::folder(tree)?;
    let release = files_in(&modules)?.first().and_then(|dir| dir.file_name()?.to_str().map(str::to_owned));
    let release = release.context("the packages hold no modules")?;
    let candidates = [tree.join(format!("boot/vmlinuz-{release}")), modules.join(&release).join("vmlinuz")];
    let vmlinuz = candidates.into_iter().find(|path| path.is_file());
    Ok((release, vmlinuz.context("the packages hold no kernel image")?))
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
