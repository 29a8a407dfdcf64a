//! The bill of materials: everything that is linked into the program, in the format CycloneDX.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

/// The program and its components.
#[derive(Debug)]
pub struct Inventory {
    /// Name of the program's package.
    pub program: &'static str,
    /// Checksum of the program.
    pub sha256: String,
    /// Time of the image, in RFC 3339.
    pub created: String,
    /// Crates of the program and what they depend on.
    pub crates: Metadata,
    /// Identifiers of the crates that are linked in.
    pub linked: BTreeSet<String>,
    /// Checksums of crates from the registry, by name and version.
    pub checksums: BTreeMap<(String, String), String>,
    /// Libraries that no crate is.
    pub libraries: Vec<Library>,
}

/// A library in C, or the standard library.
#[derive(Debug)]
pub struct Library {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SPDX expression of its licence.
    pub license: String,
    /// Checksum of what was built or linked.
    pub sha256: Option<String>,
    /// Where its source is.
    pub source: Option<String>,
    /// Crate that links it; the program itself if there is none.
    pub used_by: Option<&'static str>,
}

/// Output of `cargo metadata`, as far as it is of use here.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// Registry; `None` for packages of the workspace.
    source: Option<String>,
    repository: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Debug, Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Debug, Deserialize)]
struct EdgeKind {
    /// `dev` or `build`; `None` for an ordinary dependency.
    kind: Option<String>,
}

impl Inventory {
    /// Renders the document.
    pub fn render(&self) -> Value {
        let linked = || self.crates.packages.iter().filter(|package| self.linked.contains(&package.id));
        let (program, crates): (Vec<_>, Vec<_>) = linked().partition(|package| package.name == self.program);
        let program = program.into_iter().next().map(|package| self.program(package));
        let crates = crates.into_iter().map(|package| self.component(package));
        let mut components: Vec<_> = crates.chain(self.libraries.iter().map(Library::component)).collect();
        components.sort_by_key(reference);
        json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": { "timestamp": self.created, "component": program },
            "components": components,
            "dependencies": self.dependencies(),
        })
    }

    fn program(&self, package: &Package) -> Value {
        let mut component = self.component(package);
        component["type"] = json!("application");
        component["hashes"] = hashes(&self.sha256);
        component
    }

    fn component(&self, package: &Package) -> Value {
        let Package { name, version, license, source, repository, .. } = package;
        let mut component = json!({
            "type": "library",
            "bom-ref": package.reference(),
            "name": name,
            "version": version,
        });
        if let Some(license) = license {
            component["licenses"] = licenses(license);
        }
        if source.is_some() {
            component["purl"] = json!(format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")));
        }
        if let Some(checksum) = self.checksums.get(&(name.clone(), version.clone())) {
            component["hashes"] = hashes(checksum);
        }
        if let Some(url) = repository {
            component["externalReferences"] = json!([{ "type": "vcs", "url": url }]);
        }
        component
    }

    /// Direct dependencies of each component; of crates, only those that are linked in.
    fn dependencies(&self) -> Vec<Value> {
        let packages = self.crates.packages.iter().map(|package| (package.id.as_str(), package));
        let packages: BTreeMap<_, _> = packages.collect();
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in self.crates.resolve.nodes.iter().filter(|node| self.linked.contains(&node.id)) {
            let Some(package) = packages.get(node.id.as_str()) else { continue };
            let used = node.deps.iter().filter(|edge| edge.is_ordinary() && self.linked.contains(&edge.pkg));
            let used = used.filter_map(|edge| packages.get(edge.pkg.as_str()));
            let mut used: BTreeSet<_> = used.map(|package| package.reference()).collect();
            let libraries = self.libraries.iter();
            let libraries =
                libraries.filter(|library| library.used_by.unwrap_or(self.program) == package.name);
            used.extend(libraries.map(Library::reference));
            all.insert(package.reference(), used);
        }
        let libraries = self.libraries.iter().map(|library| (library.reference(), BTreeSet::new()));
        all.extend(libraries);
        all.into_iter().map(|(from, to)| json!({ "ref": from, "dependsOn": to })).collect()
    }
}

impl Package {
    /// Name within the document.
    fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

impl Edge {
    fn is_ordinary(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.is_none())
    }
}

impl Library {
    fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    fn component(&self) -> Value {
        let mut component = json!({
            "type": "library",
            "bom-ref": self.reference(),
            "name": self.name,
            "version": self.version,
            "licenses": licenses(&self.license),
            "purl": format!("pkg:generic/{}@{}", self.name, self.version),
        });
        if let Some(checksum) = &self.sha256 {
            component["hashes"] = hashes(checksum);
        }
        if let Some(url) = &self.source {
            component["externalReferences"] = json!([{ "type": "source-distribution", "url": url }]);
        }
        component
    }
}

fn reference(component: &Value) -> String {
    component["bom-ref"].as_str().unwrap_or_default().to_owned()
}

fn hashes(sha256: &str) -> Value {
    json!([{ "alg": "SHA-256", "content": sha256 }])
}

/// Old manifests have a slash for `OR`.
fn licenses(expression: &str) -> Value {
    json!([{ "expression": expression.replace('/', " OR ") }])
}

/// Reads the checksums of a `Cargo.lock`.
pub fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let packages = lock.split("[[package]]").filter_map(|package| {
        let field = |name: &str| {
            let value = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
            Some(value.trim_matches('"').to_owned())
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    });
    packages.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"used\"\nversion = \"1.2.0\"\n\
        source = \"registry\"\nchecksum = \"aa\"\n\n[[package]]\nname = \"program\"\nversion = \"0.1.0\"\n";

    fn package(id: &str, license: &str, source: Option<&str>) -> Value {
        let (name, version) = id.split_once('@').unwrap();
        json!({ "id": id, "name": name, "version": version, "license": license, "source": source,
            "repository": null })
    }

    fn inventory() -> Inventory {
        let edge = |id: &str, kind: Option<&str>| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        let crates = json!({
            "packages": [
                package("program@0.1.0", "Apache-2.0", None),
                package("used@1.2.0", "MIT/Apache-2.0", Some("registry")),
                package("unused@1.0.0", "MIT", Some("registry")),
            ],
            "resolve": { "nodes": [
                { "id": "program@0.1.0", "deps": [
                    edge("used@1.2.0", None), edge("unused@1.0.0", Some("dev")) ] },
                { "id": "used@1.2.0", "deps": [edge("unused@1.0.0", Some("build"))] },
                { "id": "unused@1.0.0", "deps": [] },
            ] },
        });
        Inventory {
            program: "program",
            sha256: "ff".to_owned(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            crates: serde_json::from_value(crates).unwrap(),
            linked: ["program@0.1.0", "used@1.2.0"].map(str::to_owned).into(),
            checksums: checksums(LOCK),
            libraries: vec![Library {
                name: "libc".to_owned(),
                version: "3".to_owned(),
                license: "MIT".to_owned(),
                sha256: Some("bb".to_owned()),
                source: None,
                used_by: Some("used"),
            }],
        }
    }

    #[test]
    fn what_is_linked_in_is_listed_and_nothing_else() {
        let sbom = inventory().render();
        assert_eq!(sbom["metadata"]["component"]["name"], "program");
        assert_eq!(sbom["metadata"]["component"]["hashes"][0]["content"], "ff");
        let components = sbom["components"].as_array().unwrap();
        let names: Vec<_> = components.iter().map(reference).collect();
        assert_eq!(names, ["libc@3", "used@1.2.0"]);
        assert_eq!(components[1]["purl"], "pkg:cargo/used@1.2.0");
        assert_eq!(components[1]["hashes"][0]["content"], "aa");
        assert_eq!(components[1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(
            sbom["dependencies"],
            json!([
                { "ref": "libc@3", "dependsOn": [] },
                { "ref": "program@0.1.0", "dependsOn": ["used@1.2.0"] },
                { "ref": "used@1.2.0", "dependsOn": ["libc@3"] },
            ])
        );
    }
}
