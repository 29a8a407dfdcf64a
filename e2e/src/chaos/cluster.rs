//! Objects of a cluster as JSON, and ways to make them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Random;
use crate::manifest::NODE_NAME;

/// Start of the names of objects that the changes may touch.
const PREFIX: &str = "chaos-";

/// Number of addresses of each family: ClusterIPs 10.96.1.0 and fd00:96::100 and so on.
const ADDRESSES: usize = 250;

/// Number of pods, real or not, that endpoints name; the first [`LOCAL_PODS`] are on the node.
const PODS: usize = 300;
const LOCAL_PODS: usize = 100;

/// Kind and name of an object; everything is in the namespace `default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// `Service` or `EndpointSlice`.
    pub kind: String,
    /// Name of the object.
    pub name: String,
}

impl Id {
    /// Identifies an object.
    pub fn of(object: &Value) -> Id {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Id { kind: text(&object["kind"]), name: text(&object["metadata"]["name"]) }
    }

    fn service(name: &str) -> Id {
        Id { kind: "Service".to_owned(), name: name.to_owned() }
    }
}

/// One write of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Creates the object, or replaces it as a whole.
    Apply(Value),
    /// Deletes the object.
    Delete(Id),
}

/// Writes that belong together. They come one after the other, so that others see the states in between.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Description for people.
    pub what: String,
    /// Writes, in order.
    pub steps: Vec<Step>,
}

/// The objects as last written.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    objects: BTreeMap<Id, Value>,
    /// Wanted number of Services: creations and deletions keep within a tenth of it.
    size: usize,
    /// Counter behind names, UIDs and node ports, so that none comes twice.
    counter: usize,
}

impl Cluster {
    /// A cluster without objects, whose changes keep about `size` Services.
    pub fn new(size: usize) -> Cluster {
        Cluster { size, ..Cluster::default() }
    }

    /// Takes over objects; changes leave those of other names alone for ever.
    pub fn adopt(&mut self, objects: Vec<Value>) {
        self.objects = objects.into_iter().map(|object| (Id::of(&object), object)).collect();
    }

    /// All objects.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        self.objects.values()
    }

    /// Names of the Services that may be changed.
    pub fn services(&self) -> Vec<String> {
        let ours = |id: &&Id| id.kind == "Service" && id.name.starts_with(PREFIX);
        self.objects.keys().filter(ours).map(|id| id.name.clone()).collect()
    }

    /// Makes a random change, which is already part of what [`Cluster::objects`] returns.
    pub fn change(&mut self, random: &mut Random) -> Change {
        loop {
            let kind = *random.pick(&KINDS).unwrap_or(&KINDS[0]);
            let mut change = Change { what: String::new(), steps: Vec::new() };
            if kind(self, random, &mut change).is_some() && !change.steps.is_empty() {
                return change;
            }
        }
    }

    /// A new Service with its slices, however many there are.
    pub fn create(&mut self, random: &mut Random) -> Option<Change> {
        let mut change = Change { what: String::new(), steps: Vec::new() };
        self.new_service_and_slices(random, &mut change).map(|()| change)
    }

    /// Distance of the number of Services from the wanted one, in tenths of that.
    pub(super) fn excess(&self) -> i64 {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        10 * (count(self.services().len()) - count(self.size)) / count(self.size).max(1)
    }

    pub(super) fn service(&self, name: &str) -> Option<Value> {
        self.objects.get(&Id::service(name)).cloned()
    }

    pub(super) fn any_service(&self, random: &mut Random) -> Option<Value> {
        self.service(random.pick(&self.services())?)
    }

    /// The slices of a Service, by name.
    pub(super) fn slices(&self, service: &str) -> Vec<Value> {
        let of = |slice: &&Value| {
            slice["kind"] == "EndpointSlice"
                && slice["metadata"]["labels"]["kubernetes.io/service-name"] == service
        };
        self.objects.values().filter(of).cloned().collect()
    }

    pub(super) fn any_slice(&self, random: &mut Random) -> Option<Value> {
        let service = random.pick(&self.services())?.clone();
        random.pick(&self.slices(&service)).cloned()
    }

    pub(super) fn number(&mut self) -> usize {
        self.counter += 1;
        self.counter
    }

    pub(super) fn new_name(&mut self) -> String {
        format!("{PREFIX}{}", self.number())
    }

    pub(super) fn apply(&mut self, change: &mut Change, object: Value) {
        self.objects.insert(Id::of(&object), object.clone());
        change.steps.push(Step::Apply(object));
    }

    pub(super) fn delete(&mut self, change: &mut Change, object: &Value) {
        let id = Id::of(object);
        self.objects.remove(&id);
        change.steps.push(Step::Delete(id));
    }

    /// ClusterIPs that no Service has.
    pub(super) fn free_ips(&self, random: &mut Random) -> Option<[String; 2]> {
        let taken: Vec<&str> =
            self.objects.values().filter_map(|object| object["spec"]["clusterIP"].as_str()).collect();
        let all = (0..ADDRESSES).map(|n| [format!("10.96.1.{n}"), format!("fd00:96::{:x}", 0x100 + n)]);
        let free: Vec<_> = all.filter(|[v4, _]| !taken.contains(&v4.as_str())).collect();
        random.pick(&free).cloned()
    }

    /// A slice of a Service for the given ports, without endpoints.
    pub(super) fn new_slice(&mut self, service: &Value, v4: bool) -> Value {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default",
                "name": format!("{name}-{}", self.number()),
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": if v4 { "IPv4" } else { "IPv6" },
            "ports": slice_ports(service),
            "endpoints": [],
        })
    }
}

/// Ports of a Service as its slices have them; a port's number follows from its name alone.
pub(super) fn slice_ports(service: &Value) -> Value {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = |port: &Value| {
        let number = 8000 + port["name"].as_str().and_then(|name| name.bytes().last()).map_or(0, u16::from);
        json!({"name": port["name"], "protocol": port["protocol"], "port": number})
    };
    ports.map(port).collect()
}

/// A ready endpoint on a random pod; now and then it has an address that another pod had before.
pub(super) fn new_endpoint(random: &mut Random, v4: bool) -> Value {
    let pod = random.below(PODS);
    let (node, network, host) =
        if pod < LOCAL_PODS { (NODE_NAME, 0, 100 + pod) } else { ("node-2", 1, 1 + pod - LOCAL_PODS) };
    let address =
        if v4 { format!("10.244.{network}.{host}") } else { format!("fd00:244:0:{network}::{host:x}") };
    let uid = format!("pod-{pod}-{}", usize::from(random.chance(10)));
    json!({
        "addresses": [address],
        "nodeName": node,
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("{PREFIX}{pod}"), "uid": uid},
    })
}

/// Fills the change, or returns `None` if there is no object for it.
type Kind = fn(&mut Cluster, &mut Random, &mut Change) -> Option<()>;

/// Kinds of changes; the more frequent ones stand here more than once.
const KINDS: [Kind; 24] = [
    Cluster::create_service,
    Cluster::create_service,
    Cluster::delete_service,
    Cluster::delete_service,
    Cluster::recreate_service,
    Cluster::change_ports,
    Cluster::change_ports,
    Cluster::change_type,
    Cluster::change_affinity,
    Cluster::change_policy,
    Cluster::change_scheduler,
    Cluster::change_families,
    Cluster::add_endpoint,
    Cluster::add_endpoint,
    Cluster::remove_endpoint,
    Cluster::remove_endpoint,
    Cluster::flap_endpoint,
    Cluster::flap_endpoint,
    Cluster::flap_endpoint,
    Cluster::scale,
    Cluster::split_slice,
    Cluster::merge_slices,
    Cluster::move_endpoint,
    Cluster::give_slice_away,
];
