//! Who may do what, and what kind of server this is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::resource::{Resource, Verb};
use crate::status::ApiError;

/// The user of tokens that were added without one.
pub const DEFAULT_USER: &str = "system:serviceaccount:kube-system:kube-ipvs";

/// What the server does with a watch that asks for initial events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamingLists {
    /// It sends them (feature gate `WatchList`).
    #[default]
    Supported,
    /// It has the option, but the feature gate is off (Kubernetes 1.27 and later).
    Refused,
    /// It does not know the option, but refuses the one that goes with it (Kubernetes 1.19 to 1.26).
    RefusedByMatch,
    /// It knows neither, and starts an ordinary watch.
    Ignored,
}

/// How the server says that a watch starts from a version that is too old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GoneForm {
    /// 200 and an event of type ERROR, as the API server does.
    #[default]
    Event,
    /// 410, as aggregated servers and proxies may.
    Status,
}

/// Version 1.`MINOR`, if nothing else is asked for.
const MINOR: u32 = 36;

#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Token and user; without any, nobody has to show one.
    tokens: Option<BTreeMap<String, String>>,
    denied: BTreeSet<(Resource, Verb)>,
    missing: BTreeSet<Resource>,
    pub(crate) streaming_lists: StreamingLists,
    pub(crate) gone_form: GoneForm,
    /// The server is version 1.`minor`, as it says.
    pub(crate) minor: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tokens: None,
            denied: BTreeSet::new(),
            missing: BTreeSet::new(),
            streaming_lists: StreamingLists::default(),
            gone_form: GoneForm::default(),
            minor: MINOR,
        }
    }
}

impl Policy {
    pub(crate) fn add_token(&mut self, token: &str, user: &str) {
        self.tokens.get_or_insert_default().insert(token.to_owned(), user.to_owned());
    }

    /// The last token that goes leaves a server that lets nobody in.
    pub(crate) fn revoke_token(&mut self, token: &str) {
        if let Some(tokens) = &mut self.tokens {
            tokens.remove(token);
        }
    }

    pub(crate) fn deny(&mut self, resource: Resource, verb: Verb, denied: bool) {
        if denied {
            self.denied.insert((resource, verb));
        } else {
            self.denied.remove(&(resource, verb));
        }
    }

    pub(crate) fn set_missing(&mut self, resource: Resource, missing: bool) {
        if missing {
            self.missing.insert(resource);
        } else {
            self.missing.remove(&resource);
        }
    }

    /// The user who sent a request.
    pub(crate) fn authenticate(&self, authorization: Option<&str>) -> Result<String, ApiError> {
        let Some(tokens) = &self.tokens else { return Ok("system:anonymous".to_owned()) };
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        token.and_then(|token| tokens.get(token.trim())).cloned().ok_or_else(ApiError::unauthorized)
    }

    pub(crate) fn authorize(
        &self,
        user: &str,
        verb: Verb,
        target: (Resource, Option<&str>, Option<&str>),
    ) -> Result<(), ApiError> {
        if self.denied.contains(&(target.0, verb)) {
            return Err(ApiError::forbidden(user, verb, target));
        }
        if self.missing.contains(&target.0) {
            return Err(ApiError::no_such_resource());
        }
        Ok(())
    }
}
