//! The directory that kube-ipvs follows: Services, EndpointSlices and the Node as YAML, one file each.

use std::{
    fmt::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::{
    net::{Both, NODE, Pod},
    probe::Proto,
};

/// Name of the node, as given by `--hostname-override`.
pub const NODE_NAME: &str = "demo-node";

/// Name of the Node's file.
pub const NODE_FILE: &str = "node.yaml";

/// A port of a Service and of its slices.
#[derive(Debug, Clone)]
pub struct Port {
    /// Name of the port.
    pub name: String,
    /// Transport.
    pub proto: Proto,
    /// Port of the Service.
    pub port: u16,
    /// Port of the pods.
    pub target: u16,
}

impl Port {
    /// Port 80 to 8080 of the given transport, named after it.
    pub fn web(proto: Proto) -> Port {
        Port { name: proto.to_string().to_lowercase(), proto, port: 80, target: 8080 }
    }
}

/// A Service with ClusterIPs.
#[derive(Debug, Clone)]
pub struct Service {
    /// Name, in the namespace `default`.
    pub name: String,
    /// ClusterIPs, first the primary one.
    pub ips: Vec<IpAddr>,
    /// Ports of the Service.
    pub ports: Vec<Port>,
    /// Node port of all ports; only one port of each transport can have it.
    pub node_port: Option<u16>,
    /// Policy for the traffic from outside.
    pub external_policy: &'static str,
    /// Port at which a load balancer asks for the endpoints of the node.
    pub health_check_port: Option<u16>,
    /// Annotations.
    pub annotations: Vec<(String, String)>,
    /// Lines added to the spec, indented by two blanks.
    pub spec: String,
    /// Lines added below the spec.
    pub status: String,
}

impl Service {
    /// A dual-stack Service with ports 80 of the given transports.
    pub fn new(name: &str, ips: Both, protos: &[Proto]) -> Service {
        Service {
            name: name.to_owned(),
            ips: ips.each().to_vec(),
            ports: protos.iter().copied().map(Port::web).collect(),
            node_port: None,
            external_policy: "",
            health_check_port: None,
            annotations: Vec::new(),
            spec: String::new(),
            status: String::new(),
        }
    }

    /// Adds external addresses with a policy for the traffic to them.
    pub fn with_external_ips(mut self, ips: Both, policy: &'static str) -> Service {
        let [v4, v6] = ips.each().map(|ip| format!("{:?}", ip.to_string()));
        let _ = writeln!(self.spec, "  externalIPs: [{v4}, {v6}]");
        self.external_policy = policy;
        self
    }

    /// Adds a port at which a load balancer asks for the endpoints of the node.
    pub fn with_health_check(mut self, port: u16) -> Service {
        self.health_check_port = Some(port);
        self
    }

    /// Adds ingress IPs of a load balancer with a policy for the traffic to them, and clients that may connect.
    pub fn with_balancer(mut self, ips: Both, policy: &'static str, source_ranges: &[&str]) -> Service {
        let ranges: Vec<_> = source_ranges.iter().map(|range| format!("{range:?}")).collect();
        self.external_policy = policy;
        let _ = writeln!(self.spec, "  loadBalancerSourceRanges: [{}]", ranges.join(", "));
        let [v4, v6] = ips.each().map(|ip| format!("{{ip: {:?}}}", ip.to_string()));
        let _ = writeln!(self.status, "status:\n  loadBalancer:\n    ingress: [{v4}, {v6}]");
        self
    }

    /// Says how its ingress IPs work: `VIP` or `Proxy`.
    pub fn with_ip_mode(mut self, mode: &str) -> Service {
        self.status = self.status.replace("\"}", &format!("\", ipMode: {mode}}}"));
        self
    }

    /// Adds a node port with a policy for the traffic to it.
    pub fn with_node_port(mut self, node_port: u16, policy: &'static str) -> Service {
        self.node_port = Some(node_port);
        self.external_policy = policy;
        self
    }

    /// Adds `sessionAffinity: ClientIP`.
    pub fn with_affinity(mut self, seconds: u32) -> Service {
        let _ = writeln!(self.spec, "  sessionAffinity: ClientIP");
        let _ =
            writeln!(self.spec, "  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: {seconds}");
        self
    }

    /// Adds `internalTrafficPolicy`.
    pub fn with_internal_policy(mut self, policy: &str) -> Service {
        let _ = writeln!(self.spec, "  internalTrafficPolicy: {policy}");
        self
    }

    /// Leaves it only these addresses.
    pub fn with_ips(mut self, ips: &[IpAddr]) -> Service {
        self.ips = ips.to_vec();
        self
    }

    /// Gives it these ports.
    pub fn with_ports(mut self, ports: &[Port]) -> Service {
        self.ports = ports.to_vec();
        self
    }

    /// Adds an annotation.
    pub fn with_annotation(mut self, key: &str, value: &str) -> Service {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    fn families(&self) -> Vec<&'static str> {
        self.ips.iter().map(|ip| family(*ip)).collect()
    }

    /// Renders it as YAML.
    pub fn render(&self) -> String {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  namespace: default\n  name: {}\n  uid: uid-{}\n",
            self.name, self.name
        );
        if !self.annotations.is_empty() {
            text.push_str("  annotations:\n");
        }
        for (key, value) in &self.annotations {
            let _ = writeln!(text, "    {key}: {value:?}");
        }
        let families = self.families();
        let policy = if families.len() == 2 { "RequireDualStack" } else { "SingleStack" };
        let kind = match (self.status.is_empty(), self.node_port) {
            (false, _) => "LoadBalancer",
            (true, Some(_)) => "NodePort",
            (true, None) => "ClusterIP",
        };
        let _ = writeln!(text, "spec:\n  type: {kind}\n  selector:\n    app: {}", self.name);
        let _ = writeln!(text, "  clusterIP: {:?}", self.ips[0].to_string());
        let ips: Vec<_> = self.ips.iter().map(|ip| format!("{:?}", ip.to_string())).collect();
        let _ = writeln!(text, "  clusterIPs: [{}]", ips.join(", "));
        let _ =
            writeln!(text, "  ipFamilies: [{}]\n  ipFamilyPolicy: {policy}\n  ports:", families.join(", "));
        for Port { name, proto, port, target } in &self.ports {
            let _ = writeln!(text, "  - name: {name}\n    protocol: {proto}\n    port: {port}");
            let _ = writeln!(text, "    targetPort: {target}");
            if let Some(node_port) = self.node_port {
                let _ = writeln!(text, "    nodePort: {node_port}");
            }
        }
        if !self.external_policy.is_empty() {
            let _ = writeln!(text, "  externalTrafficPolicy: {}", self.external_policy);
        }
        if let Some(port) = self.health_check_port {
            let _ = writeln!(text, "  healthCheckNodePort: {port}");
        }
        text.push_str(&self.spec);
        text.push_str(&self.status);
        text
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// An endpoint and its conditions.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Name of the pod, as the slice's targetRef has it.
    pub pod: String,
    /// Addresses of the pod; a slice takes the one of its family.
    pub address: Both,
    /// True if it is ready for new connections.
    pub ready: bool,
    /// True if it answers, whether ready or not.
    pub serving: bool,
    /// True if it is being deleted.
    pub terminating: bool,
    /// Node of the pod, as the slice has it.
    pub node: &'static str,
    /// Hints of the slice in YAML's flow style; empty for none.
    pub hints: String,
}

impl Endpoint {
    /// A ready endpoint.
    pub fn ready(pod: &Pod) -> Endpoint {
        Endpoint {
            pod: pod.name.clone(),
            address: pod.address,
            ready: true,
            serving: true,
            terminating: false,
            node: NODE_NAME,
            hints: String::new(),
        }
    }

    /// An endpoint that is being deleted but still answers, as during a grace period.
    pub fn terminating(pod: &Pod) -> Endpoint {
        Endpoint { ready: false, terminating: true, ..Endpoint::ready(pod) }
    }

    /// An endpoint that lives but fails its readiness probe.
    pub fn unready(pod: &Pod) -> Endpoint {
        Endpoint { ready: false, serving: false, ..Endpoint::ready(pod) }
    }
}

/// Renders an EndpointSlice of one family.
pub fn render_slice(service: &Service, suffix: &str, v4: bool, endpoints: &[Endpoint]) -> String {
    let kind = if v4 { "IPv4" } else { "IPv6" };
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: default\n  name: {name}-{suffix}\n  \
         labels:\n    kubernetes.io/service-name: {name}\naddressType: {kind}\nports:\n",
        name = service.name,
    );
    for Port { name, proto, target, .. } in &service.ports {
        let _ = writeln!(text, "- name: {name}\n  protocol: {proto}\n  port: {target}");
    }
    text.push_str(if endpoints.is_empty() { "endpoints: []\n" } else { "endpoints:\n" });
    for endpoint in endpoints {
        let ip = endpoint.address.each()[usize::from(!v4)];
        let Endpoint { pod, ready, serving, terminating, node, hints, .. } = endpoint;
        let _ = writeln!(text, "- addresses: [{:?}]\n  nodeName: {node}", ip.to_string());
        if !hints.is_empty() {
            let _ = writeln!(text, "  hints: {hints}");
        }
        let _ = writeln!(
            text,
            "  conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}"
        );
        let _ = writeln!(
            text,
            "  targetRef: {{kind: Pod, namespace: default, name: {pod:?}, uid: {:?}}}",
            format!("uid-{pod}")
        );
    }
    text
}

/// Renders the Node with the addresses of [`crate::net`].
pub fn render_node() -> String {
    render_node_at(NODE_NAME, NODE, ["10.244.0.0/24", "fd00:244::/64"])
}

/// Renders a Node with these addresses, and ranges for its pods.
pub fn render_node_at(name: &str, address: Both, pods: [&str; 2]) -> String {
    let [v4, v6] = pods;
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\nspec:\n  podCIDR: {v4}\n  \
         podCIDRs: [{v4}, {v6:?}]\nstatus:\n  addresses:\n  - {{type: Hostname, address: {name}}}\n  \
         - {{type: InternalIP, address: {:?}}}\n  - {{type: InternalIP, address: {:?}}}\n",
        address.v4.to_string(),
        address.v6.to_string(),
    )
}

/// Converts a rendered object to a value, for consumers that do not read YAML.
pub fn to_json(yaml: &str) -> serde_json::Value {
    serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error} in:\n{yaml}"))
}

/// Directory of manifests.
#[derive(Debug, Clone)]
pub struct Manifests {
    path: PathBuf,
}

impl Manifests {
    /// Uses `path`, which must exist, and puts the Node there.
    pub fn new(path: &Path) -> Manifests {
        let manifests = Manifests::at(path);
        manifests.write(NODE_FILE, &render_node());
        manifests
    }

    /// Uses `path`, which must exist, as it is.
    pub fn at(path: &Path) -> Manifests {
        Manifests { path: path.to_owned() }
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces a file in one step.
    pub fn write(&self, file: &str, text: &str) {
        testkit::write_atomic(&self.path.join(file), text)
            .unwrap_or_else(|error| panic!("write {file}: {error}"));
    }

    /// Deletes a file.
    pub fn remove(&self, file: &str) {
        std::fs::remove_file(self.path.join(file)).unwrap_or_else(|error| panic!("remove {file}: {error}"));
    }

    /// Writes the Service alone.
    pub fn service(&self, service: &Service) {
        self.write(&format!("{}.yaml", service.name), &service.render());
    }

    /// Writes the slices of both families that the Service has, in one file, so that they change together.
    pub fn endpoints(&self, service: &Service, endpoints: &[Endpoint]) {
        let mut families: Vec<bool> = service.ips.iter().map(IpAddr::is_ipv4).collect();
        families.dedup();
        let slices = families
            .iter()
            .map(|&v4| render_slice(service, if v4 { "v4" } else { "v6" }, v4, endpoints))
            .collect::<Vec<_>>();
        self.write(&format!("{}-endpoints.yaml", service.name), &slices.join("---\n"));
    }

    /// Writes the Service and its slices.
    pub fn serve(&self, service: &Service, endpoints: &[Endpoint]) {
        self.service(service);
        self.endpoints(service, endpoints);
    }

    /// Deletes the Service and its slices.
    pub fn forget(&self, service: &Service) {
        self.remove(&format!("{}.yaml", service.name));
        self.remove(&format!("{}-endpoints.yaml", service.name));
    }
}
