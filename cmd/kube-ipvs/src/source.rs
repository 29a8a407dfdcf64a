//! Source of the objects, for the long-running process and for commands alike.

use std::{net::IpAddr, time::Duration};

use kube_source::{
    ApiOptions, ApiSource, Batch, Delivery, Limits, Listener, ManifestSource, ProxyVariables, Recorder,
    RequestCounts,
};
use service_model::ModelEvent;

use crate::config::{Settings, Source};

/// Time for which a directory blocks before it looks whether anybody still listens.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// An open source.
pub enum Opened {
    /// API server.
    Api(Box<ApiSource>),
    /// Directory of manifests.
    Manifests(Box<ManifestSource>),
}

/// Opens the source, and checks credentials or the directory; reads no objects yet.
pub fn open(settings: &Settings) -> anyhow::Result<Opened> {
    Ok(match &settings.source {
        Source::Manifests(dir) => {
            Opened::Manifests(Box::new(ManifestSource::open(dir, &settings.node_name)?))
        }
        Source::Api { kubeconfig, master } => Opened::Api(Box::new(ApiSource::open(ApiOptions {
            kubeconfig: kubeconfig.clone(),
            master: master.clone(),
            node_name: settings.node_name.as_str().into(),
            proxies: ProxyVariables::from_env(),
            media: settings.media,
            limits: Limits::default(),
        })?)),
    })
}

/// Checks whether the source can be opened.
pub fn check(settings: &Settings) -> anyhow::Result<()> {
    open(settings).map(drop)
}

impl Opened {
    /// Kinds of objects whose watches decide on readiness; none where there are no watches.
    pub fn vital(&self) -> &'static [&'static str] {
        match self {
            Opened::Api(_) => &ApiSource::VITAL,
            Opened::Manifests(_) => &[],
        }
    }

    /// Text for the log.
    pub fn describe(&self) -> String {
        match self {
            Opened::Api(source) => source.url(),
            Opened::Manifests(_) => "manifests".to_owned(),
        }
    }

    /// Address of the API server, unless a host name stands for it.
    pub fn server(&self) -> Option<IpAddr> {
        match self {
            Opened::Api(source) => source.server(),
            Opened::Manifests(_) => None,
        }
    }

    /// Counts of requests, and the host that gets them.
    pub fn requests(&self) -> Option<(RequestCounts, String)> {
        match self {
            Opened::Api(source) => Some((source.counts(), source.host())),
            Opened::Manifests(_) => None,
        }
    }

    /// Handle for events; without an API server there are none.
    pub fn recorder(&self) -> Option<Recorder> {
        match self {
            Opened::Api(source) => Some(source.recorder()),
            Opened::Manifests(_) => None,
        }
    }

    /// Delivers objects and their changes until the listener is gone; blocks.
    pub fn run(self, mut listener: impl FnMut(Delivery) -> Listener) {
        match self {
            Opened::Api(source) => source.run(listener),
            Opened::Manifests(mut source) => loop {
                if listener(Delivery::Objects(source.poll())) == Listener::Gone {
                    return;
                }
                while !source.wait(LONGEST_WAIT) {}
            },
        }
    }

    /// Reads everything that exists now; blocks until it is complete.
    pub fn read_once(self) -> Batch {
        let mut all = Batch::default();
        self.run(|delivery| {
            let Delivery::Objects(batch) = delivery else { return Listener::Listens };
            all.events.extend(batch.events);
            all.problems.extend(batch.problems);
            match all.events.last() {
                Some(ModelEvent::Synced) => Listener::Gone,
                _ => Listener::Listens,
            }
        });
        all
    }
}
