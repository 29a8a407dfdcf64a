//! Kernel release strings, as distributions really write them.

use std::{fmt, str::FromStr};

/// The leading three numbers of a kernel release; a missing patch level is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    /// Major number, 6 in 6.12.107.
    pub major: u32,
    /// Minor number, 12 in 6.12.107.
    pub minor: u32,
    /// Patch level, 107 in 6.12.107.
    pub patch: u32,
}

impl KernelVersion {
    /// Version `major.minor.0`.
    pub const fn new(major: u32, minor: u32) -> Self {
        KernelVersion { major, minor, patch: 0 }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Release that does not begin with a major and a minor number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read a kernel version from release {0:?}")]
pub struct InvalidRelease(pub String);

impl FromStr for KernelVersion {
    type Err = InvalidRelease;

    /// Reads the numbers at the beginning and ignores what a distribution appended.
    fn from_str(release: &str) -> Result<Self, InvalidRelease> {
        parse_release(release.trim()).ok_or_else(|| InvalidRelease(release.to_owned()))
    }
}

fn parse_release(release: &str) -> Option<KernelVersion> {
    let (major, rest) = leading_number(release)?;
    let (minor, rest) = leading_number(rest.strip_prefix('.')?)?;
    let patch = match rest.strip_prefix('.').and_then(leading_number) {
        Some((patch, _)) => patch,
        None => 0,
    };
    Some(KernelVersion { major, minor, patch })
}

/// Reads the decimal number at the beginning; returns it with the rest of the text.
fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// Release of the running kernel as it calls itself, and the version in that, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRelease {
    /// Text as `uname -r` prints it; for logs.
    pub text: String,
    /// Version; `None` if the release makes no sense, and decisions then rest on behaviour.
    pub version: Option<KernelVersion>,
}

impl KernelRelease {
    /// Reads a release string.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let version = text.parse().ok();
        KernelRelease { text, version }
    }

    /// Asks the running kernel.
    pub fn running() -> Self {
        KernelRelease::new(rustix::system::uname().release().to_string_lossy())
    }
}

impl fmt::Display for KernelRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(release: &str, expect: Option<(u32, u32, u32)>) {
        let got = release.parse::<KernelVersion>().ok().map(|v| (v.major, v.minor, v.patch));
        assert_eq!(got, expect, "{release:?}");
    }

    #[test]
    fn real_releases() {
        check("4.4", Some((4, 4, 0)));
        check("4.18.0-553.el8", Some((4, 18, 0)));
        check("4.18.0-553.el8_10.x86_64", Some((4, 18, 0)));
        check("4.19.139", Some((4, 19, 139)));
        check("3.10.0-1160.119.1.el7.x86_64", Some((3, 10, 0)));
        check("5.4.0-216-generic", Some((5, 4, 0)));
        check("5.10.0-33-cloud-amd64", Some((5, 10, 0)));
        check("5.14.0-503.26.1.el9_5.aarch64+64k", Some((5, 14, 0)));
        check("5.15.167.4-microsoft-standard-WSL2", Some((5, 15, 167)));
        check("6.1.0-rc1+", Some((6, 1, 0)));
        check("6.1.115-126.197.amzn2023.x86_64", Some((6, 1, 115)));
        check("6.5-rc3", Some((6, 5, 0)));
        check("6.6.56+bpo-amd64", Some((6, 6, 56)));
        check("6.8", Some((6, 8, 0)));
        check("6.8-foo", Some((6, 8, 0)));
        check("6.12.107+deb13-cloud-amd64\n", Some((6, 12, 107)));
        check("6.18.", Some((6, 18, 0)));
        check("7.2.13", Some((7, 2, 13)));
    }

    #[test]
    fn garbage() {
        for release in ["", "6", "6.", ".6", "six.one", "v6.1", "6.x", "99999999999.1", "6,1", "-6.1"] {
            check(release, None);
        }
    }

    #[test]
    fn versions_order_numerically() {
        assert!(KernelVersion::new(4, 9) < KernelVersion::new(4, 19));
        assert!("5.9.0".parse::<KernelVersion>().unwrap() >= KernelVersion::new(5, 9));
        assert!("5.8.18".parse::<KernelVersion>().unwrap() < KernelVersion::new(5, 9));
    }

    #[test]
    fn the_running_kernel_has_a_version() {
        let release = KernelRelease::running();
        assert!(release.version.is_some(), "{release}");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            let _ = text.parse::<KernelVersion>();
        }

        #[test]
        fn printed_versions_parse(major: u32, minor: u32, patch: u32) {
            let version = KernelVersion { major, minor, patch };
            prop_assert_eq!(version.to_string().parse(), Ok(version));
        }
    }
}
