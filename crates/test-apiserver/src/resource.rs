//! The resources that the server has.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A resource of the API: what kube-ipvs watches, and the events that it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// v1, namespaced.
    Services,
    /// discovery.k8s.io/v1, namespaced.
    EndpointSlices,
    /// v1, of the cluster.
    Nodes,
    /// networking.k8s.io/v1, of the cluster; servers before Kubernetes 1.31 do not have it.
    ServiceCidrs,
    /// events.k8s.io/v1, namespaced.
    Events,
}

struct Description {
    group: &'static str,
    api_version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    /// What a Go server writes besides metadata when the object is empty, as it is in bookmarks.
    /// `null` where a list is expected is what decoders stumble over.
    blank: &'static str,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Services, Self::EndpointSlices, Self::Nodes, Self::ServiceCidrs, Self::Events];

    const fn describe(self) -> &'static Description {
        match self {
            Self::Services => &Description {
                group: "",
                api_version: "v1",
                plural: "services",
                kind: "Service",
                namespaced: true,
                blank: r#","spec":{},"status":{"loadBalancer":{}}"#,
            },
            Self::EndpointSlices => &Description {
                group: "discovery.k8s.io",
                api_version: "discovery.k8s.io/v1",
                plural: "endpointslices",
                kind: "EndpointSlice",
                namespaced: true,
                blank: r#","addressType":"","endpoints":null,"ports":null"#,
            },
            Self::Nodes => &Description {
                group: "",
                api_version: "v1",
                plural: "nodes",
                kind: "Node",
                namespaced: false,
                blank: r#","spec":{},"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":0}},"nodeInfo":{}}"#,
            },
            Self::ServiceCidrs => &Description {
                group: "networking.k8s.io",
                api_version: "networking.k8s.io/v1",
                plural: "servicecidrs",
                kind: "ServiceCIDR",
                namespaced: false,
                blank: r#","spec":{},"status":{}"#,
            },
            Self::Events => &Description {
                group: "events.k8s.io",
                api_version: "events.k8s.io/v1",
                plural: "events",
                kind: "Event",
                namespaced: true,
                blank: r#","eventTime":null"#,
            },
        }
    }

    /// The API group; empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        self.describe().group
    }

    /// Group and version as objects carry them.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        self.describe().api_version
    }

    /// The name in paths and in RBAC.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        self.describe().plural
    }

    /// The kind of its objects.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        self.describe().kind
    }

    /// Do its objects live in namespaces?
    #[must_use]
    pub const fn namespaced(self) -> bool {
        self.describe().namespaced
    }

    pub(crate) const fn blank(self) -> &'static str {
        self.describe().blank
    }

    /// The plural with its group, as error messages of the API server name it.
    pub(crate) fn qualified(self) -> String {
        if self.group().is_empty() {
            self.plural().to_owned()
        } else {
            format!("{}.{}", self.plural(), self.group())
        }
    }

    /// The resource of an object, by its apiVersion and kind.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let field = |name| object.get(name).and_then(Value::as_str);
        let (api_version, kind) = (field("apiVersion")?, field("kind")?);
        Self::ALL.into_iter().find(|r| r.api_version() == api_version && r.kind() == kind)
    }

    pub(crate) fn by_plural(api_version: &str, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.api_version() == api_version && r.plural() == plural)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// What a request does, in the words of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// One object.
    Get,
    /// Many objects, or one page of them.
    List,
    /// Changes, as they come.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

impl Verb {
    /// The verb as RBAC spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}
