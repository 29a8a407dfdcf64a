//! Where objects come from, the same for the long-running process and the one-shot commands.

use std::{net::IpAddr, time::Duration};

use kube_source::{ApiOptions, ApiSource, Batch, Delivery, Limits, Listener, ManifestSource, ProxyVariables};
use service_model::ModelEvent;

use crate::config::{Settings, Source};

/// How long a directory is waited for before it is looked whether anybody still listens.
const PATIENCE: Duration = Duration::from_secs(1);

/// A source that was opened.
pub enum Opened {
    /// An API server.
    Api(Box<ApiSource>),
    /// A directory.
    Manifests(Box<ManifestSource>),
}

/// Checks credentials or the directory; does not read objects yet.
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
            limits: Limits::default(),
        })?)),
    })
}

impl Opened {
    /// Kinds of objects whose watches decide on readiness; none where there are no watches.
    pub fn vital(&self) -> &'static [&'static str] {
        match self {
            Opened::Api(_) => &ApiSource::VITAL,
            Opened::Manifests(_) => &[],
        }
    }

    /// Where objects come from, for the log.
    pub fn describe(&self) -> String {
        match self {
            Opened::Api(source) => source.url(),
            Opened::Manifests(_) => "manifests".to_owned(),
        }
    }

    /// Address of the API server, if there is one and it is named by its address.
    pub fn server(&self) -> Option<IpAddr> {
        match self {
            Opened::Api(source) => source.server(),
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
                while !source.wait(PATIENCE) {}
            },
        }
    }

    /// Everything that exists now; blocks until it is known.
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
