//! Conversion of parsed documents into the objects that we read.

use std::{fmt, num::NonZeroUsize, sync::Arc, thread};

use lb_types::ServiceName;
use service_model::{ModelEvent, SliceName};
use tracing::debug;

use super::documents::{self, Document};
use crate::{
    Converted, Problem, convert,
    wire::{AnyObject, Object, Scalar},
};

/// Share of the text for which a thread of its own pays off.
const BYTES_PER_THREAD: usize = 256 * 1024;

/// Key of an object; the order of kinds is that of delivery.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// The own Node.
    Node,
    /// A Service.
    Service(ServiceName),
    /// An EndpointSlice.
    Slice(SliceName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Node => f.write_str("Node of this host"),
            Key::Service(name) => write!(f, "Service {name}"),
            Key::Slice(name) => write!(f, "EndpointSlice {}/{}", name.namespace, name.name),
        }
    }
}

/// Version of an object in one file; other files may have other versions of it.
#[derive(Clone, Debug)]
pub(super) struct ObjectCopy {
    /// Event that delivers it; `None` if nothing of it can be served.
    pub(super) event: Option<Arc<ModelEvent>>,
    /// Problems of the object.
    pub(super) problems: Vec<Problem>,
}

/// Content of a file.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Objects, in the order of the file.
    pub(super) copies: Vec<(Key, ObjectCopy)>,
    /// Problems of the text.
    pub(super) problems: Vec<Problem>,
    /// True if the whole file could be read; otherwise the rest may contain objects that are missing here.
    pub(super) complete: bool,
}

impl Loaded {
    /// Content of an empty file.
    pub(super) const fn new() -> Self {
        Loaded { copies: Vec::new(), problems: Vec::new(), complete: true }
    }

    /// Content of a file that cannot be read at all.
    pub(super) fn unreadable(file: &Arc<str>, error: &dyn fmt::Display) -> Self {
        let mut loaded = Loaded::new();
        loaded.spoil(
            Arc::clone(file),
            "",
            format!("cannot be read: {error}"),
            "make it a readable UTF-8 file",
        );
        loaded
    }

    /// Notes that some of the text cannot be read.
    fn spoil(&mut self, place: Arc<str>, field: &str, message: String, remedy: &str) {
        self.complete = false;
        self.problems.push(Problem {
            file: Some(place),
            object: String::new(),
            service: None,
            field: field.to_owned(),
            message: format!("{message}; objects that the file had before stay"),
            remedy: remedy.to_owned(),
        });
    }

    fn append(&mut self, mut other: Loaded) {
        self.copies.append(&mut other.copies);
        self.problems.append(&mut other.problems);
        self.complete &= other.complete;
    }
}

/// Parses and converts files, with several threads if they are large.
pub(super) fn load(files: &[(Arc<str>, String)], node_name: &str) -> Vec<Loaded> {
    let mut loaded: Vec<_> = files.iter().map(|_| Loaded::new()).collect();
    // Documents are the unit of work, since one file may hold nearly all objects; each keeps the index of its
    // file.
    let documents: Vec<_> = files
        .iter()
        .enumerate()
        .flat_map(|(i, (file, text))| {
            documents::split(file, text).into_iter().map(move |document| (i, document))
        })
        .collect();
    let read = |part: &[(usize, Document<'_>)]| -> Vec<(usize, Loaded)> {
        part.iter().map(|(i, document)| (*i, load_document(&files[*i].0, *document, node_name))).collect()
    };
    let parts = parts(&documents);
    let results: Vec<_> = thread::scope(|scope| {
        // This thread reads the last part, the others the rest. Results keep the order of the documents.
        let (here, elsewhere) = parts.split_last().map_or((&[][..], &[][..]), |(last, rest)| (*last, rest));
        let threads: Vec<_> = elsewhere.iter().map(|part| scope.spawn(move || read(part))).collect();
        let here = read(here);
        let joined = threads.into_iter().map(|thread| thread.join());
        let mut results: Vec<_> = joined
            .flat_map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        results.extend(here);
        results
    });
    for (i, document) in results {
        loaded[i].append(document);
    }
    loaded
}

/// Splits documents into parts of about equal size, one per thread.
fn parts<'a, 'b>(documents: &'b [(usize, Document<'a>)]) -> Vec<&'b [(usize, Document<'a>)]> {
    let bytes: usize = documents.iter().map(|(_, document)| document.len()).sum();
    let threads =
        thread::available_parallelism().map_or(1, NonZeroUsize::get).min(bytes / BYTES_PER_THREAD + 1);
    let share = bytes / threads + 1;
    // A document begins a new part if the documents so far fill another share of the text.
    let mut part = 0;
    let mut filled = 0;
    let same_part = |_: &(usize, Document<'_>), next: &(usize, Document<'_>)| {
        filled += next.1.len();
        let before = std::mem::replace(&mut part, filled / share);
        part == before
    };
    documents.chunk_by(same_part).collect()
}

fn load_document(file: &Arc<str>, document: Document<'_>, node_name: &str) -> Loaded {
    let mut loader = Loader { file, line: document.first_line(), node_name, loaded: Loaded::new() };
    let (objects, broken) = document.parse();
    let kind = Scalar::Absent;
    for object in objects {
        loader.take(object, &kind, "");
    }
    if let Some(broken) = broken {
        let place = Arc::from(format!("{file}:{}", broken.line));
        let language = document.language();
        let message = format!("not {language}: {}", broken.message);
        loader.loaded.spoil(place, "", message, "correct the text");
    }
    loader.loaded
}

/// Takes the objects of one document.
struct Loader<'a> {
    file: &'a Arc<str>,
    line: usize,
    node_name: &'a str,
    loaded: Loaded,
}

impl Loader<'_> {
    /// Takes an object, which stands at `at` in its document. `kind` is its kind if it names none itself.
    fn take(&mut self, object: Object<AnyObject>, kind: &Scalar, at: &str) {
        if let Some(found) = object.wrong {
            return self.spoil(
                at,
                "",
                format!("an API object is expected, found {found}"),
                "write an object",
            );
        }
        let object = object.value;
        let kind = if object.kind.is_empty() { kind.clone() } else { object.kind.clone() };
        match kind.str() {
            _ if object == AnyObject::default() => {}
            Some(kind) if !is_read(object.api_version.str(), kind) => {
                debug!(file = &**self.file, kind, "object of another kind ignored");
            }
            Some("Service") => self.take_service(object, at),
            Some("EndpointSlice") => self.take_slice(object, at),
            Some("Node") => self.take_node(object, at),
            Some(list) => self.take_list(object, list, at),
            None => {
                let message = format!("the kind of an object is expected, found {kind}");
                self.spoil(at, "kind", message, "write kind: Service, EndpointSlice or Node");
            }
        }
    }

    fn take_list(&mut self, object: AnyObject, list: &str, at: &str) {
        if let Some(found) = object.items.wrong {
            self.spoil(at, "items", format!("a list is expected, found {found}"), "write a list");
        }
        let kind = list.strip_suffix("List").filter(|kind| !kind.is_empty());
        let kind = kind.map_or(Scalar::Absent, |kind| Scalar::Text(kind.to_owned()));
        for (i, item) in object.items.items.into_iter().enumerate() {
            self.take(item, &kind, &format!("{at}items[{i}]."));
        }
    }

    fn take_service(&mut self, object: AnyObject, at: &str) {
        let wire = object.into_service();
        let key = convert::object_name(&wire.metadata)
            .map(|(namespace, name)| Key::Service(ServiceName { namespace, name }));
        self.add(key, convert::service(&wire), ModelEvent::ServiceApplied, at);
    }

    fn take_slice(&mut self, object: AnyObject, at: &str) {
        let wire = object.into_slice();
        let key = convert::object_name(&wire.metadata)
            .map(|(namespace, name)| Key::Slice(SliceName { namespace, name }));
        self.add(key, convert::slice(&wire), ModelEvent::SliceApplied, at);
    }

    /// Takes the own Node; others are ignored.
    fn take_node(&mut self, object: AnyObject, at: &str) {
        let wire = object.into_node();
        let name = convert::object_name(&wire.metadata);
        if name.as_ref().is_none_or(|(_, name)| **name == *self.node_name) {
            self.add(name.map(|_| Key::Node), convert::node(&wire), ModelEvent::NodeApplied, at);
        }
    }

    /// Adds an object. Without a name it has no key, so the object that it was before stays.
    fn add<T>(&mut self, key: Option<Key>, converted: Converted<T>, event: fn(T) -> ModelEvent, at: &str) {
        let Some(key) = key else {
            for problem in converted.problems {
                self.spoil(
                    at,
                    &problem.field,
                    format!("{}: {}", problem.object, problem.message),
                    &problem.remedy,
                );
            }
            return;
        };
        let located =
            converted.problems.into_iter().map(|p| Problem { file: Some(Arc::clone(self.file)), ..p });
        let copy =
            ObjectCopy { problems: located.collect(), event: converted.object.map(event).map(Arc::new) };
        self.loaded.copies.push((key, copy));
    }

    fn spoil(&mut self, at: &str, field: &str, message: String, remedy: &str) {
        let place = Arc::from(format!("{}:{}", self.file, self.line));
        let field = format!("{at}{field}");
        self.loaded.spoil(place, field.trim_end_matches('.'), message, remedy);
    }
}

/// Tells whether we read this kind; other API groups have Services of their own. A missing version counts as
/// the right one.
fn is_read(api_version: Option<&str>, kind: &str) -> bool {
    let version = api_version.unwrap_or_default();
    match kind {
        "Service" | "Node" | "List" | "ServiceList" | "NodeList" => ["", "v1"].contains(&version),
        "EndpointSlice" | "EndpointSliceList" => {
            version.is_empty() || version.starts_with("discovery.k8s.io/")
        }
        _ => false,
    }
}
