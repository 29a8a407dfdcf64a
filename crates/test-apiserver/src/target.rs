//! Targets of requests, from their paths.

use crate::resource::Resource;

/// A resource, a collection in a namespace, or an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) resource: Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
}

impl Target {
    /// Parses a path. The subresource `status` stands for the object itself, since nothing here depends on
    /// the difference.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (api_version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (plural, name) = match rest {
            [plural] => (plural, None),
            [plural, name] | [plural, name, "status"] => (plural, Some((*name).to_owned())),
            _ => return None,
        };
        let resource = Resource::by_plural(&api_version, plural)?;
        // An object of a namespaced resource needs a namespace in the path, one of the cluster must have
        // none.
        let fits = namespace.is_some() == resource.namespaced() || (namespace.is_none() && name.is_none());
        fits.then_some(Self { resource, namespace, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expect: Option<(Resource, &str, &str)>) {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let expect = expect.map(|(resource, namespace, name)| Target {
            resource,
            namespace: text(namespace),
            name: text(name),
        });
        assert_eq!(Target::parse(path), expect, "{path}");
    }

    #[test]
    fn paths() {
        check("/api/v1/services", Some((Resource::Services, "", "")));
        check("/api/v1/namespaces/shop/services", Some((Resource::Services, "shop", "")));
        check("/api/v1/namespaces/shop/services/cart", Some((Resource::Services, "shop", "cart")));
        check("/api/v1/namespaces/shop/services/cart/status", Some((Resource::Services, "shop", "cart")));
        check("/apis/discovery.k8s.io/v1/endpointslices", Some((Resource::EndpointSlices, "", "")));
        check("/api/v1/nodes/one", Some((Resource::Nodes, "", "one")));
        check("/apis/networking.k8s.io/v1/servicecidrs", Some((Resource::ServiceCidrs, "", "")));
        check("/apis/events.k8s.io/v1/namespaces/default/events", Some((Resource::Events, "default", "")));
    }

    #[test]
    fn paths_that_lead_nowhere() {
        for path in [
            "/",
            "/api/v1",
            "/api/v1/pods",
            "/api/v1/services/cart",
            "/api/v1/namespaces/shop/nodes/one",
            "/api/v1/namespaces/shop",
            "/apis/discovery.k8s.io/v1beta1/endpointslices",
            "/api/v1/namespaces/shop/services/cart/proxy/x",
        ] {
            check(path, None);
        }
    }
}
