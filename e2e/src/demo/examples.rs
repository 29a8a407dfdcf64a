//! Copy of the example manifests, edited the way a cluster would edit them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::net::{Both, pod_address};

/// A directory of manifests and its contents.
pub struct Examples {
    /// Documents by file.
    files: BTreeMap<PathBuf, Vec<Value>>,
}

impl Examples {
    /// Copies all manifests of `source` to `target`.
    pub fn copy(source: &Path, target: &Path) -> Result<Examples> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(source).with_context(|| format!("read {}", source.display()))? {
            let path = entry?.path();
            let Some(name) = path.file_name().filter(|_| is_manifest(&path)) else { continue };
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let documents =
                serde_saphyr::from_multiple(&text).with_context(|| format!("parse {}", path.display()))?;
            fs::write(target.join(name), text)?;
            files.insert(target.join(name), documents);
        }
        if files.is_empty() {
            bail!("{} has no manifests", source.display());
        }
        Ok(Examples { files })
    }

    fn documents(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.files.values().flatten().filter(move |document| document["kind"] == kind)
    }

    /// Addresses of the Service with its first TCP port.
    pub fn addresses(&self, service: &str) -> Result<Vec<SocketAddr>> {
        let document = self.documents("Service").find(|document| document["metadata"]["name"] == service);
        let spec = &document.with_context(|| format!("the examples have no Service {service}"))?["spec"];
        let ports = spec["ports"].as_array().into_iter().flatten();
        let tcp = |port: &&Value| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
        let port = ports.clone().find(tcp).and_then(|port| port["port"].as_u64());
        let port = port.with_context(|| format!("Service {service} has no TCP port"))?;
        let ips = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let addresses: Vec<_> = ips
            .map(|ip| anyhow::Ok(SocketAddr::new(ip.parse()?, u16::try_from(port)?)))
            .collect::<Result<_>>()?;
        if addresses.is_empty() {
            bail!("Service {service} has no clusterIPs");
        }
        Ok(addresses)
    }

    /// Names and numbers of the pods behind the Service, from its IPv4 slices: 10.244.0.11 is number 11.
    pub fn pods(&self, service: &str) -> Result<Vec<(String, u8)>> {
        let mut pods = BTreeMap::new();
        for slice in self.documents("EndpointSlice") {
            if slice["metadata"]["labels"]["kubernetes.io/service-name"] != service {
                continue;
            }
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let Some(IpAddr::V4(ip)) = address(endpoint) else { continue };
                let number = ip.octets()[3];
                if pod_address(number).v4 != ip {
                    bail!("the demo can only make pods in 10.244.0.0/24, not {ip}");
                }
                let name = endpoint["targetRef"]["name"]
                    .as_str()
                    .map_or_else(|| format!("pod-{number}"), str::to_owned);
                pods.insert(number, name);
            }
        }
        if pods.is_empty() {
            bail!("Service {service} has no endpoints in IPv4 slices");
        }
        Ok(pods.into_iter().map(|(number, name)| (name, number)).collect())
    }

    /// Every port that some slice wants a pod to listen on.
    pub fn target_ports(&self) -> Vec<u16> {
        let ports =
            self.documents("EndpointSlice").flat_map(|slice| slice["ports"].as_array().into_iter().flatten());
        let ports: BTreeSet<u16> =
            ports.filter_map(|port| port["port"].as_u64()).filter_map(|port| port.try_into().ok()).collect();
        ports.into_iter().collect()
    }

    /// Adds `new` as an endpoint wherever `old` is one.
    pub fn add_like(&mut self, old: Both, new: Both, name: &str) -> Result<()> {
        self.edit(old, |endpoints, at| {
            let mut endpoint = endpoints[at].clone();
            let ip = new.like(address(&endpoint).expect("found by its address"));
            endpoint["addresses"] = json!([ip.to_string()]);
            endpoint["conditions"] = json!({"ready": true, "serving": true, "terminating": false});
            endpoint["targetRef"] =
                json!({"kind": "Pod", "namespace": "default", "name": name, "uid": format!("uid-{name}")});
            endpoints.push(endpoint);
        })
    }

    /// Marks the pod as being deleted: no longer ready, still serving.
    pub fn terminate(&mut self, pod: Both) -> Result<()> {
        self.edit(pod, |endpoints, at| {
            endpoints[at]["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
        })
    }

    /// Removes the pod from all slices.
    pub fn remove(&mut self, pod: Both) -> Result<()> {
        self.edit(pod, |endpoints, at| drop(endpoints.remove(at)))
    }

    /// Changes every slice that has `pod` as an endpoint, and replaces the files of those slices.
    fn edit(&mut self, pod: Both, change: impl Fn(&mut Vec<Value>, usize)) -> Result<()> {
        for (path, documents) in &mut self.files {
            let mut changed = false;
            for slice in documents.iter_mut().filter(|document| document["kind"] == "EndpointSlice") {
                let Some(endpoints) = slice["endpoints"].as_array_mut() else { continue };
                let at = endpoints
                    .iter()
                    .position(|endpoint| address(endpoint).is_some_and(|ip| pod.contains(ip)));
                if let Some(at) = at {
                    change(endpoints, at);
                    changed = true;
                }
            }
            if changed {
                testkit::write_atomic(path, &serde_saphyr::to_string_multiple(documents)?)?;
            }
        }
        Ok(())
    }
}

fn is_manifest(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

fn address(endpoint: &Value) -> Option<IpAddr> {
    endpoint["addresses"][0].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use testkit::TempDir;

    use super::Examples;
    use crate::manifest::{Manifests, Service, render_slice};
    use crate::net::{cluster_ip, pod_address};
    use crate::probe::Proto;

    /// Makes two slices of one Service in a file of several documents, written without any pod.
    fn examples() -> (TempDir, TempDir) {
        let source = TempDir::new("examples");
        let manifests = Manifests::new(source.path());
        let service = Service::new("web", cluster_ip(80), &[Proto::Udp, Proto::Tcp]);
        manifests.service(&service);
        let slices = [true, false].map(|v4| {
            let ip = pod_address(11).each()[usize::from(!v4)];
            let endpoint =
                format!("endpoints:\n- addresses: [{:?}]\n  targetRef: {{name: web-1}}\n", ip.to_string());
            render_slice(&service, "x", v4, &[]).replace("endpoints: []\n", &endpoint)
        });
        manifests.write("slices.yaml", &slices.join("---\n"));
        (source, TempDir::new("copy"))
    }

    #[test]
    fn the_examples_say_what_to_build() {
        let (source, target) = examples();
        let examples = Examples::copy(source.path(), target.path()).unwrap();
        assert_eq!(examples.addresses("web").unwrap(), cluster_ip(80).port(80));
        assert_eq!(examples.pods("web").unwrap(), [("web-1".to_owned(), 11)]);
        assert_eq!(examples.target_ports(), [8080]);
        assert!(examples.addresses("other").is_err());
    }

    #[test]
    fn edits_reach_the_files() {
        let (source, target) = examples();
        let mut examples = Examples::copy(source.path(), target.path()).unwrap();
        examples.add_like(pod_address(11), pod_address(21), "web-new").unwrap();
        examples.terminate(pod_address(11)).unwrap();
        let text = std::fs::read_to_string(target.path().join("slices.yaml")).unwrap();
        for part in ["10.244.0.11", "10.244.0.21", "fd00:244::21", "web-new", "terminating: true"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        examples.remove(pod_address(11)).unwrap();
        let again = Examples::copy(target.path(), TempDir::new("again").path()).unwrap();
        assert_eq!(again.pods("web").unwrap(), [("web-new".to_owned(), 21)]);
    }
}
