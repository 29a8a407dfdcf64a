//! Places of the repository, its target folder, and the cache outside the tree.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The root of the repository.
pub fn repository() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's output folder.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// Folder of console logs, initramfs images and stripped binaries of guests; created when it is needed.
pub fn guest_output() -> Result<PathBuf> {
    let dir = target().join("guest");
    create(&dir)?;
    Ok(dir)
}

/// Folder of downloads that outlive the tree: kernels and apt indexes. `KUBE_IPVS_CACHE` overrides it.
pub fn cache() -> Result<PathBuf> {
    let dir = if let Some(dir) = env::var_os("KUBE_IPVS_CACHE") {
        PathBuf::from(dir)
    } else if let Some(dir) = env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Path::new(&dir).join("kube-ipvs")
    } else if let Some(home) = env::var_os("HOME") {
        Path::new(&home).join(".cache/kube-ipvs")
    } else {
        bail!("no place for downloads: set KUBE_IPVS_CACHE or HOME");
    };
    create(&dir)?;
    dir.canonicalize().with_context(|| format!("resolving {}", dir.display()))
}

/// Creates a folder and its parents.
pub fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}

/// Finds a program in `PATH` and in the system folders that a user's `PATH` often lacks.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    // Other folders of `PATH` do not count: guests get the host's packaged programs, not a user's own.
    env::split_paths(&path)
        .filter(|dir| dir.starts_with("/usr") || dir.starts_with("/bin") || dir.starts_with("/sbin"))
        .chain(system.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}
