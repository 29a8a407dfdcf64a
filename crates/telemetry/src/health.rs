//! Whether the process does its work, and whether it may be relied on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::condition::{Conditions, Effect, Listed};

/// Whether changes of one kind of objects arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// They do.
    Following,
    /// They do not.
    Failing(Arc<str>),
}

/// What the loop tells and the server answers.
///
/// *Healthy* is what kube-proxy means by it (pkg/proxy/healthcheck/proxy_health.go): a change that waits for longer
/// than two sync periods makes the process unhealthy, and load balancers take the node out. An API server that cannot
/// be reached therefore does not: what is programmed goes on working. *Ready* is stricter: everything was programmed
/// once, and changes of all vital kinds of objects arrive.
#[derive(Debug)]
pub struct Health {
    /// A change may wait so long.
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when the oldest change that is not applied has been waiting.
    waiting: Option<Instant>,
    last_updated: Option<Timestamp>,
    programmed: bool,
    sources: BTreeMap<&'static str, Source>,
    conditions: Conditions,
}

#[derive(Debug)]
struct Source {
    vital: bool,
    failing: Option<Arc<str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Healthz {
    last_updated: String,
    current_time: String,
    healthy: bool,
}

#[derive(Serialize)]
struct Readyz<'a> {
    ready: bool,
    programmed: bool,
    sources: BTreeMap<&'static str, String>,
    conditions: Vec<Listed<'a>>,
}

impl Health {
    /// Nothing is known yet. `vital` names the kinds of objects without which the process is not ready.
    pub fn new(sync_period: Duration, vital: &[&'static str]) -> Self {
        let waits = "not heard of yet".into();
        let unknown =
            |kind: &&'static str| (*kind, Source { vital: true, failing: Some(Arc::clone(&waits)) });
        let sources = vital.iter().map(unknown).collect();
        Health { patience: sync_period * 2, state: Mutex::new(State { sources, ..State::default() }) }
    }

    /// A change arrived.
    pub fn queued(&self, now: Instant) {
        self.state().waiting.get_or_insert(now);
    }

    /// All changes that had arrived are applied.
    pub fn applied(&self) {
        let mut state = self.state();
        state.waiting = None;
        state.last_updated = Some(Timestamp::now());
    }

    /// Everything was programmed once.
    pub fn programmed(&self) {
        self.state().programmed = true;
    }

    /// Changes of a kind of objects arrive, or do not.
    pub fn source(&self, kind: &'static str, status: &SourceStatus) {
        let failing = match status {
            SourceStatus::Following => None,
            SourceStatus::Failing(reason) => Some(Arc::clone(reason)),
        };
        self.state().sources.entry(kind).or_insert(Source { vital: false, failing: None }).failing = failing;
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

    /// Answer of `/healthz` and `/livez`, and whether it is a good one.
    pub(crate) fn healthz(&self, now: Instant) -> (bool, String) {
        let state = self.state();
        let healthy = state.waiting.is_none_or(|since| now.saturating_duration_since(since) <= self.patience);
        let last_updated = state.last_updated.map(|at| at.to_string()).unwrap_or_default();
        let answer = Healthz { last_updated, current_time: Timestamp::now().to_string(), healthy };
        (healthy, json(&answer))
    }

    /// Answer of `/readyz`, and whether it is a good one.
    pub(crate) fn readyz(&self) -> (bool, String) {
        let state = self.state();
        let all_follow = state.sources.values().all(|source| !source.vital || source.failing.is_none());
        let text = |source: &Source| source.failing.as_deref().unwrap_or("following").to_owned();
        let answer = Readyz {
            ready: state.programmed && all_follow && !state.conditions.block(),
            programmed: state.programmed,
            sources: state.sources.iter().map(|(kind, source)| (*kind, text(source))).collect(),
            conditions: state.conditions.list(),
        };
        (answer.ready, json(&answer))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every write is one assignment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(30);

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy() {
        let (health, start) = (Health::new(PERIOD, &[]), Instant::now());
        assert!(health.healthz(start).0, "before anything happened");
        health.queued(start);
        health.queued(start + PERIOD);
        assert!(health.healthz(start + PERIOD * 2).0);
        let (healthy, text) = health.healthz(start + PERIOD * 2 + Duration::from_millis(1));
        assert!(
            !healthy && text.contains(r#""healthy":false"#) && text.contains(r#""lastUpdated":"""#),
            "{text}"
        );
        health.applied();
        let (healthy, text) = health.healthz(start + PERIOD * 20);
        assert!(healthy && text.contains(r#""lastUpdated":"20"#), "{text}");
    }

    #[test]
    fn ready_is_programmed_and_following() {
        let health = Health::new(PERIOD, &["services", "endpointslices"]);
        let failing = SourceStatus::Failing("connection refused".into());
        health.programmed();
        health.source("services", &SourceStatus::Following);
        assert!(!health.readyz().0, "slices were not heard of");
        health.source("endpointslices", &SourceStatus::Following);
        health.source("nodes", &failing);
        let (ready, text) = health.readyz();
        assert!(ready && text.contains(r#""nodes":"connection refused""#), "{text}");
        health.source("services", &failing);
        assert!(!health.readyz().0);
        assert!(health.healthz(Instant::now()).0, "load balancers need not care");
        health.source("services", &SourceStatus::Following);
        assert!(health.readyz().0);
    }

    #[test]
    fn conditions_are_listed_until_they_are_replaced() {
        let health = Health::new(PERIOD, &[]);
        health.programmed();
        let check = |ready: bool, list: &str| {
            let (answer, text) = health.readyz();
            assert_eq!(answer, ready, "{text}");
            assert!(text.ends_with(&format!(r#""conditions":[{list}]}}"#)), "{text}");
        };
        check(true, "");
        health.set_condition("scheduler-unavailable", Effect::Notice, ["mh", "dh"]);
        let (mh, dh) = (
            r#"{"code":"scheduler-unavailable","word":"mh","blocks":false}"#,
            r#"{"code":"scheduler-unavailable","word":"dh","blocks":false}"#,
        );
        check(true, &format!("{mh},{dh}"));
        health.set_condition("services-refused", Effect::NotReady, ["10"]);
        let refused = r#"{"code":"services-refused","word":"10","blocks":true}"#;
        check(false, &format!("{mh},{dh},{refused}"));
        health.set_condition("scheduler-unavailable", Effect::Notice, ["dh"]);
        check(false, &format!("{dh},{refused}"));
        health.set_condition("services-refused", Effect::NotReady, [""; 0]);
        check(true, dh);
    }
}
