//! An OCI image layout in one tar archive: the image, and the bill of materials that refers to it.
//!
//! The index of the layout names one index, which names both: tools that expect one image find one, and a copy
//! of everything (`skopeo copy --all`) takes the bill of materials along.

use std::{collections::BTreeMap, io};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    digest::sha256,
    layer::{Archive, Layer, Node},
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Type of the bill of materials.
pub const SBOM: &str = "application/vnd.cyclonedx+json";

/// Description of the image in its own labels.
#[derive(Debug)]
pub struct About {
    /// Tag, and the name by which container runtimes know an imported image.
    pub tag: String,
    /// Name with which `ctr images import` and `docker load` store the image.
    pub name: String,
    /// Time of the image, in RFC 3339.
    pub created: String,
    /// Labels.
    pub labels: BTreeMap<&'static str, String>,
    /// Command.
    pub entrypoint: &'static str,
}

/// A reference to a blob. Fields of this and of [`Index`] have the order in which Go writes them: skopeo writes an
/// index anew, and gives it another digest if it differs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    digest: String,
    size: usize,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Serialize)]
struct Platform {
    architecture: &'static str,
    os: &'static str,
}

/// A list of manifests.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// A finished layout.
#[derive(Debug)]
pub struct Layout {
    /// Files by path.
    files: BTreeMap<String, Vec<u8>>,
    /// Digest of the index with the image and its bill of materials, by which a registry knows the image.
    pub digest: String,
    /// Digest of the image's manifest.
    pub manifest: String,
}

impl Layout {
    /// Puts an image with one layer, and its bill of materials, into a layout.
    pub fn new(about: &About, layer: Layer, sbom: &Value) -> Self {
        let mut files = Files::default();
        let image = files.add_image(about, layer);
        let sbom = files.add_sbom(about, &image, sbom);
        let manifest = image.digest.clone();
        let mut index = files.add_json(INDEX, &Index::of(vec![image, sbom]));
        index.annotations.extend([
            ("io.containerd.image.name", format!("{}:{}", about.name, about.tag)),
            ("org.opencontainers.image.created", about.created.clone()),
            ("org.opencontainers.image.ref.name", about.tag.clone()),
        ]);
        let digest = index.digest.clone();
        files.0.insert("oci-layout".to_owned(), bytes(&json!({ "imageLayoutVersion": "1.0.0" })));
        files.0.insert("index.json".to_owned(), bytes(&Index::of(vec![index])));
        Self { files: files.0, digest, manifest }
    }

    /// Writes all files into a tar archive.
    pub fn pack(self, time: u64) -> io::Result<Vec<u8>> {
        let mut archive = Archive::new(Vec::new(), time);
        archive.append("blobs", &Node::Folder)?;
        archive.append("blobs/sha256", &Node::Folder)?;
        for (path, contents) in self.files {
            archive.append(&path, &Node::File(contents))?;
        }
        archive.finish()
    }
}

impl Index {
    fn of(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: INDEX, manifests }
    }
}

#[derive(Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// Adds a blob; returns its descriptor.
    fn add(&mut self, media_type: &'static str, contents: Vec<u8>) -> Descriptor {
        let (digits, size) = (sha256(&contents), contents.len());
        self.0.insert(format!("blobs/sha256/{digits}"), contents);
        let digest = format!("sha256:{digits}");
        Descriptor { media_type, digest, size, annotations: BTreeMap::new(), platform: None }
    }

    fn add_json(&mut self, media_type: &'static str, document: &impl Serialize) -> Descriptor {
        self.add(media_type, bytes(document))
    }

    fn add_image(&mut self, about: &About, layer: Layer) -> Descriptor {
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": about.created,
            "config": { "Entrypoint": [about.entrypoint], "Labels": about.labels },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer.tar))] },
            "history": [{ "created": about.created, "created_by": "cargo xtask image" }],
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.add_json(CONFIG, &config),
            "layers": [self.add(LAYER, layer.gzip)],
            "annotations": about.labels,
        });
        let mut descriptor = self.add_json(MANIFEST, &manifest);
        descriptor.platform = Some(Platform { architecture: "amd64", os: "linux" });
        descriptor
    }

    /// Adds the bill of materials as an artifact whose subject is the image.
    fn add_sbom(&mut self, about: &About, image: &Descriptor, sbom: &Value) -> Descriptor {
        let mut layer = self.add_json(SBOM, sbom);
        layer.annotations.insert("org.opencontainers.image.title", "kube-ipvs.cdx.json".to_owned());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": SBOM,
            "config": self.add(EMPTY, b"{}".to_vec()),
            "layers": [layer],
            "subject": Descriptor { platform: None, ..image.clone() },
            "annotations": { "org.opencontainers.image.created": about.created },
        });
        let mut descriptor = self.add_json(MANIFEST, &manifest);
        // No runtime chooses it.
        descriptor.platform = Some(Platform { architecture: "unknown", os: "unknown" });
        descriptor
    }
}

/// Bytes of a document.
fn bytes(document: &impl Serialize) -> Vec<u8> {
    // Writing to memory cannot fail, and the keys of all maps are texts.
    serde_json::to_vec(document).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::image::layer::Tree;

    fn layout() -> Layout {
        let mut tree = Tree::default();
        tree.add("bin/program", Node::Program(b"program".to_vec()));
        let about = About {
            tag: "v1".to_owned(),
            name: "example.com/program".to_owned(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            labels: BTreeMap::from([("org.opencontainers.image.title", "program".to_owned())]),
            entrypoint: "/bin/program",
        };
        Layout::new(&about, tree.pack(0).unwrap(), &json!({ "bomFormat": "CycloneDX" }))
    }

    fn read(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            (entry.path().unwrap().display().to_string(), contents)
        });
        entries.collect()
    }

    /// The document that a descriptor names, after a comparison of its digest and size.
    fn follow(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
        let digits = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let contents = &files[&format!("blobs/sha256/{digits}")];
        assert_eq!(sha256(contents), digits);
        assert_eq!(descriptor["size"], contents.len());
        serde_json::from_slice(contents).unwrap_or_default()
    }

    #[test]
    fn every_descriptor_leads_to_its_blob() {
        let files = read(&layout().pack(0).unwrap());
        assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
        let top: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(top["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(top["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "v1");
        let index = follow(&files, &top["manifests"][0]);
        let manifests: Vec<_> = index["manifests"].as_array().unwrap().iter().collect();
        let [image, sbom] = manifests[..] else { panic!("{index}") };

        let manifest = follow(&files, image);
        let config = follow(&files, &manifest["config"]);
        follow(&files, &manifest["layers"][0]);
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/program"]));
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "program");
        assert!(config["rootfs"]["diff_ids"][0].as_str().unwrap().starts_with("sha256:"));

        let artifact = follow(&files, sbom);
        assert_eq!(artifact["subject"]["digest"], image["digest"]);
        assert_eq!(artifact["artifactType"], SBOM);
        assert_eq!(follow(&files, &artifact["layers"][0])["bomFormat"], "CycloneDX");
    }

    #[test]
    fn an_index_is_as_go_writes_it() {
        let mut files = Files::default();
        let mut blob = files.add(MANIFEST, b"{}".to_vec());
        blob.platform = Some(Platform { architecture: "amd64", os: "linux" });
        let index = String::from_utf8(bytes(&Index::of(vec![blob]))).unwrap();
        let digest = format!("sha256:{}", sha256(b"{}"));
        assert_eq!(
            index,
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{digest}","size":2,"platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#
            )
        );
    }

    #[test]
    fn equal_contents_have_one_digest() {
        let (one, other) = (layout(), layout());
        assert_eq!((&one.digest, &one.manifest), (&other.digest, &other.manifest));
        assert_eq!(one.pack(1).unwrap(), other.pack(1).unwrap());
    }
}
