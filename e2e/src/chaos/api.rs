//! An API server that holds the objects, and breaks.

use std::path::Path;

use serde_json::Value;
use test_apiserver::{
    Faults, GoneForm, Hangup, Refusal, Reorder, Resource, Snapshot, StreamingLists, TestApiServer, Trickle,
    Verb,
};
use testkit::NetNs;

use super::{
    cluster::Step,
    objects::{Disturbance, Objects},
    random::Random,
};

/// Resources that kube-ipvs cannot do without.
const RESOURCES: [Resource; 3] = [Resource::Services, Resource::EndpointSlices, Resource::Nodes];

/// Number of earlier states that may come back.
const SNAPSHOTS_KEPT: usize = 4;

/// The server, on the node itself, with TLS and a token.
#[derive(Debug)]
pub struct Api {
    server: TestApiServer,
    stopped: bool,
    /// True if some watches will never say anything again.
    muted: bool,
    /// True if versions that clients have seen do not exist any more.
    lost: bool,
    snapshots: Vec<Snapshot>,
}

impl Api {
    /// Starts the server inside the namespace and writes the kubeconfig for clients there.
    pub fn start(namespace: &NetNs, kubeconfig: &Path) -> Api {
        let server = namespace.enter(|| TestApiServer::builder().tls().token("chaos").start());
        let server = server.unwrap_or_else(|error| panic!("{error}"));
        std::fs::write(kubeconfig, server.kubeconfig())
            .unwrap_or_else(|error| panic!("{}: {error}", kubeconfig.display()));
        Api { server, stopped: false, muted: false, lost: false, snapshots: Vec::new() }
    }

    /// Ends all connections, mute ones included.
    fn stop(&mut self) {
        self.server.stop().unwrap_or_else(|error| panic!("{error}"));
        (self.stopped, self.muted) = (true, false);
    }

    fn restart(&mut self) {
        self.server.restart().unwrap_or_else(|error| panic!("{error}"));
        self.stopped = false;
    }

    /// Chooses an earlier state, and keeps the present one for later.
    fn earlier(&mut self, random: &mut Random) -> Snapshot {
        let now = self.server.objects().snapshot();
        let earlier = random.pick(&self.snapshots).unwrap_or(&now).clone();
        if self.snapshots.len() == SNAPSHOTS_KEPT {
            self.snapshots.remove(0);
        }
        self.snapshots.push(now);
        earlier
    }

    /// Lets the server lose its last minutes and come back, as from a backup.
    fn lose(&mut self, earlier: Snapshot) {
        if !self.stopped {
            self.stop();
        }
        self.server.objects().restore(earlier);
        self.lost = true;
        self.restart();
    }

    fn disturb_watches(&mut self, random: &mut Random, resource: Resource) -> String {
        let how = [Hangup::End, Hangup::Cut, Hangup::Mute][random.below(3)];
        self.server.drop_watches(resource, how);
        self.muted |= how == Hangup::Mute;
        // By the time a client asks, the server may have forgotten what the client missed.
        let compacted = random.chance(40);
        if compacted {
            self.server.set_gone_form([GoneForm::Event, GoneForm::Status][random.below(2)]);
            self.server.objects().compact();
        }
        format!("watches of {resource:?}: {how:?}, events forgotten: {compacted}")
    }
}

impl Objects for Api {
    fn write(&mut self, step: &Step) {
        match step {
            Step::Apply(object) => {
                self.server.objects().apply(object.clone()).unwrap_or_else(|error| panic!("{error}"));
            }
            Step::Delete(id) => {
                let resource =
                    if id.kind == "Service" { Resource::Services } else { Resource::EndpointSlices };
                // The server may have lost the object before.
                let _ = self.server.objects().delete(resource, "default", &id.name);
            }
        }
    }

    fn list(&mut self) -> Vec<Value> {
        RESOURCES.iter().flat_map(|resource| self.server.objects().list(*resource)).collect()
    }

    /// An earlier fault often ends with a new one; otherwise the two meet.
    fn disturb(&mut self, random: &mut Random) -> Option<Disturbance> {
        if random.chance(60) {
            self.lost |= self.heal();
        }
        let earlier = self.earlier(random);
        let resource = *random.pick(&RESOURCES)?;
        let (what, lost) = match random.below(8) {
            0 if !self.stopped => {
                self.stop();
                ("outage".to_owned(), false)
            }
            1 => {
                self.lose(earlier);
                ("restart with older objects".to_owned(), true)
            }
            2 => {
                self.server.set_stale(Some(earlier));
                ("a replica that lags behind".to_owned(), false)
            }
            3 => {
                let how = [StreamingLists::Refused, StreamingLists::Ignored][random.below(2)];
                self.server.set_streaming_lists(how);
                (format!("streaming lists: {how:?}"), false)
            }
            4 | 5 => (self.disturb_watches(random, resource), false),
            _ => {
                let faults = faults(random);
                let what = format!("faults of {resource:?}: {faults:?}");
                self.server.set_faults(resource, faults);
                (what, false)
            }
        };
        Some(Disturbance { what, lost })
    }

    fn heal(&mut self) -> bool {
        self.server.clear_faults();
        self.server.set_streaming_lists(StreamingLists::Supported);
        if self.muted && !self.stopped {
            // A client finds out by itself, but only after minutes.
            self.stop();
        }
        if self.stopped {
            self.restart();
        }
        std::mem::take(&mut self.lost)
    }
}

/// Faults of one kind.
fn faults(random: &mut Random) -> Faults {
    let millis = 20 + random.below(800) as u64;
    let mut faults = Faults::default();
    match random.below(7) {
        0 => faults.delay_ms = millis,
        1 => faults.silent = true,
        2 => faults.repeat = true,
        3 => faults.reorder = Some(Reorder { window_ms: millis, seed: millis }),
        4 => faults.truncate = 3,
        5 => faults.trickle = Some(Trickle { bytes: 1 + random.below(2_000), every_ms: 5 }),
        _ => {
            let status = [401, 403, 410, 429, 500, 503][random.below(6)];
            let verbs = [&[Verb::List][..], &[Verb::Watch], &[]][random.below(3)];
            faults.refuse = Some(Refusal::new(status, verbs));
        }
    }
    faults
}
