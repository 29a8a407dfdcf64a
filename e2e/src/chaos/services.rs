//! Changes of Services.

use serde_json::{Value, json};

use super::{
    cluster::{Change, Cluster, new_endpoint, slice_ports},
    random::Random,
};

/// Ports that the changes use: few, so that they often meet again.
const PORTS: [u16; 6] = [53, 80, 443, 8080, 9000, 30_053];
/// Protocols that the changes use: more TCP than UDP, more UDP than SCTP.
const PROTOCOLS: [&str; 6] = ["TCP", "TCP", "TCP", "UDP", "UDP", "SCTP"];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const SCHEDULERS: [&str; 5] = ["rr", "wrr", "lc", "wlc", "sh"];

/// First of the node ports that the changes use.
const NODE_PORTS: usize = 31_000;

impl Cluster {
    pub(super) fn create_service(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        (self.excess() < 1).then(|| self.new_service_and_slices(random, change))?
    }

    pub(super) fn new_service_and_slices(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let ips = self.free_ips(random)?;
        let dual = random.chance(70);
        let service = self.new_service(random, if dual { &ips } else { &ips[..1] });
        change.what = format!("create {} at {}", name(&service), ips[0]);
        self.create_with_slices(random, change, service);
        Some(())
    }

    /// Creates a Service, before its slices, after them, or in between.
    fn create_with_slices(&mut self, random: &mut Random, change: &mut Change, service: Value) {
        let mut objects = Vec::new();
        for family in service["spec"]["ipFamilies"].as_array().into_iter().flatten() {
            for _ in 0..1 + usize::from(random.chance(25)) {
                let v4 = family == "IPv4";
                let mut slice = self.new_slice(&service, v4);
                let endpoints: Vec<_> = (0..random.below(6)).map(|_| new_endpoint(random, v4)).collect();
                slice["endpoints"] = unique(endpoints);
                objects.push(slice);
            }
        }
        objects.insert(random.below(objects.len() + 1), service);
        for object in objects {
            self.apply(change, object);
        }
    }

    fn new_service(&mut self, random: &mut Random, ips: &[String]) -> Value {
        let name = self.new_name();
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}")},
            "spec": {"type": "ClusterIP", "selector": {"app": name}, "sessionAffinity": "None"},
        });
        set_ips(&mut service, ips);
        let mut ports = Vec::new();
        for _ in 0..1 + random.below(3) {
            add_port(random, &mut ports);
        }
        service["spec"]["ports"] = ports.into();
        service
    }

    pub(super) fn delete_service(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        if self.excess() <= -1 {
            return None;
        }
        let service = self.any_service(random)?;
        change.what = format!("delete {}", name(&service));
        let mut objects = self.slices(name(&service));
        // Slices stay behind for a while, until the garbage collector finds them.
        if random.chance(10) {
            objects.clear();
        }
        objects.insert(random.below(objects.len() + 1), service);
        for object in &objects {
            self.delete(change, object);
        }
        Some(())
    }

    /// Deletes a Service and creates another one with the same ClusterIP at once, which is possible as soon
    /// as the first one is deleted.
    pub(super) fn recreate_service(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let old = self.any_service(random)?;
        let ips = old["spec"]["clusterIPs"].as_array()?.iter();
        let ips: Vec<String> = ips.filter_map(Value::as_str).map(str::to_owned).collect();
        let new = self.new_service(random, &ips);
        change.what = format!("delete {}, create {} with its address {}", name(&old), name(&new), ips[0]);
        self.delete(change, &old);
        let slices = self.slices(name(&old));
        if random.chance(50) {
            for slice in &slices {
                self.delete(change, slice);
            }
            self.create_with_slices(random, change, new);
        } else {
            self.create_with_slices(random, change, new);
            for slice in &slices {
                self.delete(change, slice);
            }
        }
        Some(())
    }

    /// Adds, removes or renumbers a port; the slices follow, or have gone ahead.
    pub(super) fn change_ports(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let mut service = self.any_service(random)?;
        let mut ports = service["spec"]["ports"].as_array()?.clone();
        let at = random.below(ports.len());
        match random.below(3) {
            0 => add_port(random, &mut ports),
            1 if ports.len() > 1 => drop(ports.remove(at)),
            _ => {
                let port = *random.pick(&PORTS)?;
                if ports.iter().all(|other| other["port"] != port) {
                    ports[at]["port"] = port.into();
                }
            }
        }
        service["spec"]["ports"] = ports.into();
        self.number_node_ports(&mut service);
        change.what = format!("ports of {}: {}", name(&service), show_ports(&service));
        let mut objects = self.slices(name(&service));
        for slice in &mut objects {
            slice["ports"] = slice_ports(&service);
        }
        objects.insert(random.below(objects.len() + 1), service);
        for object in objects {
            self.apply(change, object);
        }
        Some(())
    }

    pub(super) fn change_type(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let mut service = self.any_service(random)?;
        let kind = if service["spec"]["type"] == "NodePort" { "ClusterIP" } else { "NodePort" };
        service["spec"]["type"] = kind.into();
        if kind == "NodePort" && random.chance(50) {
            service["spec"]["externalTrafficPolicy"] = "Local".into();
        } else {
            service["spec"].as_object_mut()?.remove("externalTrafficPolicy");
        }
        self.number_node_ports(&mut service);
        change.what = format!("type of {}: {kind}", name(&service));
        self.apply(change, service);
        Some(())
    }

    /// Gives every port of a NodePort Service a number of its own; others have none.
    fn number_node_ports(&mut self, service: &mut Value) {
        let wanted = service["spec"]["type"] == "NodePort";
        for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
            let Some(port) = port.as_object_mut() else { continue };
            if !wanted {
                port.remove("nodePort");
            } else if !port.contains_key("nodePort") {
                let number = NODE_PORTS + self.number() % 1_500;
                port.insert("nodePort".to_owned(), number.into());
            }
        }
    }

    pub(super) fn change_affinity(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let mut service = self.any_service(random)?;
        let spec = service["spec"].as_object_mut()?;
        spec.remove("sessionAffinityConfig");
        let seconds = [None, Some(0), Some(600), Some(10_800)][random.below(4)];
        let affinity = if seconds.is_some() { "ClientIP" } else { "None" };
        spec.insert("sessionAffinity".to_owned(), affinity.into());
        // Zero stands for an absent value.
        if let Some(seconds @ 1..) = seconds {
            spec.insert("sessionAffinityConfig".to_owned(), json!({"clientIP": {"timeoutSeconds": seconds}}));
        }
        change.what = format!("affinity of {}: {seconds:?}", name(&service));
        self.apply(change, service);
        Some(())
    }

    pub(super) fn change_policy(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let mut service = self.any_service(random)?;
        let policy = if service["spec"]["internalTrafficPolicy"] == "Local" { "Cluster" } else { "Local" };
        service["spec"]["internalTrafficPolicy"] = policy.into();
        change.what = format!("internal traffic policy of {}: {policy}", name(&service));
        self.apply(change, service);
        Some(())
    }

    pub(super) fn change_scheduler(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let mut service = self.any_service(random)?;
        let scheduler = *random.pick(&SCHEDULERS)?;
        service["metadata"]["annotations"] = json!({"kube-ipvs.io/scheduler": scheduler});
        change.what = format!("scheduler of {}: {scheduler}", name(&service));
        self.apply(change, service);
        Some(())
    }

    /// Turns a dual-stack Service into one of IPv4 alone; the slices of the other family may stay for a
    /// while.
    pub(super) fn change_families(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let mut service = self.any_service(random)?;
        let first = service["spec"]["clusterIP"].as_str()?.to_owned();
        let dual = service["spec"]["clusterIPs"].as_array()?.len() == 2;
        let ips = if dual { vec![first] } else { vec![first.clone(), second_ip(&first)?] };
        set_ips(&mut service, &ips);
        change.what = format!("addresses of {}: {}", name(&service), ips.join(", "));
        let mut objects = Vec::new();
        if !dual && self.slices(name(&service)).iter().all(|slice| slice["addressType"] == "IPv4") {
            let mut slice = self.new_slice(&service, false);
            slice["endpoints"] = vec![new_endpoint(random, false)].into();
            objects.push(slice);
        }
        objects.insert(random.below(objects.len() + 1), service);
        for object in objects {
            self.apply(change, object);
        }
        Some(())
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The IPv6 ClusterIP that goes with an IPv4 one, as [`Cluster::free_ips`] pairs them.
fn second_ip(first: &str) -> Option<String> {
    let number: usize = first.rsplit('.').next()?.parse().ok()?;
    Some(format!("fd00:96::{:x}", 0x100 + number))
}

fn set_ips(service: &mut Value, ips: &[String]) {
    let families: Vec<_> = ips.iter().map(|ip| if ip.contains(':') { "IPv6" } else { "IPv4" }).collect();
    let policy = if ips.len() == 2 { "RequireDualStack" } else { "SingleStack" };
    let spec = &mut service["spec"];
    spec["clusterIP"] = ips[0].as_str().into();
    spec["clusterIPs"] = ips.into();
    spec["ipFamilies"] = families.into();
    spec["ipFamilyPolicy"] = policy.into();
}

/// A port whose name and number are both new, if there is one.
fn add_port(random: &mut Random, ports: &mut Vec<Value>) {
    let (Some(port), Some(protocol)) = (random.pick(&PORTS), random.pick(&PROTOCOLS)) else { return };
    let name = NAMES.iter().find(|name| ports.iter().all(|other| other["name"] != **name));
    let free = ports.iter().all(|other| other["port"] != *port);
    if let (Some(name), true) = (name, free) {
        ports.push(json!({"name": name, "protocol": protocol, "port": port, "targetPort": 8080}));
    }
}

/// Drops all but the first one of endpoints with the same address.
pub(super) fn unique(endpoints: Vec<Value>) -> Value {
    let mut kept: Vec<Value> = Vec::new();
    for endpoint in endpoints {
        if kept.iter().all(|other| other["addresses"] != endpoint["addresses"]) {
            kept.push(endpoint);
        }
    }
    kept.into()
}

fn show_ports(service: &Value) -> String {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let show = |port: &Value| format!("{}/{}", port["port"], port["protocol"].as_str().unwrap_or_default());
    ports.map(show).collect::<Vec<_>>().join(" ")
}
