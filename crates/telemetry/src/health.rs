//! State of the process as its health pages tell it.
//!
//! Each page has one question, so that whoever asks does the right thing:
//!
//! - `/livez`: would a restart help? Only against a loop that hangs.
//! - `/healthz`: may traffic come to this node? Not where changes no longer reach the kernel.
//! - `/readyz`: is everything as it should be? Not where something is missing that an operator must look at.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::condition::{Conditions, Effect, Listed};

/// State of the changes of one kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// They arrive.
    Following,
    /// They do not, with a code such as `unreachable`.
    Failing(&'static str),
}

/// Longest times that are still healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of a change that waits for the kernel.
    pub waiting: Duration,
    /// Of one step of the loop, before a restart is worth its price.
    pub step: Duration,
}

impl Limits {
    /// No step of a loop that works takes so long, on whatever machine.
    const LONG_STEP: Duration = Duration::from_secs(60);

    /// Two sync periods, as kube-proxy (pkg/proxy/healthcheck/proxy_health.go).
    pub fn of(sync_period: Duration) -> Self {
        let waiting = sync_period.saturating_mul(2);
        Limits { waiting, step: waiting.max(Limits::LONG_STEP) }
    }
}

/// An answer of one of the pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 503.
    pub good: bool,
    /// JSON.
    pub body: String,
}

/// State that the loop and the sources note, and that the server answers with.
#[derive(Debug)]
pub struct Health {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when the loop has been at work without looking for messages: a call into the kernel may hang, and then
    /// nothing else would tell.
    at_work: Option<Instant>,
    /// Since when changes have waited, and what for.
    waiting: Option<(Instant, &'static str)>,
    last_updated: Option<Timestamp>,
    programmed: bool,
    sources: BTreeMap<&'static str, Source>,
    conditions: Conditions,
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

/// Reason for a bad answer where the loop hangs.
const LOOP_HANGS: &str = "loop-hangs";

impl Health {
    /// Nothing is known yet. `vital` names the kinds of objects without which the process is not ready.
    pub fn new(limits: Limits, vital: &[&'static str]) -> Self {
        let unknown = || Source { vital: true, status: SourceStatus::Failing("not-listed") };
        let sources = vital.iter().map(|kind| (*kind, unknown())).collect();
        Health { limits, state: Mutex::new(State { sources, ..State::default() }) }
    }

    /// The loop begins a step: from now on it looks neither for messages nor at the time.
    pub fn begin_step(&self, now: Instant) {
        self.state().at_work = Some(now);
    }

    /// The loop has ended its step and waits for messages.
    pub fn end_step(&self) {
        self.state().at_work = None;
    }

    /// Changes wait, and have done so since `now` if none had before; `code` says what for.
    pub fn waits(&self, now: Instant, code: &'static str) {
        let mut state = self.state();
        let since = state.waiting.map_or(now, |(since, _)| since);
        state.waiting = Some((since, code));
    }

    /// No change waits.
    pub fn caught_up(&self) {
        let mut state = self.state();
        state.waiting = None;
        state.last_updated = Some(Timestamp::now());
    }

    /// Everything was programmed once.
    pub fn programmed(&self) {
        self.state().programmed = true;
    }

    /// Changes of a kind of objects arrive, or do not.
    pub fn source(&self, kind: &'static str, status: SourceStatus) {
        self.state().sources.entry(kind).or_insert(Source { vital: false, status }).status = status;
    }

    /// Replaces what `/readyz` lists under a code: an entry for each word, none where there are no words.
    ///
    /// Everybody can read it: a code is a fixed name for programs, such as `scheduler-unavailable`; a word names the
    /// object, such as the scheduler, or is a number. Details and remedies belong into the log.
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
        let hangs = state.at_work.is_some_and(|since| age(since, now) > self.limits.step);
        healthz(&state, hangs.then_some(LOOP_HANGS))
    }

    /// Answer of `/healthz`.
    pub fn healthz(&self, now: Instant) -> Answer {
        let state = self.state();
        healthz(&state, self.lateness(&state, now))
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

    /// Why changes do not reach the kernel, if they have not for too long.
    fn lateness(&self, state: &State, now: Instant) -> Option<&'static str> {
        let is_late = |since| age(since, now) > self.limits.waiting;
        let hangs = state.at_work.filter(|since| is_late(*since)).map(|_| LOOP_HANGS);
        hangs.or_else(|| state.waiting.filter(|(since, _)| is_late(*since)).map(|(_, code)| code))
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

/// The body of kube-proxy, with the reason for a bad answer. While all is well, it is up to date by definition.
fn healthz(state: &State, reason: Option<&'static str>) -> Answer {
    let now = Timestamp::now();
    let good = reason.is_none();
    let last_updated = if good { Some(now) } else { state.last_updated };
    let answer = Healthz {
        last_updated: last_updated.map(|at| at.to_string()).unwrap_or_default(),
        current_time: now.to_string(),
        healthy: good,
        reason,
    };
    Answer { good, body: json(&answer) }
}

fn json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).unwrap_or_default()
}

#[cfg(test)]
mod tests;
