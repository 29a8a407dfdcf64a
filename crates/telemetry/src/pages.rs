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
use serde_json::{Value, json};

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

    /// The same facts as an object. There is no Go here to have a version.
    pub(crate) fn statusz_object(&self, now: Instant, version: Version) -> Value {
        json!({
            "kind": "Statusz",
            "apiVersion": format!("config.k8s.io/{}", version.name()),
            "metadata": { "name": self.name },
            "startTime": self.started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "uptimeSeconds": now.saturating_duration_since(self.begun).as_secs(),
            "goVersion": "",
            "binaryVersion": self.version,
            "paths": PATHS,
        })
    }

    /// Flags as an object.
    pub(crate) fn flagz_object(&self, version: Version) -> Value {
        json!({
            "kind": "Flagz",
            "apiVersion": format!("config.k8s.io/{}", version.name()),
            "metadata": { "name": self.name },
            "flags": self.flags,
        })
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

/// Form of `/statusz` and `/flagz` that a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Plain text, for people.
    Text,
    /// An object of `config.k8s.io` in this version.
    Object(Version, Encoding),
}

/// Version of an object; the first one is deprecated (component-base/zpages).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1Alpha1,
    V1Beta1,
}

/// Encoding of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Version::V1Alpha1 => "v1alpha1",
            Version::V1Beta1 => "v1beta1",
        }
    }
}

impl Encoding {
    /// Media type.
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }
}

/// Page with a structured form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Statusz,
    Flagz,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Statusz => "Statusz",
            Kind::Flagz => "Flagz",
        }
    }

    /// Chooses the form by an Accept header; without one a client takes anything. An object must be asked for with its
    /// group, version and kind, as in `application/json;v=v1beta1;g=config.k8s.io;as=Statusz`.
    pub(crate) fn negotiate(self, accept: &str) -> Option<Form> {
        if accept.trim().is_empty() {
            return Some(Form::Text);
        }
        let ranges = accept.split(',').map(MediaRange::new).filter(|range| range.quality > 0.0);
        let mut offers: Vec<(f32, Form)> =
            ranges.filter_map(|range| Some((range.quality, self.form(&range)?))).collect();
        // The first of the best: the sort is stable.
        offers.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        offers.first().map(|(_, form)| *form)
    }

    fn form(self, range: &MediaRange<'_>) -> Option<Form> {
        let encoding = match range.kind {
            "*/*" | "text/*" | "text/plain" => return Some(Form::Text),
            "application/json" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => return None,
        };
        let named = |name| range.parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        if (named("g"), named("as")) != (Some("config.k8s.io"), Some(self.name())) {
            return None;
        }
        let versions = [Version::V1Alpha1, Version::V1Beta1];
        let version = versions.into_iter().find(|version| Some(version.name()) == named("v"))?;
        Some(Form::Object(version, encoding))
    }

    /// Text of a Warning header, where a version is deprecated.
    pub(crate) fn warning(self, version: Version) -> Option<String> {
        let kind = self.name();
        (version == Version::V1Alpha1).then(|| {
            format!("299 - \"config.k8s.io/v1alpha1 {kind} is deprecated; use config.k8s.io/v1beta1 {kind}\"")
        })
    }
}

/// One part of an Accept header.
struct MediaRange<'a> {
    kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> MediaRange<'a> {
    fn new(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
        let quality =
            parameters.iter().find(|(key, _)| *key == "q").map_or(Ok(1.0), |(_, value)| value.parse());
        MediaRange { kind, parameters, quality: quality.unwrap_or(0.0) }
    }
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
    fn the_form_is_what_the_client_takes_best() {
        let form = |accept: &str| Kind::Statusz.negotiate(accept);
        for text in ["", "*/*", "text/*", "text/plain; charset=utf-8", "application/json, text/plain;q=0.5"] {
            assert_eq!(form(text), Some(Form::Text), "{text}");
        }
        let json = "application/json;v=v1beta1;g=config.k8s.io;as=Statusz";
        let object = |version, encoding| Some(Form::Object(version, encoding));
        assert_eq!(form(json), object(Version::V1Beta1, Encoding::Json));
        assert_eq!(
            form(&format!("text/plain;q=0.5, {}", json.replace("beta", "alpha").replace("json", "yaml"))),
            object(Version::V1Alpha1, Encoding::Yaml)
        );
        assert_eq!(form(&format!("text/plain, {json}")), Some(Form::Text), "the first of equals");
        let others =
            ["application/json", "text/html", "text/plain;q=0", "application/cbor", "text/plain;q=x"];
        let wrong = [("Statusz", "Flagz"), ("v1beta1", "v2"), ("config.k8s.io", "apps")];
        let wrong = wrong.map(|(part, other)| json.replace(part, other));
        for none in others.into_iter().chain(wrong.iter().map(String::as_str)) {
            assert_eq!(form(none), None, "{none}");
        }
        assert_eq!(["", "verbose", "exclude=ping&verbose=1"].map(ping).map(str::len), [2, 32, 32]);
    }

    #[test]
    fn objects_have_the_same_facts() {
        let begun = Instant::now();
        let process = process(begun);
        let status = process.statusz_object(begun + Duration::from_secs(61), Version::V1Beta1);
        assert_eq!(
            status,
            json!({
                "kind": "Statusz",
                "apiVersion": "config.k8s.io/v1beta1",
                "metadata": { "name": "kube-ipvs" },
                "startTime": "2024-10-16T21:03:43Z",
                "uptimeSeconds": 61,
                "goVersion": "",
                "binaryVersion": "1.2.3",
                "paths": PATHS,
            })
        );
        let flags = process.flagz_object(Version::V1Alpha1);
        assert_eq!(
            (&flags["apiVersion"], &flags["kind"]),
            (&json!("config.k8s.io/v1alpha1"), &json!("Flagz"))
        );
        assert_eq!(flags["flags"], json!({ "cluster-cidr": "", "proxy-mode": "ipvs", "v": "2" }));
        assert!(Kind::Flagz.warning(Version::V1Alpha1).is_some_and(|text| text.starts_with("299 - \"")));
        assert_eq!(Kind::Flagz.warning(Version::V1Beta1), None);
    }
}
