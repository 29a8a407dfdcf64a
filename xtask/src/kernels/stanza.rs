//! Parser of the stanzas of apt's package indexes (pure).

/// The part of a package's stanza that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza {
    /// Name of the package.
    pub package: String,
    /// Its Debian version.
    pub version: String,
    /// Dependencies that name one exact version: `(package, version)`.
    pub exact: Vec<(String, String)>,
}

impl Stanza {
    /// Renders `name=version`, as apt takes it.
    pub fn pin(&self) -> String {
        format!("{}={}", self.package, self.version)
    }
}

/// Parses the output of `apt-cache show`.
pub fn parse(text: &str) -> Vec<Stanza> {
    text.split("\n\n").filter_map(parse_one).collect()
}

fn parse_one(text: &str) -> Option<Stanza> {
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
    };
    let exact = field("Depends").unwrap_or_default().split(", ").filter_map(parse_exact).collect();
    Some(Stanza { package: field("Package")?, version: field("Version")?, exact })
}

/// Parses `name (= version)`; any other relation is `None`.
fn parse_exact(dependency: &str) -> Option<(String, String)> {
    let (name, relation) = dependency.split_once(" (= ")?;
    Some((name.to_owned(), relation.strip_suffix(')')?.to_owned()))
}

/// Chooses the newest stanza whose version starts with `prefix`.
pub fn newest(stanzas: Vec<Stanza>, prefix: &str) -> Option<Stanza> {
    let matching = stanzas.into_iter().filter(|stanza| stanza.version.starts_with(prefix));
    matching.max_by_key(|stanza| numbers(&stanza.version))
}

/// Numbers in a version. They suffice to order versions of one package, except for `~` suffixes, which only
/// distinguish rebuilds of the same kernel.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "\
Package: linux-image-cloud-amd64
Source: linux-signed-amd64
Version: 6.1.99-1
Depends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.99-1)
Description: Linux for x86-64 cloud

Package: linux-image-cloud-amd64
Version: 6.1.192-2
Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), kmod, linux-base (>= 4.3~)

Package: linux-image-6.12-cloud-amd64
Version: 6.12.117-1~deb12u1
Depends: linux-image-6.12.117+deb12-cloud-amd64 (= 6.12.117-1~deb12u1)
";

    fn check(prefix: &str, image: Option<&str>) {
        let found = newest(parse(INDEX), prefix);
        assert_eq!(found.map(|stanza| stanza.exact[0].0.clone()).as_deref(), image, "{prefix}");
    }

    #[test]
    fn newest_of_a_series() {
        check("6.1.", Some("linux-image-6.1.0-56-cloud-amd64"));
        check("6.12.", Some("linux-image-6.12.117+deb12-cloud-amd64"));
        check("", Some("linux-image-6.12.117+deb12-cloud-amd64"));
        check("5.10.", None);
    }

    #[test]
    fn only_exact_dependencies_count() {
        let stanza = parse(INDEX).remove(1);
        assert_eq!(stanza.exact, [("linux-image-6.1.0-56-cloud-amd64".to_owned(), "6.1.192-2".to_owned())]);
        assert_eq!(stanza.pin(), "linux-image-cloud-amd64=6.1.192-2");
    }
}
