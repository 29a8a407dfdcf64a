//! `cargo xtask image`: the image of kube-ipvs as an OCI archive, without a container runtime.
//!
//! Reading order: [`libraries`] (C libraries for musl), [`program`] (the static program), [`layer`] and
//! [`layout`] (the archive), [`sbom`] (the bill of materials), [`proof`] (checks of a finished image).

mod digest;
mod layer;
mod layout;
mod libraries;
mod program;
mod proof;
mod sbom;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use self::{
    digest::sha256,
    layer::{Node, Tree},
    layout::{About, Layout},
    libraries::Libraries,
    program::{Program, TARGET, Toolchain},
    sbom::Inventory,
};
use crate::{command, paths, setup, workspace::cargo};

pub use proof::{check, check_in_guest};

/// Debian packages for building: a compiler for musl, and what builds the two libraries.
const PACKAGES: &[&str] = &["binutils", "bzip2", "gcc", "make", "musl-tools", "pkg-config"];

/// Size in bytes that the archive stays below.
const MAX_ARCHIVE_BYTES: usize = 15_000_000;

/// Version of everything in the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Name by which the manifests call the image, as container runtimes spell it out.
const NAME: &str = "docker.io/library/kube-ipvs";

const PROGRAM_PATH: &str = "usr/local/bin/kube-ipvs";

/// `cargo xtask image`.
#[derive(Debug, Args)]
pub struct Image {
    /// The archive; program, bill of materials and sources of libraries are written beside it
    /// [default: target/image/kube-ipvs.tar].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Builds a second time from nothing, in another folder, and fails if the digests differ.
    #[arg(long)]
    check: bool,
}

impl Image {
    /// Builds and writes the image, and prints its digest and sizes.
    pub fn run(&self) -> Result<ExitCode> {
        let ingredients = Ingredients::prepare()?;
        let built = ingredients.build(&target_dir()?)?;
        let output = self.output.clone().unwrap_or_else(|| paths::target().join("image/kube-ipvs.tar"));
        built.write(&output)?;
        ingredients.write_sources(&output)?;
        print!("{}", built.report(&output));
        if self.check {
            ingredients.compare(&built)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Cargo's output folder, as an absolute path: it is compared with paths in cargo's messages.
fn target_dir() -> Result<PathBuf> {
    let dir = paths::target();
    paths::create(&dir)?;
    dir.canonicalize().with_context(|| format!("resolving {}", dir.display()))
}

/// All that a build needs.
struct Ingredients {
    libraries: Libraries,
    stamp: Stamp,
}

impl Ingredients {
    /// Installs and fetches what is missing.
    fn prepare() -> Result<Self> {
        setup::ensure_also(PACKAGES)?;
        Toolchain::with_target()?;
        Ok(Self { libraries: Libraries::ensure()?, stamp: Stamp::read()? })
    }

    fn build(&self, target_dir: &Path) -> Result<Built> {
        println!("Building kube-ipvs for {TARGET}");
        let program = program::build(&self.libraries, target_dir)?;
        let sbom = self.inventory(&program)?.render();
        self.pack(program.bytes, sbom)
    }

    /// Makes an image of a program; equal programs give equal images.
    fn pack(&self, program: Vec<u8>, sbom: Value) -> Result<Built> {
        let layer = self.tree(program.clone())?.pack(self.stamp.time)?;
        let layer_bytes = layer.gzip.len();
        let layout = Layout::new(&self.stamp.about(), layer, &sbom);
        let (digest, manifest) = (layout.digest.clone(), layout.manifest.clone());
        let archive = layout.pack(self.stamp.time)?;
        ensure!(
            archive.len() < MAX_ARCHIVE_BYTES,
            "the image has {} bytes, the limit is {MAX_ARCHIVE_BYTES}",
            archive.len()
        );
        Ok(Built { program, sbom, archive, layer_bytes, digest, manifest })
    }

    /// The contents, which the Containerfile has as well.
    fn tree(&self, program: Vec<u8>) -> Result<Tree> {
        let mut tree = Tree::default();
        tree.add(PROGRAM_PATH, Node::Program(program));
        // The name is for kubeadm's DaemonSet, whose command it is.
        tree.add("usr/local/bin/kube-proxy", Node::Link("kube-ipvs"));
        // The program by which kops starts that one.
        tree.add("go-runner", Node::Link("usr/local/bin/kube-ipvs"));
        let mut licenses = vec![("kube-ipvs", paths::repository().join("LICENSE"))];
        licenses.extend(libraries::ALL.map(|library| (library.name, self.libraries.license_of(library))));
        for (name, file) in licenses {
            let file_name = if name == "kube-ipvs" { "LICENSE" } else { "COPYING" };
            let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            tree.add(&format!("usr/share/licenses/{name}/{file_name}"), Node::File(text));
        }
        Ok(tree)
    }

    fn inventory(&self, program: &Program) -> Result<Inventory> {
        let mut metadata = cargo();
        metadata.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET]);
        let crates = serde_json::from_str(&command::capture(&mut metadata)?)
            .context("reading the output of cargo metadata")?;
        let lock =
            fs::read_to_string(paths::repository().join("Cargo.lock")).context("reading Cargo.lock")?;
        Ok(Inventory {
            program: program::NAME,
            sha256: sha256(&program.bytes),
            created: self.stamp.created.clone(),
            crates,
            linked: program.packages.iter().cloned().collect(),
            checksums: sbom::checksums(&lock),
            libraries: linked_libraries()?,
        })
    }

    /// Copies the sources of the libraries beside the image, as their licences want it.
    fn write_sources(&self, output: &Path) -> Result<()> {
        for library in libraries::ALL {
            libraries::copy(&self.libraries.source_of(library), &folder_of(output).join(library.tarball()))?;
        }
        Ok(())
    }

    /// Builds from nothing elsewhere, and compares.
    fn compare(&self, built: &Built) -> Result<()> {
        let dir = target_dir()?.join("image-check");
        let _ = fs::remove_dir_all(&dir);
        paths::create(&dir)?;
        let again = self.build(&dir);
        let _ = fs::remove_dir_all(&dir);
        let again = again?;
        if again.digest != built.digest {
            let what =
                if again.program == built.program { "the programs are equal" } else { "so do the programs" };
            bail!("the images differ, {what}: {} and {}", built.digest, again.digest);
        }
        println!("A second build in another folder has the same digest");
        Ok(())
    }
}

/// Libraries that no crate is: those in C, and Rust's own.
fn linked_libraries() -> Result<Vec<sbom::Library>> {
    let toolchain = Toolchain::installed()?;
    let netfilter = libraries::ALL.iter().map(|library| sbom::Library {
        name: library.name.to_owned(),
        version: library.version.to_owned(),
        license: library.license.to_owned(),
        sha256: Some(library.sha256.to_owned()),
        source: Some(library.url()),
        // Its archive has the objects of libmnl as well.
        used_by: Some("nftnl-sys"),
    });
    let musl = toolchain.musl();
    let musl = fs::read(&musl).with_context(|| format!("reading {}", musl.display()))?;
    let from_toolchain = [
        sbom::Library {
            name: "musl".to_owned(),
            version: musl_version(&musl).context("the C library has no version")?,
            license: "MIT".to_owned(),
            sha256: Some(sha256(&musl)),
            source: None,
            used_by: None,
        },
        sbom::Library {
            name: "rust-std".to_owned(),
            version: toolchain.version,
            license: "MIT OR Apache-2.0".to_owned(),
            sha256: None,
            source: Some("https://github.com/rust-lang/rust".to_owned()),
            used_by: None,
        },
    ];
    Ok(netfilter.chain(from_toolchain).collect())
}

/// Finds the text `1.N.N` between two zero bytes, which musl keeps for its own use.
fn musl_version(archive: &[u8]) -> Option<String> {
    let mut texts = archive.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok());
    let version = texts.find(|text| {
        let numbers: Vec<_> = text.split('.').collect();
        let digits = |number: &&str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        numbers.len() == 3 && numbers[0] == "1" && numbers.iter().all(digits)
    });
    version.map(str::to_owned)
}

/// Commit and time of an image.
#[derive(Debug)]
struct Stamp {
    /// Seconds since 1970.
    time: u64,
    /// The same in RFC 3339.
    created: String,
    /// Commit, if git knows it.
    revision: Option<String>,
}

impl Stamp {
    /// Takes the time from `SOURCE_DATE_EPOCH`, else that of the commit.
    fn read() -> Result<Self> {
        let time = match env::var("SOURCE_DATE_EPOCH") {
            Ok(time) => time,
            Err(_) => git(&["log", "-1", "--format=%ct"]).unwrap_or_else(|| "0".to_owned()),
        };
        let time: u64 = time.parse().with_context(|| format!("SOURCE_DATE_EPOCH={time} is not a time"))?;
        let mut date = Command::new("date");
        let created = command::capture(date.args(["-u", "-d", &format!("@{time}"), "+%Y-%m-%dT%H:%M:%SZ"]))?;
        let changed =
            git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
        let revision = git(&["rev-parse", "HEAD"]);
        let revision = revision.map(|commit| if changed { commit + "-dirty" } else { commit });
        Ok(Self { time, created: created.trim_end().to_owned(), revision })
    }

    fn about(&self) -> About {
        let mut labels = BTreeMap::from([
            ("org.opencontainers.image.created", self.created.clone()),
            (
                "org.opencontainers.image.description",
                "A replacement for kube-proxy that programs Linux IPVS".to_owned(),
            ),
            (
                "org.opencontainers.image.licenses",
                "Apache-2.0 AND GPL-2.0-or-later AND LGPL-2.1-or-later".to_owned(),
            ),
            ("org.opencontainers.image.title", "kube-ipvs".to_owned()),
            ("org.opencontainers.image.version", VERSION.to_owned()),
        ]);
        labels.extend(self.revision.clone().map(|commit| ("org.opencontainers.image.revision", commit)));
        About {
            tag: tag(),
            name: NAME.to_owned(),
            created: self.created.clone(),
            labels,
            entrypoint: "/usr/local/bin/kube-ipvs",
        }
    }
}

/// Tag of the image, as the manifests have it.
fn tag() -> String {
    format!("v{VERSION}")
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    let text = command::capture(git.args(arguments).current_dir(paths::repository())).ok()?;
    Some(text.trim().to_owned())
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A finished image.
struct Built {
    program: Vec<u8>,
    sbom: Value,
    archive: Vec<u8>,
    layer_bytes: usize,
    digest: String,
    manifest: String,
}

impl Built {
    /// Writes the archive, and beside it what a release has apart from it.
    fn write(&self, output: &Path) -> Result<()> {
        let dir = folder_of(output);
        paths::create(dir)?;
        let write = |path: &Path, contents: &[u8]| {
            fs::write(path, contents).with_context(|| format!("writing {}", path.display()))
        };
        write(output, &self.archive)?;
        write(&dir.join("kube-ipvs.cdx.json"), self.sbom.to_string().as_bytes())?;
        write(&dir.join("kube-ipvs"), &self.program)?;
        Ok(())
    }

    fn report(&self, output: &Path) -> String {
        let Self { digest, manifest, .. } = self;
        let megabytes = |bytes: usize| format!("{}.{:02} MB", bytes / 1_000_000, bytes % 1_000_000 / 10_000);
        let lines = [
            ("image", output.display().to_string()),
            ("digest", digest.clone()),
            ("manifest of linux/amd64", manifest.clone()),
            ("archive", megabytes(self.archive.len())),
            ("layer, compressed", megabytes(self.layer_bytes)),
            ("program", megabytes(self.program.len())),
        ];
        lines.iter().fold(String::new(), |all, (name, value)| all + &format!("{name:<24} {value}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_musl_stands_between_zero_bytes() {
        assert_eq!(musl_version(b"x\0.1.2.3\x001.2\x001.2.5\0y").as_deref(), Some("1.2.5"));
        assert_eq!(musl_version(b"\x002.36.0\0"), None);
    }

    #[test]
    fn the_containerfile_has_the_same_labels_and_paths() {
        let text = fs::read_to_string(paths::repository().join("Containerfile")).unwrap();
        let stamp = Stamp { time: 0, created: String::new(), revision: None };
        let about = stamp.about();
        for label in ["title", "description", "licenses"] {
            let name = format!("org.opencontainers.image.{label}");
            let line = format!("{name}=\"{}\"", about.labels[name.as_str()]);
            assert!(text.contains(&line), "{line}");
        }
        assert!(text.contains(&format!("ENTRYPOINT [\"{}\"]", about.entrypoint)));
        assert!(text.contains(PROGRAM_PATH));
    }
}
