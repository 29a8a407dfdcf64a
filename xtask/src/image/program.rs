//! The static program: kube-ipvs for musl, with nothing of this machine in it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::libraries::Libraries;
use crate::{
    build::{self, Artifact},
    command, paths,
    workspace::cargo,
};

/// Rust's name of the platform.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// Name of the package and of the program.
pub const NAME: &str = "kube-ipvs";

/// The program, and what cargo compiled for it.
#[derive(Debug)]
pub struct Program {
    /// The file.
    pub bytes: Vec<u8>,
    /// Cargo's identifiers of all packages that were compiled for the platform: neither build scripts nor
    /// procedural macros, nor what only they use.
    pub packages: Vec<String>,
}

/// Builds the program below a target folder.
pub fn build(libraries: &Libraries, target_dir: &Path) -> Result<Program> {
    let toolchain = Toolchain::with_target()?;
    let remap = prefixes(&toolchain, target_dir)?;
    let mut command = cargo();
    command
        .args(["build", "--locked", "--release", "--package", NAME, "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .env("LIBMNL_LIB_DIR", libraries.archives())
        .env("LIBNFTNL_LIB_DIR", libraries.archives())
        // No date gets into the program. That of the commit would have cargo compile all C anew with each one.
        .env("SOURCE_DATE_EPOCH", "0")
        // Flags of the user's own would be in the program.
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&remap).join("\u{1f}"))
        // C that crates bring along.
        .env(format!("CC_{}", TARGET.replace('-', "_")), "musl-gcc")
        .env(format!("CFLAGS_{}", TARGET.replace('-', "_")), c_flags(&remap).join(" "));
    let artifacts = build::artifacts(&mut command)?;
    let path = artifacts.iter().filter(|artifact| artifact.target == NAME);
    let path = path.filter_map(|artifact| artifact.executable.as_ref()).next();
    let path = path.context("cargo has built no kube-ipvs")?;
    check_static(path)?;
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Program { bytes, packages: compiled_for_target(&artifacts, target_dir) })
}

/// The compiler's folders and version.
#[derive(Debug)]
pub struct Toolchain {
    /// Root of its files.
    pub sysroot: PathBuf,
    /// Version, as in `1.95.0`.
    pub version: String,
    commit: String,
}

impl Toolchain {
    /// Reads it, and installs the standard library for musl if it is missing.
    pub fn with_target() -> Result<Self> {
        let toolchain = Self::installed()?;
        if !toolchain.libraries_of_target().is_dir() {
            println!("Installing Rust's standard library for {TARGET}");
            command::run(Command::new("rustup").args(["target", "add", TARGET]))
                .with_context(|| format!("the standard library for {TARGET} is missing"))?;
        }
        Ok(toolchain)
    }

    /// Reads it.
    pub fn installed() -> Result<Self> {
        let sysroot = command::capture(Command::new("rustc").args(["--print", "sysroot"]))?;
        let verbose = command::capture(Command::new("rustc").arg("-vV"))?;
        let field = |name: &str| {
            let found = verbose.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.map(str::to_owned).with_context(|| format!("rustc -vV says nothing of its {name}"))
        };
        let (version, commit) = (field("release")?, field("commit-hash")?);
        Ok(Self { sysroot: sysroot.trim_end().into(), version, commit })
    }

    /// Archive of the C library, which comes with Rust's standard library.
    pub fn musl(&self) -> PathBuf {
        self.libraries_of_target().join("self-contained/libc.a")
    }

    fn libraries_of_target(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib").join(TARGET).join("lib")
    }
}

/// Folders of this machine, and what stands for them in the program. Of those that match, the last one
/// counts.
fn prefixes(toolchain: &Toolchain, target_dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let std_sources = toolchain.sysroot.join("lib/rustlib/src/rust");
    Ok(vec![
        (cargo_home, "/cargo".to_owned()),
        // Where they are installed, the compiler names these files in place of those with which it was built.
        (std_sources, format!("/rustc/{}", toolchain.commit)),
        (paths::repository().to_owned(), "/kube-ipvs".to_owned()),
        // Often below the repository.
        (target_dir.to_owned(), "/target".to_owned()),
    ])
}

fn rust_flags(prefixes: &[(PathBuf, String)]) -> Vec<String> {
    prefixes.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect()
}

fn c_flags(prefixes: &[(PathBuf, String)]) -> Vec<String> {
    prefixes.iter().map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display())).collect()
}

/// Fails if a program needs a loader or a shared library: neither is on an empty base.
fn check_static(path: &Path) -> Result<()> {
    let mut readelf = Command::new("readelf");
    readelf.env("LC_ALL", "C").args(["--program-headers", "--dynamic", "--wide"]).arg(path);
    match needs(&command::capture(&mut readelf)?) {
        Some(line) => bail!("{} is not static: {line}", path.display()),
        None => Ok(()),
    }
}

/// Finds the line in the output of readelf by which a program is not static.
fn needs(headers: &str) -> Option<&str> {
    let mut lines = headers.lines().map(str::trim);
    lines.find(|line| line.starts_with("INTERP") || line.contains("(NEEDED)"))
}

/// Packages with a file below the folder of the platform; those for build scripts and macros are elsewhere.
fn compiled_for_target(artifacts: &[Artifact], target_dir: &Path) -> Vec<String> {
    let dir = target_dir.join(TARGET);
    let compiled =
        artifacts.iter().filter(|artifact| artifact.files.iter().any(|file| file.starts_with(&dir)));
    compiled.map(|artifact| artifact.package_id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_and_shared_libraries_are_found() {
        let of_musl = "  LOAD           0x000000 0x0 0x0\n  DYNAMIC        0x5aa1f0\n 0x1 (SONAME) x\n";
        assert_eq!(needs(of_musl), None);
        let interpreter = format!("{of_musl}  INTERP         0x000318 0x318\n");
        assert!(needs(&interpreter).unwrap().starts_with("INTERP"));
        let library = format!("{of_musl} 0x0000000000000001 (NEEDED) Shared library: [libc.so.6]\n");
        assert!(needs(&library).unwrap().ends_with("[libc.so.6]"));
    }

    #[test]
    fn what_only_the_build_runs_is_not_in_the_program() {
        let artifact = |package: &str, file: &str| Artifact {
            package_id: package.to_owned(),
            target: package.to_owned(),
            files: vec![file.into()],
            executable: None,
        };
        let artifacts = [
            artifact("linked", "/t/x86_64-unknown-linux-musl/release/deps/liblinked.rlib"),
            artifact("macro", "/t/release/deps/libmacro.so"),
            artifact("script", "/t/release/build/script/build-script-build"),
        ];
        assert_eq!(compiled_for_target(&artifacts, Path::new("/t")), ["linked"]);
    }
}
