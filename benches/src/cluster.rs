//! The cluster behind an API server, and changes to it.

use std::{fs, iter, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use test_apiserver::{Resource, TestApiServer, monotonic};

use crate::{
    node::Node,
    objects::{self, NAMESPACE, Size},
    product::{Input, Settings},
    programming::Bench,
};

/// Distance of the Services that change one after the other, so that they are spread over all.
pub const STRIDE: usize = 7_919;

/// A cluster whose endpoints are replaced one by one.
#[derive(Debug)]
pub struct Cluster {
    server: TestApiServer,
    /// The endpoints of every Service, as they are now.
    pods: Vec<Vec<Ipv4Addr>>,
    /// Changes so far.
    changes: usize,
}

/// A change that the API server has taken.
#[derive(Debug, Clone)]
pub struct Change {
    /// Number of the Service.
    pub service: usize,
    /// Its endpoints from now on.
    pub pods: Vec<Ipv4Addr>,
    /// Version of the slice.
    revision: u64,
    /// Time at which the server had taken it (`CLOCK_MONOTONIC`).
    pub answered: Duration,
}

impl Cluster {
    /// Starts a server in a node's network, with all objects in it; it speaks TLS, as real ones do.
    pub fn start(node: &Node, size: Size) -> Result<Cluster> {
        let server = node.ns.enter(|| TestApiServer::builder().realistic().tls().token("bench").start())?;
        server.objects().apply_all(objects::all_json(size))?;
        let pods = (0..size.services).map(|service| objects::pods(size, service)).collect();
        Ok(Cluster { server, pods, changes: 0 })
    }

    /// Writes the file by which clients find it.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        fs::write(path, self.server.kubeconfig()).with_context(|| path.display().to_string())
    }

    /// Settings of a process that follows it, with a kubeconfig in a directory.
    pub fn settings(&self, bench: &Bench, directory: &Path) -> Result<Settings> {
        let kubeconfig = directory.join("kubeconfig");
        self.write_kubeconfig(&kubeconfig)?;
        Ok(Settings {
            binary: bench.binary.clone(),
            input: Input::Kubeconfig(kubeconfig),
            directory: directory.to_owned(),
            flags: Vec::new(),
        })
    }

    /// The endpoints of a Service.
    pub fn pods(&self, service: usize) -> &[Ipv4Addr] {
        &self.pods[service]
    }

    /// Replaces one endpoint of some Service.
    pub fn change(&mut self) -> Result<Change> {
        let (service, slice) = self.replace_one(self.pods.len());
        let revision = self.server.objects().apply(slice)?;
        let answered = monotonic();
        Ok(Change { service, pods: self.pods[service].clone(), revision, answered })
    }

    /// Replaces `changes` endpoints of all Services before any client hears of the first; returns the
    /// Services concerned, and the time at which the server had taken everything.
    pub fn burst(&mut self, changes: usize) -> Result<(Vec<usize>, Duration)> {
        self.burst_among(self.pods.len(), changes)
    }

    /// Does the same among the first `services` Services.
    pub fn burst_among(&mut self, services: usize, changes: usize) -> Result<(Vec<usize>, Duration)> {
        let (mut services, slices): (Vec<usize>, Vec<Value>) =
            iter::repeat_with(|| self.replace_one(services)).take(changes).unzip();
        self.server.objects().apply_all(slices)?;
        let answered = monotonic();
        services.sort_unstable();
        services.dedup();
        Ok((services, answered))
    }

    /// Time at which the watch event of a change was handed to the client's socket.
    pub fn handed_over(&self, change: &Change) -> Option<Duration> {
        let name = objects::slice_name(change.service);
        let deliveries = self.server.deliveries(Resource::EndpointSlices, NAMESPACE, &name);
        deliveries.iter().find(|delivery| delivery.revision == change.revision).map(|delivery| delivery.at)
    }

    /// Replaces one endpoint: Services come in an order that is spread over all of them, endpoints in turn.
    fn replace_one(&mut self, among: usize) -> (usize, Value) {
        let service = self.changes * STRIDE % among;
        let pods = &mut self.pods[service];
        let endpoint = self.changes % pods.len();
        pods[endpoint] = objects::new_pod(self.changes);
        self.changes += 1;
        (service, objects::slice_json(service, &self.pods[service]))
    }
}
