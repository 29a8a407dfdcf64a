//! Entrances that read any bytes as an answer of an API server, or as a kubeconfig.

use bytes::Bytes;
use kube::{
    Config,
    client::ConfigExt,
    config::{KubeConfigOptions, Kubeconfig},
};
use service_model::ModelEvent;

use super::{
    MediaType,
    body::{EventStream, ReadError, WatchEvent, read_list},
    kinds::{Item, Kind},
    object_tracker::ObjectTracker,
};
use crate::Batch;

/// Number of kinds of objects.
pub const KINDS: usize = Kind::ALL.len();

/// The events of a watch in JSON; `None` if a line of it ends the watch. The answer arrives in two pieces, cut at
/// `cut`.
pub fn watch(kind: usize, cut: usize, body: &[u8]) -> Option<Vec<ModelEvent>> {
    watch_in(MediaType::Json, kind, cut, body)
}

/// The events of a watch in protobuf.
pub fn protobuf_watch(kind: usize, cut: usize, body: &[u8]) -> Option<Vec<ModelEvent>> {
    watch_in(MediaType::Protobuf, kind, cut, body)
}

/// The events of a list in JSON; `None` if it cannot be read.
pub fn list(kind: usize, body: &[u8]) -> Option<Vec<ModelEvent>> {
    list_in(MediaType::Json, kind, body)
}

/// The events of a list in protobuf.
pub fn protobuf_list(kind: usize, body: &[u8]) -> Option<Vec<ModelEvent>> {
    list_in(MediaType::Protobuf, kind, body)
}

fn watch_in(media: MediaType, kind: usize, cut: usize, body: &[u8]) -> Option<Vec<ModelEvent>> {
    let kind = Kind::ALL[kind % KINDS];
    let (found, rest) = split(EventStream::new(kind, media), body, cut);
    let whole = split(EventStream::new(kind, media), body, body.len());
    assert_eq!(
        (format!("{found:?}"), rest),
        (format!("{:?}", whole.0), whole.1),
        "wherever the answer is cut"
    );
    let (mut tracker, mut batch) = (ObjectTracker::new(kind), Batch::default());
    tracker.begin_list();
    for event in found {
        match event.ok()? {
            WatchEvent::Applied(item) => tracker.apply(item, true, &mut batch),
            WatchEvent::Deleted(item) => tracker.delete(item, &mut batch),
            WatchEvent::Bookmark { initial_end: true, .. } => tracker.end_list(&mut batch),
            WatchEvent::Bookmark { .. } => {}
            WatchEvent::Error(_) => return None,
        }
    }
    Some(events(batch))
}

fn list_in(media: MediaType, kind: usize, body: &[u8]) -> Option<Vec<ModelEvent>> {
    let kind = Kind::ALL[kind % KINDS];
    let (mut tracker, mut batch, mut broken) = (ObjectTracker::new(kind), Batch::default(), false);
    tracker.begin_list();
    let meta = read_list(&Bytes::copy_from_slice(body), media, kind, |item| match item {
        Ok(item) => tracker.apply(item, true, &mut batch),
        Err(_) => broken = true,
    });
    tracker.end_list(&mut batch);
    (meta.is_ok() && !broken).then(|| events(batch))
}

/// The events in a body up to the first one that cannot be read, and the number of bytes that are left.
fn split(
    mut stream: EventStream,
    body: &[u8],
    cut: usize,
) -> (Vec<Result<WatchEvent<Item>, ReadError>>, usize) {
    let mut found = Vec::new();
    let (first, second) = body.split_at(cut.min(body.len()));
    for piece in [first, second] {
        stream.push(piece);
        while let Some(event) = stream.next() {
            let is_bad = event.is_err();
            found.push(event);
            if is_bad {
                return (found, 0);
            }
        }
        stream.release();
    }
    (found, stream.pending())
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
