//! Entrances that read any bytes as an answer of an API server, or as a kubeconfig.

use kube::{
    Config,
    client::ConfigExt,
    config::{KubeConfigOptions, Kubeconfig},
};
use service_model::ModelEvent;

use super::{
    body::{Lines, WatchLine, read_list},
    kinds::Kind,
    object_tracker::ObjectTracker,
};
use crate::Batch;

/// Number of kinds of objects.
pub const KINDS: usize = Kind::ALL.len();

/// The events of a watch; `None` if a line of it ends the watch. The answer arrives in two pieces, cut at
/// `cut`.
pub fn watch(kind: usize, cut: usize, body: &[u8]) -> Option<Vec<ModelEvent>> {
    let kind = Kind::ALL[kind % KINDS];
    let pieces = split(body, cut);
    assert_eq!(pieces, split(body, body.len()), "the same lines wherever the answer is cut");
    let (mut tracker, mut batch) = (ObjectTracker::new(kind), Batch::default());
    tracker.begin_list();
    for line in pieces {
        match WatchLine::parse(std::str::from_utf8(&line).ok()?).ok()? {
            WatchLine::Applied(json) => tracker.apply(kind.read(json).ok()?, true, &mut batch),
            WatchLine::Deleted(json) => tracker.delete(kind.read(json).ok()?, &mut batch),
            WatchLine::Bookmark { initial_end: true, .. } => tracker.end_list(&mut batch),
            WatchLine::Bookmark { .. } => {}
            WatchLine::Error(_) => return None,
        }
    }
    Some(events(batch))
}

/// The events of a list; `None` if it cannot be read.
pub fn list(kind: usize, body: &str) -> Option<Vec<ModelEvent>> {
    let kind = Kind::ALL[kind % KINDS];
    let (mut tracker, mut batch, mut broken) = (ObjectTracker::new(kind), Batch::default(), false);
    tracker.begin_list();
    let meta = read_list(body, |json| match kind.read(json) {
        Ok(item) => tracker.apply(item, true, &mut batch),
        Err(_) => broken = true,
    });
    tracker.end_list(&mut batch);
    (meta.is_ok() && !broken).then(|| events(batch))
}

fn split(body: &[u8], cut: usize) -> Vec<Vec<u8>> {
    let (mut lines, mut found) = (Lines::default(), Vec::new());
    let (first, second) = body.split_at(cut.min(body.len()));
    for piece in [first, second] {
        lines.push(piece);
        while let Some(line) = lines.next() {
            found.push(line.to_vec());
        }
        lines.release();
    }
    found
}

fn events(batch: Batch) -> Vec<ModelEvent> {
    // A problem that cannot be printed is a finding, too.
    for problem in batch.problems.iter().chain(&batch.healed) {
        drop(problem.to_string());
    }
    batch.events
}

/// Tells whether a connection can be set up from a kubeconfig. Files and programs that it names are ignored.
pub fn kubeconfig(text: &str) -> bool {
    let Ok(mut kubeconfig) = Kubeconfig::from_yaml(text) else { return false };
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.certificate_authority = None;
    }
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        (user.client_certificate, user.client_key, user.token_file) = (None, None, None);
        (user.exec, user.auth_provider) = (None, None);
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return false };
    let options = KubeConfigOptions::default();
    let config = runtime.block_on(Config::from_custom_kubeconfig(kubeconfig, &options));
    let Ok(config) = config else { return false };
    // Without a certificate authority in it, reading those of the system would take most of the time.
    config.root_cert.is_none() || config.rustls_client_config().is_ok()
}
