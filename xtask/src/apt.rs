//! Debian packages through a private apt root.
//!
//! The host's `/etc/apt` is only read, to find the mirror. Indexes and downloads of other suites live in
//! the cache; apt checks their signatures as for any other source.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{command, paths};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The two Debian archives as this host reaches them.
#[derive(Debug, PartialEq, Eq)]
pub struct Mirror {
    main: String,
    security: String,
}

impl Mirror {
    /// Reads the host's apt configuration.
    pub fn of_host() -> Result<Self> {
        let format = "$(REPO_URI) $(RELEASE)";
        let targets = command::capture(Command::new("apt-get").args(["indextargets", "--format", format]))
            .context("reading the apt sources of this host (a Debian host is needed)")?;
        Ok(Self::from_targets(&targets))
    }

    /// Takes the first Debian main archive and the first security archive out of `URI SUITE` lines.
    fn from_targets(targets: &str) -> Self {
        let find = |wanted: fn(&str, &str) -> bool| {
            let mut lines = targets.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(uri, suite)| wanted(uri, suite)).map(|(uri, _)| uri.trim_end_matches('/').to_owned())
        };
        let main = find(|uri, suite| uri.trim_end_matches('/').ends_with("/debian") && !suite.contains('/'));
        let security = find(|_, suite| suite.ends_with("-security"));
        let main = main.unwrap_or_else(|| "http://deb.debian.org/debian".to_owned());
        let security = security.unwrap_or_else(|| format!("{main}-security"));
        Self { main, security }
    }

    /// The `sources.list` line of one suite; `kind` is `deb` or `deb-src`.
    fn source_line(&self, kind: &str, suite: &str) -> String {
        let uri = if suite.ends_with("-security") { &self.security } else { &self.main };
        format!("{kind} [signed-by={KEYRING}] {uri} {suite} main\n")
    }
}

/// Installed packages that an apt root knows of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// Those of the host, for installing.
    Host,
    /// None, for fetching packages that are never installed.
    Nothing,
}

/// An apt configuration of its own: sources, indexes and download folder.
#[derive(Debug)]
pub struct AptRoot {
    dir: PathBuf,
    installed: Installed,
}

impl AptRoot {
    /// Prepares a root below the cache with the given suites as its only sources.
    pub fn create(name: &str, suites: &[&str], installed: Installed) -> Result<Self> {
        Self::of_kind("deb", name, suites, installed)
    }

    /// Prepares a root for source packages of the given suites.
    pub fn of_source_packages(name: &str, suites: &[&str]) -> Result<Self> {
        Self::of_kind("deb-src", name, suites, Installed::Nothing)
    }

    fn of_kind(kind: &str, name: &str, suites: &[&str], installed: Installed) -> Result<Self> {
        let mirror = Mirror::of_host()?;
        let dir = paths::cache()?.join("apt").join(name);
        paths::create(&dir.join("lists/partial"))?;
        paths::create(&dir.join("cache/archives/partial"))?;
        let sources: String = suites.iter().map(|suite| mirror.source_line(kind, suite)).collect();
        fs::write(dir.join("sources.list"), sources)?;
        fs::write(dir.join("status"), "")?;
        Ok(Self { dir, installed })
    }

    /// Downloads the indexes. Any failure is an error, unlike with apt's own default.
    pub fn update(&self) -> Result<()> {
        command::run(self.command("apt-get").args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]))
    }

    /// Reads the stanzas of the index for these packages; leaves out packages that do not exist.
    pub fn show(&self, packages: &[String]) -> Result<String> {
        let output = command::capture_any(self.command("apt-cache").arg("show").args(packages))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Downloads packages, given as `name=version`, into a folder; apt verifies their checksums.
    pub fn download(&self, packages: &[String], into: &Path) -> Result<()> {
        command::run(self.command("apt-get").args(["-q", "download"]).args(packages).current_dir(into))
    }

    /// Downloads the upstream tarball of a source package, given as `name/suite`, into a folder.
    pub fn download_tarball(&self, package: &str, into: &Path) -> Result<()> {
        let arguments = ["-q", "source", "--download-only", "--tar-only", package];
        command::run(self.command("apt-get").args(arguments).current_dir(into))
    }

    /// Installs packages; prefers those of the suite `release`.
    pub fn install(&self, packages: &[&str], release: Option<&str>) -> Result<()> {
        let mut command = self.command("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["-q", "-y", "install", "--no-install-recommends"]);
        if let Some(release) = release {
            command.args(["-t", release]);
        }
        command::run(command.args(packages))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let dir = self.dir.display();
        let mut options = vec![
            format!("Dir::Etc::SourceList={dir}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={dir}/lists"),
            format!("Dir::Cache={dir}/cache"),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // Suites that have reached their end are no longer signed anew.
            "Acquire::Check-Valid-Until=false".to_owned(),
        ];
        if self.installed == Installed::Nothing {
            options.push(format!("Dir::State::status={dir}/status"));
        }
        for option in options {
            command.args(["-o", &option]);
        }
        command
    }
}

/// Fails with the reason if this host has no apt or is of another architecture.
pub fn check_host() -> Result<()> {
    if paths::find_program("apt-get").is_none() {
        bail!("apt-get is missing: guests are made of Debian packages, so a Debian host is needed");
    }
    if std::env::consts::ARCH != "x86_64" {
        bail!("guests exist for x86_64 only, this host is {}", std::env::consts::ARCH);
    }
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing: apt-get install debian-archive-keyring");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(targets: &str, main: &str, security: &str) {
        let expected = Mirror { main: main.to_owned(), security: security.to_owned() };
        assert_eq!(Mirror::from_targets(targets), expected, "{targets}");
    }

    #[test]
    fn mirror_follows_the_host() {
        check(
            "https://vendor.example/apt stable\nhttp://mirror.example/debian/ bookworm\n\
             http://mirror.example/debian-security/ bookworm-security\n",
            "http://mirror.example/debian",
            "http://mirror.example/debian-security",
        );
        check(
            "http://m.example/debian/ trixie\n",
            "http://m.example/debian",
            "http://m.example/debian-security",
        );
        check("", "http://deb.debian.org/debian", "http://deb.debian.org/debian-security");
    }
}
