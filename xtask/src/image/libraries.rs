//! libmnl and libnftnl as static archives for musl, built from Debian's copies of their tarballs.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::digest::{self, sha256};
use crate::{apt::AptRoot, command, paths};

/// A library that is linked in. Versions and checksums are also in the Containerfile.
#[derive(Debug)]
pub struct Library {
    /// Name, which is also that of Debian's source package.
    pub name: &'static str,
    /// Version.
    pub version: &'static str,
    /// SPDX expression of its licence.
    pub license: &'static str,
    /// Checksum of the tarball, which Debian and the project publish alike.
    pub sha256: &'static str,
    /// Suite of Debian that has this version.
    suite: &'static str,
}

/// The library of netlink messages, on which the other one builds.
pub const LIBMNL: Library = Library {
    name: "libmnl",
    version: "1.0.5",
    license: "LGPL-2.1-or-later",
    sha256: "274b9b919ef3152bfb3da3a13c950dd60d6e2bcd54230ffeca298d03b40d0525",
    suite: "trixie",
};

/// The library of nf_tables messages.
pub const LIBNFTNL: Library = Library {
    name: "libnftnl",
    version: "1.2.4",
    license: "GPL-2.0-or-later",
    sha256: "c0fe233be4cdfd703e7d5977ef8eb63fcbf1d0052b6044e1b23d47ca3562477f",
    suite: "bookworm",
};

/// Both, in the order in which they are built.
pub const ALL: [&Library; 2] = [&LIBMNL, &LIBNFTNL];

/// Layout of the cached archives; raising it builds them again.
const CACHE_FORMAT: u32 = 1;

/// Compiler that builds against musl.
const COMPILER: &str = "musl-gcc";

/// Commands by which `ar` merges both archives; the Containerfile has the same.
const MERGE: &str = "CREATE both.a\nADDLIB libnftnl.a\nADDLIB libmnl.a\nSAVE\nEND\n";

/// Folders with the kernel's headers, which musl does not have, and where Debian has them.
const KERNEL_HEADERS: [(&str, &str); 3] = [
    ("linux", "/usr/include/linux"),
    ("asm-generic", "/usr/include/asm-generic"),
    ("asm", "/usr/include/x86_64-linux-gnu/asm"),
];

/// Libraries that are ready to be linked.
#[derive(Debug)]
pub struct Libraries {
    dir: PathBuf,
}

impl Library {
    /// Name of the tarball.
    pub fn tarball(&self) -> String {
        format!("{}-{}.tar.bz2", self.name, self.version)
    }

    /// Where the project publishes it.
    pub fn url(&self) -> String {
        format!("https://www.netfilter.org/projects/{}/files/{}", self.name, self.tarball())
    }

    /// Path of the tarball in the cache; fetches it if it is missing.
    fn source(&self) -> Result<PathBuf> {
        let dir = paths::cache()?.join("sources");
        paths::create(&dir)?;
        let path = dir.join(self.tarball());
        if !path.exists() {
            self.fetch(&dir, &path).with_context(|| {
                let (url, shown) = (self.url(), path.display());
                format!("fetching the source of {} (or download {url} to {shown})", self.name)
            })?;
        }
        self.verify(&path)?;
        Ok(path)
    }

    fn fetch(&self, dir: &Path, path: &Path) -> Result<()> {
        println!("Fetching the source of {} {}", self.name, self.version);
        let apt = AptRoot::of_source_packages("sources", &["bookworm", "trixie"])?;
        apt.update()?;
        apt.download_tarball(&format!("{}/{}", self.name, self.suite), dir)?;
        let debian = dir.join(format!("{}_{}.orig.tar.bz2", self.name, self.version));
        // Only what is complete and right takes the final name.
        self.verify(&debian)?;
        fs::rename(&debian, path).with_context(|| format!("renaming {}", debian.display()))
    }

    fn verify(&self, path: &Path) -> Result<()> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let found = sha256(&bytes);
        if found != self.sha256 {
            bail!("{} has the checksum {found}, not {}: remove it", path.display(), self.sha256);
        }
        Ok(())
    }
}

impl Libraries {
    /// Folder with the archives.
    pub fn archives(&self) -> PathBuf {
        self.dir.join("lib")
    }

    /// Path of a library's tarball.
    pub fn source_of(&self, library: &Library) -> PathBuf {
        self.dir.join("sources").join(library.tarball())
    }

    /// Path of a library's licence.
    pub fn license_of(&self, library: &Library) -> PathBuf {
        self.dir.join("licenses").join(library.name)
    }

    /// Returns the archives; builds them if no such build is cached.
    pub fn ensure() -> Result<Self> {
        let parent = paths::cache()?.join("libraries");
        paths::create(&parent)?;
        let dir = parent.join(key()?);
        if !dir.exists() {
            let scratch = parent.join(format!("new-{}", std::process::id()));
            let built = Build::prepare(&scratch).and_then(|build| build.all());
            // An interrupted build leaves nothing that looks complete.
            let moved = built.and_then(|()| Ok(fs::rename(scratch.join("out"), &dir)?));
            let _ = fs::remove_dir_all(&scratch);
            moved.context("building libmnl and libnftnl for musl")?;
        }
        Ok(Self { dir })
    }
}

/// Name of the cached build: it changes with the sources, the compiler and the way of building.
fn key() -> Result<String> {
    let compiler = command::capture(Command::new(COMPILER).arg("--version"))?;
    let checksums = ALL.map(|library| library.sha256).join(" ");
    let key = sha256(format!("{CACHE_FORMAT} {checksums} {compiler}").as_bytes());
    Ok(digest::short(&key).to_owned())
}

/// A build in a folder of its own: sources, headers of the kernel, what was installed, and what stays.
struct Build<'a> {
    scratch: &'a Path,
}

impl<'a> Build<'a> {
    fn prepare(scratch: &'a Path) -> Result<Self> {
        let _ = fs::remove_dir_all(scratch);
        for dir in ["kernel-headers", "out/lib", "out/licenses", "out/sources"] {
            paths::create(&scratch.join(dir))?;
        }
        for (name, at) in KERNEL_HEADERS {
            if !Path::new(at).is_dir() {
                bail!("{at} is missing: apt-get install linux-libc-dev");
            }
            symlink(at, scratch.join("kernel-headers").join(name))?;
        }
        Ok(Self { scratch })
    }

    fn all(&self) -> Result<()> {
        ALL.into_iter().try_for_each(|library| self.library(library))?;
        self.merge()
    }

    /// Adds the objects of libmnl to the archive of libnftnl: that one alone is what the linker is given, because
    /// no code of ours uses libmnl. As a shared library it would name what it needs, an archive does not.
    fn merge(&self) -> Result<()> {
        let (dir, script) = (self.scratch.join("out/lib"), self.scratch.join("merge"));
        fs::write(&script, MERGE)?;
        command::run(Command::new("ar").arg("-M").current_dir(&dir).stdin(fs::File::open(&script)?))?;
        fs::rename(dir.join("both.a"), dir.join("libnftnl.a")).context("renaming the merged archive")
    }

    /// Folder below which `make install` puts everything.
    fn prefix(&self) -> PathBuf {
        self.scratch.join("prefix")
    }

    fn library(&self, library: &Library) -> Result<()> {
        println!("Building {} {}", library.name, library.version);
        let (tarball, source) = (library.source()?, self.scratch.join(library.name));
        paths::create(&source)?;
        let mut unpack = Command::new("tar");
        unpack.arg("-xjf").arg(&tarball).args(["--strip-components=1", "-C"]).arg(&source);
        command::run(&mut unpack)?;
        self.compile(&source)?;
        let archive = format!("{}.a", library.name);
        let out = self.scratch.join("out");
        // Its licence wants the source to go along with the program.
        copy(&tarball, &out.join("sources").join(library.tarball()))?;
        copy(&self.prefix().join("lib").join(&archive), &out.join("lib").join(&archive))?;
        copy(&source.join("COPYING"), &out.join("licenses").join(library.name))
    }

    fn compile(&self, source: &Path) -> Result<()> {
        let prefix = self.prefix();
        let (scratch, prefix) = (self.scratch.display(), prefix.display());
        let mut configure = Command::new("./configure");
        configure
            .current_dir(source)
            .args(["--quiet", "--host=x86_64-linux-musl", "--enable-static", "--disable-shared"])
            .arg(format!("--prefix={prefix}"))
            .arg(format!("CC={COMPILER}"))
            // Headers of musl come first. Paths of this machine must not get into the archives.
            .arg(format!(
                "CFLAGS=-O2 -idirafter {scratch}/kernel-headers -ffile-prefix-map={scratch}=/libraries"
            ))
            // pkg-config would find the host's libmnl, which is not for musl.
            .env("LIBMNL_CFLAGS", format!("-I{prefix}/include"))
            .env("LIBMNL_LIBS", format!("-L{prefix}/lib -lmnl"));
        command::run(&mut configure)?;
        command::run(Command::new("make").current_dir(source).args(["--silent", "install"]))
    }
}

/// Copies a file.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containerfile_has_the_same_libraries() {
        let text = fs::read_to_string(paths::repository().join("Containerfile")).unwrap();
        for library in ALL {
            assert!(text.contains(&library.tarball()), "{}", library.tarball());
            assert!(text.contains(library.sha256), "{} {}", library.name, library.sha256);
        }
    }
}
