//! Services that a Local traffic policy leaves without an endpoint on this node, for a metric (`syncProxyRules` in
//! pkg/proxy/ipvs/proxier.go).

use lb_types::{IpFamily, words};
use service_model::{EndpointPolicy, SelectedEndpoints, TrafficPolicy};

words! {
    /// Traffic that a policy is about, as metrics name it.
    Traffic {
        /// Traffic to ClusterIPs.
        Internal = "internal",
        /// Traffic from outside.
        External = "external",
    }
}

/// Families and traffic for which a Service has endpoints, but none on this node, by [`Traffic`] and [`IpFamily`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocal([[bool; 2]; 2]);

impl NoLocal {
    /// Takes in what a port of the Service has.
    pub(crate) fn note(&mut self, family: IpFamily, policy: EndpointPolicy, selected: &SelectedEndpoints) {
        let is_local =
            [policy.internal == TrafficPolicy::Local, policy.external == Some(TrafficPolicy::Local)];
        let lacks = selected.has_any && selected.local.is_empty();
        for (traffic, is_local) in is_local.into_iter().enumerate() {
            self.0[traffic][family as usize] |= is_local && lacks;
        }
    }
}

/// Numbers of such Services.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NoLocalCounts([[usize; 2]; 2]);

impl NoLocalCounts {
    pub(crate) fn replace(&mut self, old: Option<NoLocal>, new: Option<NoLocal>) {
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        for (traffic, counts) in self.0.iter_mut().enumerate() {
            for (family, count) in counts.iter_mut().enumerate() {
                *count += usize::from(new.0[traffic][family]);
                *count -= usize::from(old.0[traffic][family]);
            }
        }
    }

    pub(crate) fn all(self) -> impl Iterator<Item = (Traffic, IpFamily, usize)> {
        let of = move |traffic: Traffic| {
            IpFamily::ALL.map(|family| (traffic, family, self.0[traffic as usize][family as usize]))
        };
        Traffic::ALL.into_iter().flat_map(of)
    }
}
