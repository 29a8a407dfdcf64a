//! Pages about the process itself, in the forms of kube-proxy: `/configz`, `/statusz`, `/flagz`, and `/healthz` of the
//! metrics server.
//!
//! Pure text: the server adds status and headers. kube-proxy draws the delimiter of `/statusz` and `/flagz` at random;
//! here it is fixed.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use jiff::Timestamp;

/// Paths of the metrics server, as `/statusz` lists them.
pub(crate) const PATHS: [&str; 6] = ["/configz", "/flagz", "/healthz", "/metrics", "/proxyMode", "/statusz"];

/// Warning above texts for people (component-base/zpages).
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";

/// Facts about the process that its pages show.
#[derive(Clone, Debug)]
pub struct Process {
    /// Name of the program.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Start, by the clock on the wall.
    pub started: Timestamp,
    /// Start, for its age.
    pub begun: Instant,
    /// The configuration in effect, in JSON.
    pub config: String,
    /// Flags with their values, those that are not given included.
    pub flags: BTreeMap<String, String>,
}

impl Process {
    /// Body of `/statusz`.
    pub(crate) fn statusz(&self, now: Instant) -> String {
        let Process { name, version, .. } = self;
        let started = self.started.strftime("%a %b %e %H:%M:%S UTC %Y");
        let up = age(now.saturating_duration_since(self.begun));
        let paths = PATHS.join(" ");
        format!(
            "\n{name} statusz\n{WARNING}\n\nStarted: {started}\nUp: {up}\nBinary version: {version}\nPaths: {paths}\n"
        )
    }

    /// Body of `/flagz`.
    pub(crate) fn flagz(&self) -> String {
        let mut text = format!("\n{} flags\n{WARNING}\n\n", self.name);
        for (flag, value) in &self.flags {
            let _infallible = writeln!(text, "{flag}={value}");
        }
        text
    }
}

/// Body of `/healthz` on the metrics server, which checks nothing but that it answers.
pub(crate) fn ping(query: &str) -> &'static str {
    let is_verbose = query.split('&').any(|part| part == "verbose" || part.starts_with("verbose="));
    if is_verbose { "[+]ping ok\nhealthz check passed\n" } else { "ok" }
}

/// Tells whether a client takes plain text, by its Accept header; without one it takes anything.
pub(crate) fn accepts_text(accept: &str) -> bool {
    let is_text = |range: &str| {
        let kind = range.split(';').next().unwrap_or_default().trim();
        ["*/*", "text/*", "text/plain"].contains(&kind)
    };
    accept.trim().is_empty() || accept.split(',').any(is_text)
}

/// Duration as `/statusz` has it.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    format!("{} hr {:02} min {:02} sec", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A process that began at `begun`.
    pub(crate) fn process(begun: Instant) -> Process {
        let flags = [("proxy-mode", "ipvs"), ("cluster-cidr", ""), ("v", "2")];
        Process {
            name: "kube-ipvs",
            version: "1.2.3",
            started: Timestamp::from_second(1_729_112_623).unwrap(),
            begun,
            config: r#"{"kubeproxy.config.k8s.io":{"mode":"ipvs"}}"#.to_owned(),
            flags: flags.map(|(flag, value)| (flag.to_owned(), value.to_owned())).into(),
        }
    }

    /// Conformance: app TestStatuszRegistryReceivesListedPaths
    #[test]
    fn the_status_has_start_age_version_and_paths() {
        let begun = Instant::now();
        let text = process(begun).statusz(begun + Duration::from_secs(25 * 3600 + 61));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["", "kube-ipvs statusz"]);
        assert!(lines[2].starts_with("Warning: This endpoint is not meant to be machine parseable, has no "));
        assert_eq!(
            lines[3..],
            [
                "",
                "Started: Wed Oct 16 21:03:43 UTC 2024",
                "Up: 25 hr 01 min 01 sec",
                "Binary version: 1.2.3",
                "Paths: /configz /flagz /healthz /metrics /proxyMode /statusz",
            ]
        );
    }

    #[test]
    fn flags_are_sorted() {
        let text = process(Instant::now()).flagz();
        assert!(text.starts_with("\nkube-ipvs flags\nWarning: "), "{text}");
        assert!(text.ends_with(".\n\ncluster-cidr=\nproxy-mode=ipvs\nv=2\n"), "{text}");
    }

    #[test]
    fn text_is_for_whoever_takes_it() {
        let takes = ["", "*/*", "text/*", "text/plain; charset=utf-8", "application/json, text/plain;q=0.5"];
        assert!(takes.iter().all(|accept| accepts_text(accept)));
        let not = ["application/json", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz", "text/html"];
        assert!(!not.iter().any(|accept| accepts_text(accept)));
        assert_eq!(["", "verbose", "exclude=ping&verbose=1"].map(ping).map(str::len), [2, 32, 32]);
    }
}
