//! Health checks of Services: `spec.healthCheckNodePort`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
};

use lb_types::{IpFamily, Protocol, VipPort};
use service_model::{Service, ServiceModel};

/// Health check of a Service: what its load balancer may ask this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `metadata.uid` of the Service.
    pub uid: Arc<str>,
    /// `spec.healthCheckNodePort`
    pub port: NonZeroU16,
    /// Number of ready endpoints on this node over all ports, each address once, by the families of the Service.
    pub local_endpoints: BTreeMap<IpFamily, usize>,
    /// Addresses of the load balancer that are bound here, where it may ask, too.
    pub balancers: Vec<IpAddr>,
}

impl HealthCheck {
    /// Ports at the load balancer's addresses at which this node answers.
    pub fn vip_ports(&self) -> impl Iterator<Item = VipPort> {
        self.balancers.iter().map(|addr| VipPort { addr: *addr, protocol: Protocol::Tcp, port: self.port })
    }

    /// Health check of a Service that has one, with those addresses of its load balancer that are bound here. An
    /// endpoint that terminates does not count, though it may serve: load balancers shall send new connections
    /// elsewhere.
    pub fn of(service: &Service, model: &ServiceModel, balancers: Vec<IpAddr>) -> Option<Self> {
        let port = service.health_check_port?;
        let families = IpFamily::ALL.into_iter().filter(|family| service.cluster_ip(*family).is_some());
        let count = |family: IpFamily| {
            let ports = service.ports.iter().map(|port| model.endpoints(service, port, family));
            let ready = ports.flat_map(|endpoints| {
                let local = endpoints.into_iter().filter(|endpoint| endpoint.local && endpoint.ready);
                local.map(|endpoint| endpoint.id.addr).collect::<Vec<_>>()
            });
            (family, ready.collect::<BTreeSet<_>>().len())
        };
        let local_endpoints = families.map(count).collect();
        Some(HealthCheck { uid: Arc::clone(&service.uid), port, local_endpoints, balancers })
    }
}
