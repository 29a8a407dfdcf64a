//! Typed values to documents.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::{ConfigFile, Field, Kind};

impl ConfigFile {
    /// Both documents in YAML, with every field.
    pub fn to_yaml(&self) -> String {
        let fields = self.fields();
        let document = |kind: Kind| {
            let fields = fields.iter().filter(|field| field.document == kind);
            format!("apiVersion: {}\nkind: {}\n{}", kind.api_version(), kind.as_str(), render(fields))
        };
        Kind::ALL.map(document).join("---\n")
    }

    /// Both documents in JSON, each under the group of its API, as kube-proxy's `/configz` has its own.
    pub fn to_json(&self) -> String {
        let fields = self.fields();
        let document = |kind: Kind| {
            let mut object = Map::new();
            for field in fields.iter().filter(|field| field.document == kind) {
                insert(&mut object, field);
            }
            object.insert("apiVersion".to_owned(), kind.api_version().into());
            object.insert("kind".to_owned(), kind.as_str().into());
            (kind.group().to_owned(), Value::Object(object))
        };
        Value::Object(Kind::ALL.map(document).into_iter().collect()).to_string()
    }
}

/// Inserts a field at its path.
fn insert(object: &mut Map<String, Value>, field: &Field) {
    let Some(text) = &field.value else { return };
    // Only texts without quotes, such as 30s, are no JSON.
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()));
    let mut sections = field.path.split('.');
    let key = sections.next_back().unwrap_or_default();
    let mut place = object;
    for section in sections {
        let inner = place.entry(section).or_insert_with(|| Value::Object(Map::new()));
        // No field has the path of a section.
        let Value::Object(inner) = inner else { return };
        place = inner;
    }
    place.insert(key.to_owned(), value);
}

/// One line for each field, and one before the first of each section.
fn render<'a>(fields: impl Iterator<Item = &'a Field>) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for field in fields {
        let Some(value) = &field.value else { continue };
        let mut sections: Vec<&str> = field.path.split('.').collect();
        let key = sections.pop().unwrap_or_default();
        let same = sections.iter().zip(&open).take_while(|(new, old)| new == old).count();
        for (depth, section) in sections.iter().enumerate().skip(same) {
            let _infallible = writeln!(text, "{:1$}{section}:", "", 2 * depth);
        }
        let _infallible = writeln!(text, "{:1$}{key}: {value}", "", 2 * sections.len());
        open = sections;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::VModule;

    #[test]
    fn json_has_every_field_at_its_path() {
        let mut file = ConfigFile::default();
        file.proxy.feature_gates.insert("AllowServiceExternalIPs".to_owned(), false);
        file.proxy.ipvs.sync_period = Duration::from_secs(90);
        file.proxy.logging.vmodule = vec![VModule { file_pattern: "a\"b".to_owned(), verbosity: 3 }];
        file.proxy.hostname_override = "true".to_owned();
        file.ipvs.service_cidrs = Some(vec!["10.96.0.0/16".to_owned()]);
        let json: Value = serde_json::from_str(&file.to_json()).unwrap();
        let has = |path: &str, value: Value| assert_eq!(json.pointer(path), Some(&value), "{path}");
        let (proxy, ours) = ("/kubeproxy.config.k8s.io", "/kube-ipvs.io");
        has(&format!("{proxy}/kind"), "KubeProxyConfiguration".into());
        has(&format!("{proxy}/apiVersion"), "kubeproxy.config.k8s.io/v1alpha1".into());
        has(&format!("{proxy}/featureGates/AllowServiceExternalIPs"), false.into());
        has(&format!("{proxy}/ipvs/syncPeriod"), "1m30s".into());
        has(&format!("{proxy}/conntrack/maxPerCore"), 32768.into());
        has(&format!("{proxy}/hostnameOverride"), "true".into());
        has(&format!("{proxy}/logging/vmodule/0/filePattern"), "a\"b".into());
        has(&format!("{proxy}/logging/options/text/infoBufferSize"), "0".into());
        has(&format!("{ours}/serviceCIDRs/0"), "10.96.0.0/16".into());
        assert_eq!(json.pointer(&format!("{ours}/manifests")), None, "what is unset is left out");
    }
}
