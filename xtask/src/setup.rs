//! Debian packages that building, testing and guests need.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    apt::{self, AptRoot, Installed},
    command,
};

/// Packages that must be installed, whatever their version.
const PACKAGES: &[&str] = &[
    "binutils",
    "busybox-static",
    "conntrack",
    "g++",
    "iproute2",
    "ipvsadm",
    "iputils-ping",
    "kmod",
    "libmnl-dev",
    "libnftnl-dev",
    "nftables",
    "pkg-config",
    "procps",
    "xz-utils",
];

/// Emulator of the guests. Version 7.2 crashes their kernels (cmpxchg16b).
const EMULATOR: &str = "qemu-system-x86";

/// First major version that works.
const EMULATOR_VERSION: u32 = 10;

/// Installs missing packages if the user is root; otherwise says what to do. It is quick if none is missing.
pub fn ensure() -> Result<()> {
    apt::check_host()?;
    let installed = installed(PACKAGES)?;
    let missing: Vec<_> =
        PACKAGES.iter().copied().filter(|package| version_of(&installed, package).is_none()).collect();
    let emulator = version_of(&installed, EMULATOR).is_some_and(is_recent);
    if missing.is_empty() && emulator {
        return Ok(());
    }
    let codename = codename()?;
    if !rustix::process::geteuid().is_root() {
        bail!("{}", advice(&missing, emulator, &codename));
    }
    let backports = needs_backports(&codename).then(|| format!("{codename}-backports"));
    install(&missing, emulator, &codename, backports.as_deref())
}

fn install(missing: &[&str], emulator: bool, codename: &str, backports: Option<&str>) -> Result<()> {
    let mut suites = suites_of(codename);
    suites.extend(backports.map(str::to_owned));
    let suites: Vec<_> = suites.iter().map(String::as_str).collect();
    let apt = AptRoot::create("host", &suites, Installed::Host)?;
    apt.update()?;
    if !missing.is_empty() {
        println!("Installing {}", missing.join(" "));
        apt.install(missing, None)?;
    }
    if !emulator {
        println!("Installing {EMULATOR}");
        apt.install(&[EMULATOR], backports)?;
        let installed = installed(&[])?;
        let version = version_of(&installed, EMULATOR).unwrap_or("none");
        if !is_recent(version) {
            bail!("{EMULATOR} {EMULATOR_VERSION} or newer is needed, {codename} has {version}");
        }
    }
    Ok(())
}

/// Installs further packages, as [`ensure`] does.
pub fn ensure_also(packages: &[&str]) -> Result<()> {
    apt::check_host()?;
    let installed = installed(packages)?;
    let missing: Vec<_> =
        packages.iter().copied().filter(|package| version_of(&installed, package).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let codename = codename()?;
    if !rustix::process::geteuid().is_root() {
        bail!("{}", advice(&missing, true, &codename));
    }
    install(&missing, true, &codename, None)
}

/// Suites of the host's release, for packages that are fetched and not installed.
pub fn suites() -> Result<Vec<String>> {
    apt::check_host()?;
    Ok(suites_of(&codename()?))
}

fn suites_of(codename: &str) -> Vec<String> {
    if codename == "sid" {
        return vec![codename.to_owned()];
    }
    ["", "-updates", "-security"].iter().map(|suffix| format!("{codename}{suffix}")).collect()
}

/// Commands that root has to type.
fn advice(missing: &[&str], emulator: bool, codename: &str) -> String {
    let mut lines = vec!["Debian packages are missing. Run `cargo xtask setup` as root, or:".to_owned()];
    if !missing.is_empty() {
        lines.push(format!("  apt-get install --no-install-recommends {}", missing.join(" ")));
    }
    if !emulator {
        let suite =
            if needs_backports(codename) { format!("-t {codename}-backports ") } else { String::new() };
        lines.push(format!("  apt-get install --no-install-recommends {suite}{EMULATOR}"));
    }
    lines.join("\n")
}

/// Tells whether the emulator must come from backports: Debian 12 is the oldest host that we know, and its
/// own emulator is too old.
fn needs_backports(codename: &str) -> bool {
    ["bullseye", "bookworm"].contains(&codename)
}

fn codename() -> Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(codename.map_or_else(|| "sid".to_owned(), |codename| codename.trim_matches('"').to_owned()))
}

/// Lists `package version` of those of the packages, and of the emulator, that are installed.
fn installed(packages: &[&str]) -> Result<String> {
    let format = "${db:Status-Status} ${Package} ${Version}\\n";
    let output = command::capture_any(
        Command::new("dpkg-query").args(["-W", "-f", format]).args(packages).arg(EMULATOR),
    )?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .fold(String::new(), |all, line| all + line + "\n"))
}

fn version_of<'a>(installed: &'a str, package: &str) -> Option<&'a str> {
    let mut pairs = installed.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(name, _)| *name == package).map(|(_, version)| version)
}

/// Tells whether a Debian version (`epoch:upstream-revision`) of the emulator works.
fn is_recent(version: &str) -> bool {
    let upstream = version.split_once(':').map_or(version, |(_, upstream)| upstream);
    let major = upstream.split(|c: char| !c.is_ascii_digit()).next();
    major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= EMULATOR_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulator_versions() {
        assert!(is_recent("1:10.0.2+ds-2+deb13u1~bpo12+1"));
        assert!(is_recent("1:11.1.3+ds-1"));
        assert!(!is_recent("1:7.2+dfsg-7+deb12u18+b3"));
        assert!(!is_recent("none"));
    }

    #[test]
    fn advice_is_the_exact_command() {
        let text = advice(&["kmod", "nftables"], false, "bookworm");
        assert!(text.contains("\n  apt-get install --no-install-recommends kmod nftables\n"), "{text}");
        assert!(text.ends_with("-t bookworm-backports qemu-system-x86"), "{text}");
        assert!(!advice(&[], false, "trixie").contains("-t "));
    }
}
