//! Permissions, and properties that distinguish servers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    resource::{Resource, Verb},
    status::ApiError,
    target::Target,
};

/// User of tokens that were added without one.
pub const DEFAULT_USER: &str = "system:serviceaccount:kube-system:kube-ipvs";

/// Answer of the server to a watch that requests initial events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamingLists {
    /// The server sends them (feature gate `WatchList`).
    #[default]
    Supported,
    /// The server refuses the option, because the feature gate is off (Kubernetes 1.27 and later).
    Refused,
    /// The server does not know the option, but refuses the one that goes with it (Kubernetes 1.19 to 1.26).
    RefusedByMatch,
    /// The server knows neither option, and starts an ordinary watch.
    Ignored,
}

/// Form of the error for a watch from a version that is too old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GoneForm {
    /// Status 200 and an event of type ERROR, from the API server.
    #[default]
    Event,
    /// Status 410, from some aggregated servers and proxies.
    Status,
}

/// Answer of the server to a request for protobuf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protobuf {
    /// The server sends it.
    #[default]
    Supported,
    /// The server has nothing but JSON, as for kinds that are defined at run time.
    Missing,
    /// The server refuses the request (406), even if JSON is accepted, too.
    Refused,
    /// The server sends what is no protobuf of any object, under its name.
    Broken,
}

/// Minor version of a server by default.
const DEFAULT_MINOR: u32 = 36;

#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// User of each token; `None` if requests need no token.
    tokens: Option<BTreeMap<String, String>>,
    denied: BTreeSet<(Resource, Verb)>,
    missing: BTreeSet<Resource>,
    pub(crate) streaming_lists: StreamingLists,
    pub(crate) gone_form: GoneForm,
    pub(crate) protobuf: Protobuf,
    /// Minor version that the server reports.
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
            protobuf: Protobuf::default(),
            minor: DEFAULT_MINOR,
        }
    }
}

impl Policy {
    pub(crate) fn add_token(&mut self, token: &str, user: &str) {
        self.tokens.get_or_insert_default().insert(token.to_owned(), user.to_owned());
    }

    /// Stops accepting a token. After the last one, the server accepts nobody.
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

    pub(crate) fn authorize(&self, user: &str, verb: Verb, target: &Target) -> Result<(), ApiError> {
        if self.denied.contains(&(target.resource, verb)) {
            return Err(ApiError::forbidden(user, verb, target));
        }
        if self.missing.contains(&target.resource) {
            return Err(ApiError::no_such_resource());
        }
        Ok(())
    }
}
