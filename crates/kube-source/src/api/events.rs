//! Events (events.k8s.io/v1) about Services and the own Node, for those who look at objects, not at logs.
//!
//! The rest of the product hands a [`Notice`] to the [`Recorder`], which never waits. The [`Writer`] writes one at a
//! time, no faster than [`Bucket`] allows. An event has the same name whenever the same is reported
//! ([`record::name`]), so that neither a restart nor the other nodes of the cluster make another one.

mod bucket;
mod record;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use jiff::Timestamp;
use lb_types::ServiceName;
use tokio::sync::mpsc;
use tracing::warn;

pub(super) use writer::Writer;

/// Notices that may wait to be written.
const QUEUED_NOTICES: usize = 1024;

/// Reason of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The process has started.
    Starting,
    /// The port of a Service's health check cannot be listened on.
    FailedToStartServiceHealthcheck,
    /// All endpoints of a Service have as many connections as they may have.
    AllEndpointsFull,
    /// Another Service has the same address and port.
    ClaimedByOther,
    /// An annotation cannot be understood.
    InvalidAnnotation,
    /// An annotation asks for what the configuration forbids.
    AnnotationNotAllowed,
    /// An address is not served.
    AddressNotServed,
    /// Another field cannot be understood.
    InvalidField,
}

/// Nodes to which a reason applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Every node reports the same, and the first one makes the event.
    Cluster,
    /// Each node makes its own event, and counts its repetitions.
    Node,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 8] = [
        Reason::Starting,
        Reason::FailedToStartServiceHealthcheck,
        Reason::AllEndpointsFull,
        Reason::ClaimedByOther,
        Reason::InvalidAnnotation,
        Reason::AnnotationNotAllowed,
        Reason::AddressNotServed,
        Reason::InvalidField,
    ];

    /// `reason`; where kube-proxy has such an event, in its words (pkg/proxy/healthcheck/service_health.go,
    /// cmd/kube-proxy/app/server.go).
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Starting => "Starting",
            Reason::FailedToStartServiceHealthcheck => "FailedToStartServiceHealthcheck",
            Reason::AllEndpointsFull => "AllEndpointsFull",
            Reason::ClaimedByOther => "ClaimedByOther",
            Reason::InvalidAnnotation => "InvalidAnnotation",
            Reason::AnnotationNotAllowed => "AnnotationNotAllowed",
            Reason::AddressNotServed => "AddressNotServed",
            Reason::InvalidField => "InvalidField",
        }
    }

    /// `action`: the attempt that led to the event.
    pub const fn action(self) -> &'static str {
        match self {
            Reason::Starting => "StartKubeIpvs",
            Reason::FailedToStartServiceHealthcheck => "Listen",
            Reason::AllEndpointsFull => "Schedule",
            Reason::ClaimedByOther
            | Reason::InvalidAnnotation
            | Reason::AnnotationNotAllowed
            | Reason::AddressNotServed
            | Reason::InvalidField => "Program",
        }
    }

    /// `type`
    pub const fn kind(self) -> &'static str {
        if matches!(self, Reason::Starting) { "Normal" } else { "Warning" }
    }

    const fn scope(self) -> Scope {
        match self {
            Reason::Starting | Reason::FailedToStartServiceHealthcheck | Reason::AllEndpointsFull => {
                Scope::Node
            }
            Reason::ClaimedByOther
            | Reason::InvalidAnnotation
            | Reason::AnnotationNotAllowed
            | Reason::AddressNotServed
            | Reason::InvalidField => Scope::Cluster,
        }
    }
}

/// A Service, as an event refers to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef {
    /// Namespace and name.
    pub name: ServiceName,
    /// `metadata.uid`
    pub uid: Arc<str>,
}

/// Object of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regarding {
    /// The own Node.
    Node,
    /// A Service.
    Service(ServiceRef),
}

/// Content of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its object.
    pub regarding: Regarding,
    /// Its reason.
    pub reason: Reason,
    /// Its text; what exceeds a kilobyte is cut off.
    pub note: String,
}

/// A notice that waits to be written.
#[derive(Debug)]
struct Queued {
    notice: Notice,
    /// `eventTime`
    at: Timestamp,
    since: Instant,
}

/// Numbers of notices, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Written as a new event, or counted in the one that exists.
    pub written: u64,
    /// Not written, because another node, or this one before, had written the same.
    pub known: u64,
    /// Lost: too many waited, or the server refused them.
    pub lost: u64,
}

/// Fate of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    Known,
    Lost,
}

#[derive(Debug, Default)]
struct Tally {
    written: AtomicU64,
    known: AtomicU64,
    lost: AtomicU64,
    /// True once the log says that notices are lost because too many wait.
    overflow_logged: AtomicBool,
}

impl Tally {
    fn add(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Written => &self.written,
            Outcome::Known => &self.known,
            Outcome::Lost => &self.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Handle for everybody who has something to report.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Queued>,
    tally: Arc<Tally>,
}

impl Recorder {
    /// Has an event written some time later. Never waits: where too many wait already, the notice is lost.
    pub fn record(&self, notice: Notice) {
        let queued = Queued { notice, at: Timestamp::now(), since: Instant::now() };
        if self.queue.try_send(queued).is_ok() {
            return;
        }
        self.tally.add(Outcome::Lost);
        if !self.tally.overflow_logged.swap(true, Ordering::Relaxed) {
            warn!(
                "more than {QUEUED_NOTICES} events wait to be written; further ones are lost until there is room \
                 (kube_ipvs_events_total); the log has the problems themselves"
            );
        }
    }

    /// Numbers of notices so far.
    pub fn counts(&self) -> EventCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Tally { written, known, lost, .. } = &*self.tally;
        EventCounts { written: read(written), known: read(known), lost: read(lost) }
    }
}

/// The receiving end of a recorder.
#[derive(Debug)]
pub(super) struct Queue {
    notices: mpsc::Receiver<Queued>,
    tally: Arc<Tally>,
}

/// A recorder, and the queue that a [`Writer`] empties.
pub(super) fn channel() -> (Recorder, Queue) {
    let (queue, notices) = mpsc::channel(QUEUED_NOTICES);
    let tally = Arc::new(Tally::default());
    (Recorder { queue, tally: Arc::clone(&tally) }, Queue { notices, tally })
}
