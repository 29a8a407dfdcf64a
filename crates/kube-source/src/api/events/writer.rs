//! The requests that write events.

use std::{
    collections::BTreeSet,
    future::pending,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Request, header};
use jiff::Timestamp;
use k8s_openapi::{
    api::events::v1::{Event, EventSeries},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{Outcome, Queue, Queued, Scope, bucket::Bucket, record};
use crate::api::{
    answer::{collect, request},
    chance::{up_to, with_jitter},
    connect::{Connector, Doubt},
    limits::EventLimits,
    watch_state::{End, Refusal},
};

/// Tries for one event. With the default pauses they last about six minutes.
const TRIES: u32 = 12;
/// Limit of the pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Tokens for a request that only showed that another node was first. So nodes that have nothing to add soon ask
/// rarely, where each of thousands has many events to write.
const REDUNDANT_TOKENS: u32 = 4;

/// Writes the events of a recorder, one at a time.
pub(in crate::api) struct Writer {
    connector: Rc<Connector>,
    node: Arc<str>,
    queue: Queue,
    bucket: Bucket,
    /// Codes of the failures that are in the log; each is logged once.
    logged: BTreeSet<&'static str>,
}

impl Writer {
    pub(in crate::api) fn new(connector: Rc<Connector>, node: Arc<str>, queue: Queue) -> Self {
        let EventLimits { burst, refill, .. } = connector.limits().events;
        let bucket = Bucket::new(burst, refill, Instant::now());
        Writer { connector, node, queue, bucket, logged: BTreeSet::new() }
    }

    /// Writes whatever comes. Never ends.
    pub(in crate::api) async fn run(mut self) {
        while let Some(queued) = self.queue.notices.recv().await {
            self.await_turn(&queued).await;
            let outcome = self.write(&queued).await;
            debug!(reason = queued.notice.reason.as_str(), ?outcome, "event");
            if outcome == Outcome::Known {
                self.bucket.charge(REDUNDANT_TOKENS);
            }
            self.queue.tally.add(outcome);
        }
        pending().await
    }

    /// Waits until an event may be written.
    async fn await_turn(&mut self, queued: &Queued) {
        // All nodes have seen it at the same time.
        if queued.notice.reason.scope() == Scope::Cluster {
            let spread = up_to(self.connector.limits().events.spread);
            sleep(spread.saturating_sub(queued.since.elapsed())).await;
        }
        while let Err(wait) = self.bucket.take(Instant::now()) {
            sleep(wait).await;
        }
    }

    async fn write(&mut self, queued: &Queued) -> Outcome {
        let event = record::event(&queued.notice, queued.at, &self.node);
        let mut pause = self.connector.limits().events.retry;
        for tries_left in (0..TRIES).rev() {
            let end = match self.create(&event, queued.notice.reason.scope()).await {
                Ok(outcome) => return outcome,
                Err(end) => end,
            };
            if !is_passing(&end) || tries_left == 0 {
                self.report_lost(&end);
                break;
            }
            let retry_after = match &end {
                End::Refused(Refusal { code: 401, .. }) => {
                    self.connector.renew(Doubt::Credentials).await;
                    None
                }
                End::Refused(refusal) => refusal.retry_after,
                // The watches find out whether the address is still right.
                _ => None,
            };
            sleep(with_jitter(pause).max(retry_after.unwrap_or_default())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Outcome::Lost
    }

    /// Creates an event. If it exists, that is as good, or counted.
    async fn create(&self, event: &Event, scope: Scope) -> Result<Outcome, End> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let created = self.send(Method::POST, &path, "application/json", &json!(event)).await;
        match created {
            Ok(_) => Ok(Outcome::Written),
            Err(End::Refused(refusal)) if refusal.reason == "AlreadyExists" => match scope {
                Scope::Cluster => Ok(Outcome::Known),
                Scope::Node => {
                    let name = event.metadata.name.as_deref().unwrap_or_default();
                    self.count_again(&format!("{path}/{name}")).await.map(|()| Outcome::Written)
                }
            },
            Err(end) => Err(end),
        }
    }

    /// Counts a repetition in an event of this node, of which nobody else is the author. Reading it would take another
    /// permission, but a patch without a change shows it, too.
    async fn count_again(&self, path: &str) -> Result<(), End> {
        let patch =
            async |body: &Value| self.send(Method::PATCH, path, "application/merge-patch+json", body).await;
        let known: Event = serde_json::from_str(&patch(&json!({})).await?)
            .map_err(|error| End::Garbled(error.to_string()))?;
        let before = known.series.map_or(1, |series| series.count);
        let series = EventSeries {
            count: before.max(1).saturating_add(1),
            last_observed_time: MicroTime(Timestamp::now()),
        };
        patch(&json!({"series": series})).await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<String, End> {
        let request_of = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, kind)
            .body(Body::from(body.to_string().into_bytes()));
        let response = request(&self.connector, request_of).await?;
        // Without its body read, the connection could not be used again.
        let body = collect(response, self.connector.limits()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn report_lost(&mut self, end: &End) {
        if !self.logged.insert(end.code()) {
            return;
        }
        let why = match end {
            End::Refused(Refusal { code, reason, message, .. }) => format!("{code} {reason}: {message}"),
            End::Broken(error) | End::Garbled(error) => error.clone(),
            other => format!("{other:?}"),
        };
        let remedy = match end {
            End::Refused(Refusal { code: 403, .. }) => {
                "; allow create, patch and update of events in API group events.k8s.io, as the ClusterRole \
                 system:node-proxier does"
            }
            _ => "",
        };
        warn!(
            "an event could not be written: {why}{remedy}; further ones that fail so are only counted \
             (kube_ipvs_events_total), and nothing else depends on them"
        );
    }
}

/// Tells whether the same request may succeed later.
fn is_passing(end: &End) -> bool {
    match end {
        End::Refused(Refusal { code, .. }) => matches!(code, 401 | 408 | 409 | 429 | 500..),
        _ => true,
    }
}
