//! State of the process, as its health pages report it.
//!
//! Each page answers one question, so that its reader does the right thing:
//!
//! - `/livez`: would a restart help? Only if the loop hangs.
//! - `/healthz`: may traffic come to this node? Not if changes no longer reach the kernel.
//! - `/readyz`: is everything as it should be? Not if something is missing that an operator must look at.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::condition::{Conditions, Effect, Listed};

/// Status of the source of one kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// Changes arrive.
    Following,
    /// Changes do not arrive; the code says why, such as `unreachable`.
    Failing(&'static str),
}

/// Limits of times; beyond them, the process is not healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait of a change for the kernel.
    pub waiting: Duration,
    /// Longest step of the loop; beyond it, a restart is worth its price.
    pub step: Duration,
}

impl Limits {
    /// Duration that no step of a working loop reaches, on any machine.
    const LEAST_STEP_LIMIT: Duration = Duration::from_secs(60);

    /// Limits of two sync periods, as in kube-proxy (pkg/proxy/healthcheck/proxy_health.go).
    pub fn of(sync_period: Duration) -> Self {
        let waiting = sync_period.saturating_mul(2);
        Limits { waiting, step: waiting.max(Limits::LEAST_STEP_LIMIT) }
    }
}

/// Answer of one of the pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// True if the status is 200 rather than 503.
    pub good: bool,
    /// Body, in JSON.
    pub body: String,
}

/// State that the loop and the sources report, and the pages show.
#[derive(Debug)]
pub struct Health {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Start of the step in which the loop is; meanwhile it takes no messages. If a call into the kernel
    /// hangs, nothing else shows it.
    step_begun: Option<Instant>,
    waiting: Option<Waiting>,
    /// True if the node is about to go, so that load balancers shall find others.
    node_leaves: bool,
    last_updated: Option<Timestamp>,
    programmed: bool,
    sources: BTreeMap<&'static str, Source>,
    conditions: Conditions,
}

/// Wait of changes for the kernel.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    /// Code of the reason.
    code: &'static str,
}

#[derive(Debug)]
struct Source {
    vital: bool,
    status: SourceStatus,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Healthz {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Readyz<'a> {
    ready: bool,
    programmed: bool,
    sources: BTreeMap<&'static str, &'static str>,
    conditions: Vec<Listed<'a>>,
}

/// Reason for a bad answer because the loop hangs.
const LOOP_HANGS: &str = "loop-hangs";

impl Health {
    /// Initial state. `vital` names the kinds of objects without which the process is not ready.
    pub fn new(limits: Limits, vital: &[&'static str]) -> Self {
        let unknown = || Source { vital: true, status: SourceStatus::Failing("not-listed") };
        let sources = vital.iter().map(|kind| (*kind, unknown())).collect();
        Health { limits, state: Mutex::new(State { sources, ..State::default() }) }
    }

    /// Notes that the loop begins a step, during which it takes no messages.
    pub fn begin_step(&self, now: Instant) {
        self.state().step_begun = Some(now);
    }

    /// Notes that the loop has ended its step and waits for messages.
    pub fn end_step(&self) {
        self.state().step_begun = None;
    }

    /// Notes that changes wait; if none waited before, they do so since `now`. `code` is the reason.
    pub fn set_waiting(&self, now: Instant, code: &'static str) {
        let mut state = self.state();
        let since = state.waiting.map_or(now, |waiting| waiting.since);
        state.waiting = Some(Waiting { since, code });
    }

    /// Notes that no change waits.
    pub fn set_caught_up(&self) {
        let mut state = self.state();
        state.waiting = None;
        state.last_updated = Some(Timestamp::now());
    }

    /// Notes whether load balancers may choose this node: not if it is about to go (KEP-3836).
    pub fn set_node_eligible(&self, eligible: bool) {
        self.state().node_leaves = !eligible;
    }

    /// Tells whether changes reach the kernel in time.
    pub fn follows_changes(&self, now: Instant) -> bool {
        self.lateness(&self.state(), now).is_none()
    }

    /// Notes that everything has been programmed once.
    pub fn set_programmed(&self) {
        self.state().programmed = true;
    }

    /// Sets the status of the source of a kind of objects.
    pub fn set_source_status(&self, kind: &'static str, status: SourceStatus) {
        self.state().sources.entry(kind).or_insert(Source { vital: false, status }).status = status;
    }

    /// Replaces the entries of `/readyz` under a code: one for each word.
    ///
    /// Everybody can read them. A code is a fixed name for programs, such as `scheduler-unavailable`; a word
    /// names the object, such as the scheduler, or is a number. Details and remedies belong in the log.
    pub fn set_condition(
        &self,
        code: &'static str,
        effect: Effect,
        words: impl IntoIterator<Item: Into<String>>,
    ) {
        let words = words.into_iter().map(Into::into).collect();
        self.state().conditions.replace(code, effect, words);
    }

    /// Answer of `/livez`.
    pub fn livez(&self, now: Instant) -> Answer {
        let state = self.state();
        let hangs = state.step_begun.is_some_and(|since| age(since, now) > self.limits.step);
        healthz(&state, hangs.then_some(LOOP_HANGS), None)
    }

    /// Answer of `/healthz`.
    pub fn healthz(&self, now: Instant) -> Answer {
        let state = self.state();
        healthz(&state, self.lateness(&state, now), Some(!state.node_leaves))
    }

    /// Answer of `/readyz`.
    pub fn readyz(&self, now: Instant) -> Answer {
        let state = self.state();
        let follows = |source: &Source| !source.vital || source.status == SourceStatus::Following;
        let late = self.lateness(&state, now).map(Listed::reason);
        let conditions: Vec<_> = late.into_iter().chain(state.conditions.list()).collect();
        let nothing_blocks = conditions.iter().all(|listed| !listed.blocks);
        let answer = Readyz {
            ready: state.programmed && state.sources.values().all(follows) && nothing_blocks,
            programmed: state.programmed,
            sources: state.sources.iter().map(|(kind, source)| (*kind, source.status.code())).collect(),
            conditions,
        };
        Answer { good: answer.ready, body: json(&answer) }
    }

    /// Code of the reason why changes have not reached the kernel for too long, if they have not.
    fn lateness(&self, state: &State, now: Instant) -> Option<&'static str> {
        let is_late = |since| age(since, now) > self.limits.waiting;
        if state.step_begun.is_some_and(is_late) {
            return Some(LOOP_HANGS);
        }
        state.waiting.filter(|waiting| is_late(waiting.since)).map(|waiting| waiting.code)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every write leaves the state whole: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceStatus {
    const fn code(self) -> &'static str {
        match self {
            SourceStatus::Following => "following",
            SourceStatus::Failing(code) => code,
        }
    }
}

fn age(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

/// Answer with the body of kube-proxy and the reason, if it is a bad one. A healthy answer is up to date by
/// definition. A node that is not eligible makes it a bad one, but no unhealthy one.
fn healthz(state: &State, reason: Option<&'static str>, node_eligible: Option<bool>) -> Answer {
    let now = Timestamp::now();
    let healthy = reason.is_none();
    let last_updated = if healthy { Some(now) } else { state.last_updated };
    let answer = Healthz {
        // Go's zero time, which clients that parse it expect.
        last_updated: last_updated.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string()),
        current_time: now.to_string(),
        node_eligible,
        healthy,
        reason,
    };
    Answer { good: healthy && node_eligible != Some(false), body: json(&answer) }
}

fn json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).unwrap_or_default()
}

#[cfg(test)]
mod tests;
