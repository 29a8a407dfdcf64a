//! Resources of the server, and verbs of requests.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Resource of the API: those that kube-ipvs watches, and the events that it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// Services: v1, namespaced.
    Services,
    /// EndpointSlices: discovery.k8s.io/v1, namespaced.
    EndpointSlices,
    /// Nodes: v1, of the cluster.
    Nodes,
    /// ServiceCIDRs: networking.k8s.io/v1, of the cluster; servers before Kubernetes 1.31 lack them.
    ServiceCidrs,
    /// Events: events.k8s.io/v1, namespaced.
    Events,
}

struct Description {
    group: &'static str,
    api_version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    /// Fields besides metadata that a Go server writes for an empty object, as in bookmarks. Decoders stumble
    /// over a `null` where they expect a list.
    blank: &'static str,
}

impl Resource {
    /// All resources.
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

    /// Name in paths and in RBAC.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        self.describe().plural
    }

    /// Kind of its objects.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        self.describe().kind
    }

    /// Tells whether its objects live in namespaces.
    #[must_use]
    pub const fn namespaced(self) -> bool {
        self.describe().namespaced
    }

    pub(crate) const fn blank(self) -> &'static str {
        self.describe().blank
    }

    /// Plural with the group, as error messages of the API server have it.
    pub(crate) fn qualified(self) -> String {
        if self.group().is_empty() {
            self.plural().to_owned()
        } else {
            format!("{}.{}", self.plural(), self.group())
        }
    }

    /// Resource of an object, by its apiVersion and kind.
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

/// Action of a request, in the words of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// GET of one object.
    Get,
    /// GET of many objects, or of one page of them.
    List,
    /// GET of changes, as they come.
    Watch,
    /// POST of a new object.
    Create,
    /// PUT of an object.
    Update,
    /// PATCH of an object.
    Patch,
    /// DELETE of an object.
    Delete,
}

impl Verb {
    /// Spelling in RBAC.
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
