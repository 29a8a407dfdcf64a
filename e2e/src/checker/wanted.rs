//! Demands of objects on the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde_json::Value;

use crate::probe::Proto;

/// A virtual server as the objects want it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// Name of the Service, for messages.
    pub service: String,
    /// Scheduler.
    pub scheduler: String,
    /// True if that is to choose by the client's address alone.
    pub hashes_addresses: bool,
    /// Persistence timeout in seconds.
    pub persistence: Option<u32>,
    /// Real servers, all with weight 1.
    pub real: BTreeSet<SocketAddr>,
    /// Set of the ports whose connections are masqueraded as its are; empty for none.
    pub masquerade: &'static str,
}

/// All demands of the objects on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Virtual servers; those of node ports at the unspecified address.
    pub servers: BTreeMap<(Proto, SocketAddr), Server>,
    /// Virtual servers for clients outside alone.
    pub external: BTreeMap<(Proto, SocketAddr), Server>,
    /// Endpoints of the node behind node ports with a Local policy, whatever their condition.
    pub local_endpoints: BTreeSet<(Proto, SocketAddr)>,
    /// Sources of the node's own connections, by family: the Node's first address of each.
    pub sources: Vec<IpAddr>,
}

/// Label of slices that need no proxy.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Conditions of one endpoint behind one port of a Service. Of copies in several slices the best one counts:
/// one that does not terminate before one that does, then a ready one, then a serving one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Conditions {
    staying: bool,
    ready: bool,
    serving: bool,
    local: bool,
}

impl Wanted {
    /// Reads the objects; the error names what this reader does not understand, and it never guesses.
    pub fn of(objects: &[Value], node: &str) -> Result<Wanted, String> {
        let of_kind = |kind: &'static str| objects.iter().filter(move |object| text(object, "kind") == kind);
        let mut wanted = Wanted::default();
        let the_node = of_kind("Node").find(|object| text(object, "metadata/name") == node);
        wanted.sources = sources(the_node.ok_or_else(|| format!("no Node {node}"))?);
        let mut slices: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
        for slice in of_kind("EndpointSlice").filter(|slice| label(slice, HEADLESS).is_empty()) {
            let service = label(slice, "kubernetes.io/service-name");
            let key = format!("{}/{service}", text(slice, "metadata/namespace"));
            slices.entry(key).or_default().push(slice);
        }
        let mut services: Vec<&Value> = of_kind("Service").filter(|service| is_served(service)).collect();
        // The older Service keeps an address that two claim; a Service without a time stamp is the younger
        // one.
        services.sort_by_key(|service| {
            let created = text(service, "metadata/creationTimestamp");
            (created.is_empty(), created.to_owned(), name(service))
        });
        for service in services {
            let name = name(service);
            let slices = slices.get(&name).map_or(&[][..], Vec::as_slice);
            wanted.add(service, slices, node).map_err(|why| format!("Service {name}: {why}"))?;
        }
        Ok(wanted)
    }

    fn add(&mut self, service: &Value, slices: &[&Value], node: &str) -> Result<(), String> {
        for ip in cluster_ips(service)? {
            for port in list(service, "spec/ports") {
                let key = (proto(port)?, SocketAddr::new(ip, number(port, "port")?));
                let endpoints = endpoints(slices, ip.is_ipv4(), port, node)?;
                let server = Server {
                    service: name(service),
                    scheduler: scheduler(service),
                    hashes_addresses: false,
                    persistence: persistence(service)?,
                    real: choose(&endpoints, text(service, "spec/internalTrafficPolicy") == "Local"),
                    masquerade: "masquerade-nonlocal",
                };
                self.servers.entry(key).or_insert_with(|| server.clone());
                if let Some(key) = node_port(port, ip)? {
                    self.add_node_port(key, service, &endpoints, server);
                }
            }
        }
        Ok(())
    }
}

impl Wanted {
    /// Adds the node port of a port that has one, given what the ClusterIP has.
    fn add_node_port(
        &mut self,
        key: (Proto, SocketAddr),
        service: &Value,
        endpoints: &BTreeMap<SocketAddr, Conditions>,
        like: Server,
    ) {
        let is_local = text(service, "spec/externalTrafficPolicy") == "Local";
        let masquerade = if is_local { "masquerade-pods" } else { "masquerade" };
        let local = endpoints.iter().filter(|(_, at)| at.local && is_local).map(|(at, _)| (key.0, *at));
        self.local_endpoints.extend(local);
        let mut server = Server { real: choose(endpoints, false), masquerade, ..like };
        // What a mark selects cannot be persistent.
        if server.persistence.is_some() && !is_local {
            let at = self.sources.iter().filter(|source| source.is_ipv4() == key.1.is_ipv4());
            for source in at {
                let key = (key.0, SocketAddr::new(*source, key.1.port()));
                self.servers.entry(key).or_insert_with(|| server.clone());
            }
            return;
        }
        if server.persistence.take().is_some() {
            (server.scheduler, server.hashes_addresses) = ("mh".to_owned(), true);
        }
        let owner = self.servers.entry(key).or_insert_with(|| server.clone());
        if is_local && owner.service == server.service {
            let local = Server { real: choose(endpoints, true), ..server };
            self.external.insert(key, local);
        }
    }
}

/// Key of the node port of a port, if it has one, in the family of an address.
fn node_port(port: &Value, ip: IpAddr) -> Result<Option<(Proto, SocketAddr)>, String> {
    if port.get("nodePort").is_none() {
        return Ok(None);
    }
    Ok(Some((proto(port)?, SocketAddr::new(any_of_family(ip), number(port, "nodePort")?))))
}

/// The unspecified address of the family of another one.
pub(super) fn any_of_family(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Chooses the endpoints that take new connections: the ready ones, else those that serve while they
/// terminate.
fn choose(endpoints: &BTreeMap<SocketAddr, Conditions>, only_local: bool) -> BTreeSet<SocketAddr> {
    let within = || endpoints.iter().filter(|(_, at)| at.local || !only_local);
    let ready: BTreeSet<_> = within().filter(|(_, at)| at.ready).map(|(address, _)| *address).collect();
    if !ready.is_empty() {
        return ready;
    }
    within().filter(|(_, at)| at.serving && !at.staying).map(|(address, _)| *address).collect()
}

/// Collects everything that the slices of a family list for a port of the Service, by the port's name and
/// protocol.
fn endpoints(
    slices: &[&Value],
    v4: bool,
    port: &Value,
    node: &str,
) -> Result<BTreeMap<SocketAddr, Conditions>, String> {
    let mut found = BTreeMap::new();
    for slice in slices.iter().filter(|slice| text(slice, "addressType") == if v4 { "IPv4" } else { "IPv6" })
    {
        let same = |other: &&Value| {
            text(other, "name") == text(port, "name") && proto(other).ok() == proto(port).ok()
        };
        for slice_port in list(slice, "ports").iter().filter(same) {
            for endpoint in list(slice, "endpoints") {
                if endpoint.get("hints").is_some() {
                    return Err("endpoints with hints are not understood".to_owned());
                }
                let address = list(endpoint, "addresses").first().and_then(Value::as_str).unwrap_or_default();
                let ip = address.parse().map_err(|_| format!("{address:?} is no endpoint's address"))?;
                let at = SocketAddr::new(ip, number(slice_port, "port")?);
                let conditions = conditions(endpoint, node);
                let known = found.entry(at).or_insert(conditions);
                *known = (*known).max(conditions);
            }
        }
    }
    Ok(found)
}

fn conditions(endpoint: &Value, node: &str) -> Conditions {
    let condition = |name: &str| endpoint.get("conditions")?.get(name)?.as_bool();
    let ready = condition("ready").unwrap_or(true);
    Conditions {
        staying: !condition("terminating").unwrap_or(false),
        ready,
        serving: condition("serving").unwrap_or(ready),
        local: text(endpoint, "nodeName") == node,
    }
}

/// Tells whether a Service needs us: headless and external Services have nothing to serve, and others have a
/// proxy of their own.
fn is_served(service: &Value) -> bool {
    let cluster_ip = text(service, "spec/clusterIP");
    text(service, "spec/type") != "ExternalName"
        && !["", "None"].contains(&cluster_ip)
        && label(service, "service.kubernetes.io/service-proxy-name").is_empty()
}

fn cluster_ips(service: &Value) -> Result<Vec<IpAddr>, String> {
    let mut ips: Vec<&str> = list(service, "spec/clusterIPs").iter().filter_map(Value::as_str).collect();
    if ips.is_empty() {
        ips.push(text(service, "spec/clusterIP"));
    }
    ips.into_iter().map(|ip| ip.parse().map_err(|_| format!("{ip:?} is no ClusterIP"))).collect()
}

fn scheduler(service: &Value) -> String {
    let annotations = at(service, "metadata/annotations");
    let annotation = annotations.and_then(|annotations| annotations.get("kube-ipvs.io/scheduler"));
    annotation.and_then(Value::as_str).unwrap_or("rr").to_owned()
}

fn persistence(service: &Value) -> Result<Option<u32>, String> {
    if text(service, "spec/sessionAffinity") != "ClientIP" {
        return Ok(None);
    }
    match at(service, "spec/sessionAffinityConfig/clientIP/timeoutSeconds") {
        None => Ok(Some(10_800)),
        Some(seconds) => {
            let seconds = seconds.as_u64().and_then(|seconds| u32::try_from(seconds).ok());
            seconds.map(Some).ok_or_else(|| "the affinity's timeout is no number".to_owned())
        }
    }
}

fn sources(node: &Value) -> Vec<IpAddr> {
    let addresses = list(node, "status/addresses").iter();
    let internal = addresses.filter(|address| text(address, "type") == "InternalIP");
    let mut sources: Vec<IpAddr> = Vec::new();
    for ip in internal.filter_map(|address| text(address, "address").parse::<IpAddr>().ok()) {
        if !sources.iter().any(|known| known.is_ipv4() == ip.is_ipv4()) {
            sources.push(ip);
        }
    }
    sources
}

fn proto(port: &Value) -> Result<Proto, String> {
    match text(port, "protocol") {
        "" => Ok(Proto::Tcp),
        name => name.parse().map_err(|error| format!("{error}")),
    }
}

fn number(object: &Value, path: &str) -> Result<u16, String> {
    let number = at(object, path).and_then(Value::as_u64).and_then(|number| number.try_into().ok());
    number.ok_or_else(|| format!("no port number at {path} in {object}"))
}

fn name(object: &Value) -> String {
    format!("{}/{}", text(object, "metadata/namespace"), text(object, "metadata/name"))
}

/// Finds a field within fields; names that contain a slash need [`label`].
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').try_fold(object, |object, field| object.get(field))
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

fn label<'a>(object: &'a Value, label: &str) -> &'a str {
    at(object, "metadata/labels")
        .and_then(|labels| labels.get(label))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
