//! Changes of Services and EndpointSlices: how many there were, and what triggered those of endpoints.

use std::{collections::BTreeMap, time::SystemTime};

use lb_types::{IpFamily, ServiceName};

/// Numbers of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeCounts {
    /// Changes of Services.
    pub services: u64,
    /// Changes of EndpointSlices.
    pub slices: u64,
}

/// Trigger of a change of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Family of the endpoints.
    pub family: IpFamily,
    /// Time at which the first of the pods, or the Service, changed.
    pub at: SystemTime,
}

/// Changes so far.
#[derive(Debug, Default)]
pub struct Changes {
    counts: ChangeCounts,
    /// Those of the counts that somebody has looked at.
    seen: ChangeCounts,
    /// Triggers that nobody has taken, by Service. Nearly always empty, because each change is soon planned.
    triggers: BTreeMap<ServiceName, Vec<Trigger>>,
}

impl Changes {
    pub(crate) fn count_service(&mut self) {
        self.counts.services += 1;
    }

    pub(crate) fn count_slice(&mut self) {
        self.counts.slices += 1;
    }

    /// Numbers of all changes so far.
    pub fn total(&self) -> ChangeCounts {
        self.counts
    }

    /// Numbers of changes that nobody has looked at.
    pub fn pending(&self) -> ChangeCounts {
        let ChangeCounts { services, slices } = self.counts;
        ChangeCounts { services: services - self.seen.services, slices: slices - self.seen.slices }
    }

    /// Notes that all changes so far have been looked at.
    pub(crate) fn see_all(&mut self) {
        self.seen = self.counts;
    }

    pub(crate) fn note_trigger(&mut self, service: &ServiceName, trigger: Trigger) {
        self.triggers.entry(service.clone()).or_default().push(trigger);
    }

    pub(crate) fn take_triggers(&mut self, service: &ServiceName) -> Vec<Trigger> {
        self.triggers.remove(service).unwrap_or_default()
    }

    /// Tells whether no trigger is left.
    #[cfg(test)]
    pub(crate) fn has_no_triggers(&self) -> bool {
        self.triggers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use lb_types::ServiceName;

    use crate::{
        ChangeCounts, EndpointSlice, ModelEvent, ServiceModel,
        testing::{model, node, service, slice, slice_name},
    };

    fn at(second: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
    }

    fn apply(model: &mut ServiceModel, endpoints: &str, second: u64) {
        let slice = EndpointSlice { triggered: at(second), ..slice("a-1", "a", ":80/TCP", endpoints) };
        model.apply(ModelEvent::SliceApplied(slice));
    }

    fn triggers(model: &mut ServiceModel) -> Vec<Option<SystemTime>> {
        let triggers = model.take_triggers(&ServiceName::new("ns", "a"));
        triggers.into_iter().map(|trigger| Some(trigger.at)).collect()
    }

    /// Conformance: endpointschangetracker TestLastChangeTriggerTime
    #[test]
    fn triggers_are_those_of_changes_since_the_first_lists() {
        let mut model = model([ModelEvent::ServiceApplied(service("a", ":80/TCP"))]);
        apply(&mut model, "1RS", 10);
        model.apply(ModelEvent::Synced);
        assert_eq!(triggers(&mut model), [], "the first lists");
        apply(&mut model, "1RS", 20);
        assert_eq!(triggers(&mut model), [], "the endpoints are the same");
        apply(&mut model, "1RS 2RS", 30);
        apply(&mut model, "1RS 2RS 3RS", 31);
        assert_eq!(triggers(&mut model), [at(30), at(31)], "both changes were waited for");
        assert_eq!(triggers(&mut model), []);
        apply(&mut model, "1RS", 40);
        model.apply(ModelEvent::SliceDeleted(slice_name("a-1")));
        assert_eq!(triggers(&mut model), [], "the slice is gone");
        apply(&mut model, "1RS", 50);
        model.apply(ModelEvent::ServiceDeleted(ServiceName::new("ns", "a")));
        assert_eq!(triggers(&mut model), []);
        apply(&mut model, "1RS 2RS", 60);
        assert_eq!(triggers(&mut model), [], "of a Service that is unknown nothing is kept");
    }

    #[test]
    fn changes_are_counted_and_pending_until_they_are_forgotten() {
        let mut model = model([ModelEvent::ServiceApplied(service("a", ":80/TCP"))]);
        apply(&mut model, "1RS", 10);
        apply(&mut model, "1RS", 11);
        model.apply(ModelEvent::ServiceApplied(service("a", ":80/TCP")));
        assert_eq!(
            model.changes().total(),
            ChangeCounts { services: 1, slices: 1 },
            "the same again is no change"
        );
        assert_eq!(model.changes().pending(), model.changes().total());
        model.forget_changes();
        assert_eq!(model.changes().pending(), ChangeCounts::default());
        model.apply(ModelEvent::NodeApplied(node("n2", "b")));
        model.apply(ModelEvent::SliceDeleted(slice_name("a-1")));
        model.apply(ModelEvent::ServiceDeleted(ServiceName::new("ns", "a")));
        assert_eq!(model.changes().pending(), ChangeCounts { services: 1, slices: 1 });
        assert_eq!(model.changes().total(), ChangeCounts { services: 2, slices: 2 });
    }
}
