//! Generated objects by the thousand, of the size that they have in a real cluster.

use serde_json::{Value, json};

use crate::dress::{dress, uid};

/// Numbers of the objects to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Number of Services, each with one port.
    pub services: usize,
    /// Number of endpoints of each Service.
    pub endpoints: usize,
}

/// Namespace of all generated objects.
pub const NAMESPACE: &str = "load";

/// Endpoints in a full slice of the EndpointSlice controller.
const ENDPOINTS_PER_SLICE: usize = 100;

/// Nodes of the endpoints, in three zones.
const NODES: usize = 50;

impl Load {
    /// Reads `services=N,endpoints=M`.
    ///
    /// # Errors
    ///
    /// If a part has another form; the error says which one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut load = Self { services: 0, endpoints: 0 };
        for part in text.split(',') {
            let (name, value) =
                part.split_once('=').ok_or_else(|| format!("{part}: expected NAME=NUMBER"))?;
            let value = value.parse().map_err(|error| format!("{part}: {error}"))?;
            match name {
                "services" => load.services = value,
                "endpoints" => load.endpoints = value,
                other => return Err(format!("{other}: expected services or endpoints")),
            }
        }
        Ok(load)
    }

    /// Generates the objects, one after the other: Services first.
    pub fn objects(self) -> impl Iterator<Item = Value> {
        let services = (0..self.services).map(service);
        services.chain((0..self.services).flat_map(move |index| slices(index, self.endpoints)))
    }
}

/// Name of the generated Service of this number.
#[must_use]
pub fn service_name(index: usize) -> String {
    format!("svc-{index:05}")
}

/// Address of this number in `base`/12, where the first few are left out.
fn address(base: u8, second: u8, index: usize) -> String {
    let index = index + 256;
    format!("{base}.{}.{}.{}", usize::from(second) + (index >> 16), (index >> 8) & 255, index & 255)
}

fn service(index: usize) -> Value {
    let name = service_name(index);
    let ip = address(10, 96, index);
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    });
    dress(&mut service);
    service
}

fn slices(index: usize, endpoints: usize) -> impl Iterator<Item = Value> {
    // A Service without endpoints has a slice, too.
    let count = endpoints.div_ceil(ENDPOINTS_PER_SLICE).max(1);
    (0..count).map(move |slice| {
        let from = slice * ENDPOINTS_PER_SLICE;
        let to = endpoints.min(from + ENDPOINTS_PER_SLICE);
        self::slice(index, slice, (from..to).map(|number| index * endpoints + number))
    })
}

fn slice(index: usize, slice: usize, pods: impl Iterator<Item = usize>) -> Value {
    let service = service_name(index);
    let endpoints: Vec<Value> = pods.map(|pod| endpoint(&service, pod)).collect();
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{:05x}", index * 16 + slice),
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    dress(&mut slice);
    slice
}

fn endpoint(service: &str, pod: usize) -> Value {
    json!({
        "addresses": [address(10, 128, pod)],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": format!("node-{:02}.region-one.compute.internal", pod % NODES),
        "targetRef": {
            "kind": "Pod",
            "name": format!("{service}-{:09x}-{:05x}", pod % 7919, pod),
            "namespace": NAMESPACE,
            "uid": uid(2, pod),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::resource::Resource;

    #[test]
    fn numbers() {
        assert_eq!(Load::parse("services=3,endpoints=5"), Ok(Load { services: 3, endpoints: 5 }));
        for text in ["", "services", "services=x", "nodes=3"] {
            assert!(Load::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_slice_has_the_size_of_a_real_one() {
        let slice = Load { services: 1, endpoints: 10 }.objects().nth(1).unwrap();
        let size = slice.to_string().len();
        assert!((4_000..=5_000).contains(&size), "{size}");
    }

    #[test]
    fn slices_are_filled_and_addresses_unique() {
        let objects: Vec<Value> = Load { services: 3, endpoints: 250 }.objects().collect();
        let slices: Vec<&Value> =
            objects.iter().filter(|object| Resource::of(object) == Some(Resource::EndpointSlices)).collect();
        let sizes: Vec<usize> =
            slices.iter().map(|slice| slice["endpoints"].as_array().unwrap().len()).collect();
        assert_eq!(sizes, [100, 100, 50, 100, 100, 50, 100, 100, 50]);
        let addresses: BTreeSet<&str> = slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().unwrap())
            .map(|endpoint| endpoint["addresses"][0].as_str().unwrap())
            .collect();
        assert_eq!(addresses.len(), 750);
        let names: BTreeSet<&str> =
            slices.iter().map(|slice| slice["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 9);
        assert_eq!(Load { services: 2, endpoints: 0 }.objects().count(), 4);
    }

    #[test]
    fn a_hundred_thousand_endpoints_stay_within_their_range() {
        assert_eq!(address(10, 96, 0), "10.96.1.0");
        assert_eq!(address(10, 128, 99_999), "10.129.135.159");
        assert!(address(10, 128, 999_999).parse::<std::net::Ipv4Addr>().is_ok());
    }
}
