//! Configuration files: the text of `KubeProxyConfiguration` and `KubeIpvsConfiguration` documents to typed values, and
//! back.
//!
//! Reading is as tolerant as Go is in kube-proxy: null means the default, and so does zero in most fields; unknown
//! fields and duplicates are warned about. The crate deliberately opens no file and does not judge values beyond their
//! type: flags have the same meanings, and one place checks both.
//!
//! Reading order: [`ConfigFile`], [`ConfigFile::parse`], [`Problem`]; then `schema` (a declaration is all there is to a
//! field), `kube_proxy`, `kube_ipvs`, `value` (types of fields), [`go`] (spellings of flags), `tree` (YAML with lines) and `render`.

pub mod go;
mod kube_ipvs;
mod kube_proxy;
mod read;
mod render;
mod schema;
mod tree;
mod value;

use std::fmt;

use schema::{Leaf, Section as _};

pub use kube_ipvs::KubeIpvsConfiguration;
pub use kube_proxy::{
    ClientConnection, Conntrack, DetectLocal, Iptables, Ipvs, JsonOptions, KubeProxyConfiguration, Logging,
    LoggingOptions, Nftables, TextOptions, Winkernel,
};
pub use read::{InvalidFile, Parsed};
pub use value::{MaybeNanoseconds, VModule};

/// The documents of a configuration file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigFile {
    /// Settings that kube-proxy has as well.
    pub proxy: KubeProxyConfiguration,
    /// Settings of kube-ipvs alone.
    pub ipvs: KubeIpvsConfiguration,
}

/// Kind of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `KubeProxyConfiguration`.
    KubeProxy,
    /// `KubeIpvsConfiguration`.
    KubeIpvs,
}

/// A field of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Document that has it.
    pub document: Kind,
    /// Path in the document: `ipvs.syncPeriod`.
    pub path: String,
    /// Flag with the same meaning, without dashes.
    pub flag: Option<&'static str>,
    /// Meaning, in a sentence.
    pub meaning: &'static str,
    /// Value in YAML; `None` where a field of ours is unset.
    pub value: Option<String>,
    /// Values of the flag that mean the same, none where a field of ours is unset.
    pub flag_values: Vec<String>,
    /// True for booleans.
    pub is_switch: bool,
    /// True if only null means the default, and zero is a value.
    pub zero_counts: bool,
}

/// A fault or an oddity in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// Path of the field, empty for the document.
    pub path: String,
    /// The mistake and its remedy.
    pub message: String,
}

impl Problem {
    /// A problem of a document.
    fn at(line: usize, message: String) -> Self {
        Problem { line, path: String::new(), message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl Kind {
    /// All kinds in the order in which they are written.
    pub const ALL: [Kind; 2] = [Kind::KubeProxy, Kind::KubeIpvs];

    /// Value of `kind` in the document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::KubeProxy => "KubeProxyConfiguration",
            Kind::KubeIpvs => "KubeIpvsConfiguration",
        }
    }

    /// Group of its API.
    pub fn group(self) -> &'static str {
        self.api_version().split('/').next().unwrap_or_default()
    }

    /// Value of `apiVersion` in the document.
    pub const fn api_version(self) -> &'static str {
        match self {
            Kind::KubeProxy => "kubeproxy.config.k8s.io/v1alpha1",
            Kind::KubeIpvs => "kube-ipvs.io/v1alpha1",
        }
    }
}

impl ConfigFile {
    /// Every field with its value, in the order in which they are written.
    pub fn fields(&self) -> Vec<Field> {
        let mut fields = Vec::new();
        for document in Kind::ALL {
            self.clone().visit(document, &mut |leaf| {
                fields.push(Field {
                    document,
                    flag: leaf.flag,
                    meaning: leaf.meaning,
                    value: leaf.value.yaml(),
                    flag_values: leaf.value.flag(),
                    is_switch: leaf.value.is_switch(),
                    zero_counts: leaf.zero_counts,
                    path: leaf.path,
                });
            });
        }
        fields
    }

    /// Sets the field of a flag to the flag's values. An error is about these values.
    pub fn set_flag(&mut self, flag: &str, values: &[String]) -> Result<(), String> {
        let mut result = Ok(());
        for document in Kind::ALL {
            self.visit(document, &mut |leaf| {
                if leaf.flag == Some(flag) {
                    result = leaf.value.take_flag(values);
                }
            });
        }
        result
    }

    fn visit(&mut self, document: Kind, visitor: &mut dyn FnMut(Leaf<'_>)) {
        match document {
            Kind::KubeProxy => self.proxy.visit("", visitor),
            Kind::KubeIpvs => self.ipvs.visit("", visitor),
        }
    }
}
