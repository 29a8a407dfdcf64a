//! Objects for tests and benchmarks: those that others vary, and for the tests of this crate some in short notations.

use std::{net::IpAddr, num::NonZeroU16};

use lb_types::{IpFamily, Protocol, ServiceName};

use crate::{
    EndpointSlice, Service, ServicePort, ServiceSettings, SliceEndpoint, SliceName, SlicePort, TrafficPolicy,
};

#[cfg(test)]
pub(crate) use notation::*;

/// A Service with these ClusterIPs and ports, and with defaults for all else.
pub fn plain_service(name: ServiceName, cluster_ips: Vec<IpAddr>, ports: Vec<ServicePort>) -> Service {
    Service {
        name,
        uid: "".into(),
        created: None,
        cluster_ips,
        external_ips: Vec::new(),
        source_ranges: None,
        health_check_port: None,
        ports,
        affinity: None,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        settings: ServiceSettings::default(),
        critical: false,
    }
}

/// A port of a Service without a node port.
pub fn plain_port(name: &str, protocol: Protocol, port: NonZeroU16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port: None }
}

/// A ready endpoint, of no known node or pod.
pub const fn plain_endpoint(addr: IpAddr) -> SliceEndpoint {
    SliceEndpoint {
        addr,
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
        pod: None,
    }
}

/// A slice of a Service of its namespace, of the family of its endpoints; without any, of IPv4.
pub fn plain_slice(
    name: &str,
    service: ServiceName,
    ports: Vec<SlicePort>,
    endpoints: Vec<SliceEndpoint>,
) -> EndpointSlice {
    EndpointSlice {
        name: SliceName { namespace: service.namespace.clone(), name: name.into() },
        service,
        family: endpoints.first().map_or(IpFamily::V4, |endpoint| IpFamily::of(endpoint.addr)),
        ports,
        endpoints,
        triggered: None,
    }
}

/// Short notations.
#[cfg(test)]
mod notation {
    use std::sync::Arc;

    use super::*;
    use crate::{Endpoint, ModelEvent, Node, ServiceModel};

    /// `10.0.0.N` or `fd00::N`.
    pub(crate) fn addr(family: IpFamily, number: u8) -> IpAddr {
        match family {
            IpFamily::V4 => [10, 0, 0, number].into(),
            IpFamily::V6 => [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)].into(),
        }
    }

    /// Parses an endpoint. `1RSL@a+b#n1=p` is endpoint 1; ready (`R`), serving (`S`), not terminating (`T`); on
    /// node `n1` (`L`; without it on `n2`, with `-` on none); with hints for zones a and b and for node n1; of
    /// pod p.
    pub(crate) fn endpoint(family: IpFamily, text: &str) -> SliceEndpoint {
        let (text, pod) = split(text, '=');
        let (text, nodes) = split(text, '#');
        let (text, zones) = split(text, '@');
        let letters = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = text[..text.len() - letters.len()].parse().unwrap();
        let list =
            |text: Option<&str>| text.map_or(Vec::new(), |text| text.split('+').map(Arc::from).collect());
        let has = |letter| letters.contains(letter);
        SliceEndpoint {
            ready: has('R'),
            serving: has('S'),
            terminating: has('T'),
            node: (!has('-')).then(|| if has('L') { "n1".into() } else { "n2".into() }),
            zone_hints: list(zones),
            node_hints: list(nodes),
            pod: pod.map(Arc::from),
            ..plain_endpoint(addr(family, number))
        }
    }

    fn split(text: &str, at: char) -> (&str, Option<&str>) {
        text.split_once(at).map_or((text, None), |(head, tail)| (head, Some(tail)))
    }

    /// Parses a port such as `http:80/TCP` or `:80/UDP`.
    fn port(text: &str) -> (Arc<str>, Protocol, NonZeroU16) {
        let (name, rest) = text.split_once(':').unwrap();
        let (number, protocol) = rest.split_once('/').unwrap();
        (name.into(), protocol.parse().unwrap(), number.parse().unwrap())
    }

    /// A Service in namespace `ns` with ports like `http:80/TCP`.
    pub(crate) fn service(name: &str, ports: &str) -> Service {
        let ports = ports.split_whitespace().map(port);
        let ports = ports.map(|(name, protocol, port)| plain_port(&name, protocol, port)).collect();
        Service {
            uid: name.into(),
            ..plain_service(ServiceName::new("ns", name), vec![[10, 96, 0, 1].into()], ports)
        }
    }

    /// A slice of a Service in namespace `ns`.
    pub(crate) fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> EndpointSlice {
        slice_of(IpFamily::V4, name, service, ports, endpoints)
    }

    /// A slice of either family.
    pub(crate) fn slice_of(
        family: IpFamily,
        name: &str,
        service: &str,
        ports: &str,
        endpoints: &str,
    ) -> EndpointSlice {
        let ports = ports.split_whitespace().map(port);
        let ports = ports.map(|(name, protocol, port)| SlicePort { name, protocol, port }).collect();
        let endpoints = endpoints.split_whitespace().map(|text| endpoint(family, text)).collect();
        EndpointSlice { family, ..plain_slice(name, ServiceName::new("ns", service), ports, endpoints) }
    }

    pub(crate) fn slice_name(name: &str) -> SliceName {
        SliceName { namespace: "ns".into(), name: name.into() }
    }

    /// A Node in a zone, or with `""` in none.
    pub(crate) fn node(name: &str, zone: &str) -> Node {
        Node { name: name.into(), zone: (!zone.is_empty()).then(|| zone.into()), ..Node::default() }
    }

    /// A model on node `n1` in zone `a` with some objects.
    pub(crate) fn model(events: impl IntoIterator<Item = ModelEvent>) -> ServiceModel {
        let mut model = ServiceModel::default();
        model.apply(ModelEvent::NodeApplied(node("n1", "a")));
        for event in events {
            model.apply(event);
        }
        model
    }

    /// Endpoints of a service port in the notation of [`endpoint`], with their ports: `1:8080RSL`.
    pub(crate) fn endpoints(
        model: &ServiceModel,
        service: &str,
        port_name: &str,
        family: IpFamily,
    ) -> String {
        let Some(service) = model.service(&ServiceName::new("ns", service)) else {
            return "no service".into();
        };
        let Some(port) = service.ports.iter().find(|p| &*p.name == port_name) else {
            return "no port".into();
        };
        let show = |e: &Endpoint| {
            let number = match e.id.addr {
                IpAddr::V4(addr) => addr.octets()[3],
                IpAddr::V6(addr) => addr.octets()[15],
            };
            let letter = |yes: bool, letter: &'static str| if yes { letter } else { "" };
            let conditions =
                [letter(e.ready, "R"), letter(e.serving, "S"), letter(e.terminating, "T")].concat();
            format!("{number}:{}{conditions}{}", e.id.port, letter(e.local, "L"))
        };
        model.endpoints(service, port, family).iter().map(show).collect::<Vec<_>>().join(" ")
    }
}
