//! Calls of the control endpoint.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    clock::monotonic,
    faults::{Faults, Hangup},
    handle::TestApiServer,
    load::parse_objects,
    policy::{GoneForm, Protobuf, StreamingLists},
    query::Query,
    resource::{Resource, Verb},
    store::Snapshot,
};

/// Failure of a call.
#[derive(Debug)]
pub(super) enum Failure {
    /// No call has this name.
    Unknown,
    /// The call makes no sense, or went wrong.
    Refused(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Carries out calls.
pub(super) struct Calls {
    server: Arc<TestApiServer>,
    /// Snapshot of the last call `save`.
    saved: Mutex<Option<Snapshot>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectKey {
    resource: Resource,
    #[serde(default)]
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DropWatches {
    /// All resources if absent.
    resource: Option<Resource>,
    how: Hangup,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Data {
    /// The server keeps its objects.
    #[default]
    Keep,
    /// The server comes back empty.
    Lost,
    /// The server comes back with the saved objects.
    Saved,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Restart {
    data: Data,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stale {
    on: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tokens {
    add: Vec<String>,
    revoke: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Policy {
    deny: Vec<(Resource, Verb)>,
    allow: Vec<(Resource, Verb)>,
    missing: Vec<Resource>,
    present: Vec<Resource>,
    streaming_lists: Option<StreamingLists>,
    gone_form: Option<GoneForm>,
    protobuf: Option<Protobuf>,
}

impl Calls {
    pub(super) fn new(server: Arc<TestApiServer>) -> Self {
        Self { server, saved: Mutex::default() }
    }

    pub(super) fn call(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        body: &[u8],
    ) -> Result<Value, Failure> {
        let name = path.strip_prefix("/__test/").ok_or(Failure::Unknown)?;
        if *method == Method::GET {
            return match name {
                "state" => Ok(self.state()),
                "requests" => Ok(self.server.requests().json()),
                "log" => Ok(json!(self.server.requests().log().collect::<Vec<_>>())),
                "mark" => self.mark(&Query::parse(query)),
                _ => Err(Failure::Unknown),
            };
        }
        match name {
            "apply" => self.apply(body),
            "delete" => self.delete(&parse::<Vec<ObjectKey>>(body)?),
            "faults" => self.faults(parse(body)?),
            "clear" => self.clear(),
            "drop-watches" => self.drop_watches(&parse(body)?),
            "stop" => Ok(self.server.stop().map(|()| self.state())?),
            "restart" => self.restart(&parse(body)?),
            "save" => self.save(),
            "stale" => self.stale(&parse(body)?),
            "compact" => self.compact(),
            "tokens" => self.tokens(&parse(body)?),
            "policy" => self.policy(&parse(body)?),
            _ => Err(Failure::Unknown),
        }
    }

    fn state(&self) -> Value {
        let objects = self.server.objects();
        let count = |count: &dyn Fn(Resource) -> usize| -> BTreeMap<&str, usize> {
            Resource::ALL.into_iter().map(|resource| (resource.plural(), count(resource))).collect()
        };
        json!({
            "revision": objects.revision(),
            "monotonicNs": nanoseconds(monotonic()),
            "objects": count(&|resource| objects.len(resource)),
            "watches": count(&|resource| self.server.watches(resource)),
        })
    }

    /// The deliveries of an object, each with the time at which its bytes went to the socket.
    fn mark(&self, query: &Query) -> Result<Value, Failure> {
        let resource: Resource = serde_json::from_value(query.text("resource").into())?;
        let deliveries = self.server.deliveries(resource, query.text("namespace"), query.text("name"));
        let deliveries: Vec<Value> = deliveries
            .into_iter()
            .map(|delivery| {
                json!({
                    "watch": delivery.watch,
                    "type": delivery.change,
                    "revision": delivery.revision,
                    "monotonicNs": nanoseconds(delivery.at),
                })
            })
            .collect();
        Ok(json!(deliveries))
    }

    /// Stores objects, and returns the time at which they were stored; watches deliver them afterwards.
    fn apply(&self, body: &[u8]) -> Result<Value, Failure> {
        let objects = parse_objects(std::str::from_utf8(body)?)?;
        let revision = self.server.objects().apply_all(objects)?;
        Ok(json!({"revision": revision, "monotonicNs": nanoseconds(monotonic())}))
    }

    fn delete(&self, keys: &[ObjectKey]) -> Result<Value, Failure> {
        for key in keys {
            self.server.objects().delete(key.resource, &key.namespace, &key.name)?;
        }
        Ok(json!({"revision": self.server.objects().revision(), "monotonicNs": nanoseconds(monotonic())}))
    }

    fn faults(&self, faults: BTreeMap<Resource, Faults>) -> Result<Value, Failure> {
        for (resource, faults) in faults {
            self.server.set_faults(resource, faults);
        }
        Ok(self.state())
    }

    fn clear(&self) -> Result<Value, Failure> {
        self.server.clear_faults();
        Ok(self.state())
    }

    fn drop_watches(&self, call: &DropWatches) -> Result<Value, Failure> {
        for resource in Resource::ALL {
            if call.resource.is_none_or(|wanted| wanted == resource) {
                self.server.drop_watches(resource, call.how);
            }
        }
        Ok(self.state())
    }

    fn restart(&self, call: &Restart) -> Result<Value, Failure> {
        self.server.stop()?;
        match call.data {
            Data::Keep => {}
            Data::Lost => self.server.objects().restore(Snapshot::empty()),
            Data::Saved => self.server.objects().restore(self.saved()?),
        }
        self.server.restart()?;
        Ok(self.state())
    }

    fn save(&self) -> Result<Value, Failure> {
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.server.objects().snapshot());
        Ok(self.state())
    }

    fn saved(&self) -> Result<Snapshot, Failure> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        saved.ok_or_else(|| Failure::Refused("nothing was saved; call save before".to_owned()))
    }

    fn stale(&self, call: &Stale) -> Result<Value, Failure> {
        self.server.set_stale(call.on.then(|| self.saved()).transpose()?);
        Ok(self.state())
    }

    fn compact(&self) -> Result<Value, Failure> {
        self.server.objects().compact();
        Ok(self.state())
    }

    fn tokens(&self, call: &Tokens) -> Result<Value, Failure> {
        for token in &call.add {
            self.server.add_token(token);
        }
        for token in &call.revoke {
            self.server.revoke_token(token);
        }
        Ok(self.state())
    }

    fn policy(&self, call: &Policy) -> Result<Value, Failure> {
        for (rules, denied) in [(&call.deny, true), (&call.allow, false)] {
            for (resource, verb) in rules {
                self.server.deny(*resource, *verb, denied);
            }
        }
        for (resources, missing) in [(&call.missing, true), (&call.present, false)] {
            for resource in resources {
                self.server.set_missing(*resource, missing);
            }
        }
        if let Some(how) = call.streaming_lists {
            self.server.set_streaming_lists(how);
        }
        if let Some(form) = call.gone_form {
            self.server.set_gone_form(form);
        }
        if let Some(how) = call.protobuf {
            self.server.set_protobuf(how);
        }
        Ok(self.state())
    }
}

/// Parses the body of a call; an empty one stands for an empty object.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    Ok(serde_json::from_slice(body)?)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
