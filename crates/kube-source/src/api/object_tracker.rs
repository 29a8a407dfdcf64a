//! Names and versions of the objects of one kind that were passed on. With them, objects that vanished during
//! a gap are noticed, and old versions are not mistaken for new ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnetwork::IpNetwork;
use service_model::ModelEvent;

use super::kinds::{Content, Item, Kind, Name};
use crate::{Batch, Problem};

/// Keeps track of the objects of one kind that were passed on.
#[derive(Debug)]
pub(super) struct ObjectTracker {
    kind: Kind,
    objects: HashMap<Name, TrackedObject>,
    /// Number of the current list; objects that it does not contain have an older number.
    list: u32,
    problems: BTreeMap<Name, Vec<Problem>>,
    /// Prefixes of each ServiceCIDR; empty for other kinds.
    cidrs: BTreeMap<Name, Vec<IpNetwork>>,
    /// Prefixes in the last event about them.
    announced: Option<Vec<IpNetwork>>,
}

#[derive(Clone, Copy, Debug)]
struct TrackedObject {
    /// `metadata.resourceVersion`. Officially opaque, but API servers compare versions as numbers, and since
    /// Kubernetes 1.35 the documentation says so.
    version: Option<u64>,
    /// Number of the last list that contained the object.
    list: u32,
    /// True if the receiver knows the object: some are not served.
    served: bool,
}

impl ObjectTracker {
    pub(super) fn new(kind: Kind) -> Self {
        ObjectTracker {
            kind,
            objects: HashMap::new(),
            list: 0,
            problems: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            announced: None,
        }
    }

    /// Begins a list; objects that it does not contain are gone at its end.
    pub(super) fn begin_list(&mut self) {
        self.list += 1;
    }

    /// Takes in an object that exists. Outside of a list, an older version than the known one is a straggler
    /// and is ignored.
    pub(super) fn apply(&mut self, item: Item, listing: bool, batch: &mut Batch) {
        let Some(name) = item.name else {
            batch.problems.extend(item.problems);
            return;
        };
        let version = item.version.and_then(|version| version.parse().ok());
        if !listing && self.is_old(&name, version) {
            return;
        }
        self.report(&name, item.problems, batch);
        if item.content.is_none() {
            self.forget(&name, batch);
        }
        let object = TrackedObject { version, list: self.list, served: item.content.is_some() };
        self.objects.insert(name.clone(), object);
        match item.content {
            Some(Content::Event(event)) => batch.events.push(event),
            Some(Content::Cidrs(cidrs)) => drop(self.cidrs.insert(name, cidrs)),
            None => {}
        }
        self.announce(listing, batch);
    }

    /// Takes in that an object is gone, as of a version.
    pub(super) fn delete(&mut self, item: Item, batch: &mut Batch) {
        let Some(name) = item.name else { return };
        if self.is_old(&name, item.version.and_then(|version| version.parse().ok())) {
            return;
        }
        self.report(&name, Vec::new(), batch);
        self.forget(&name, batch);
        self.announce(false, batch);
    }

    /// Tells whether no object is known.
    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Ends a list, so that the objects it did not contain are gone. An empty list of Nodes counts as a deletion.
    pub(super) fn end_list(&mut self, batch: &mut Batch) {
        let missing = self.objects.iter().filter(|(_, object)| object.list != self.list);
        let mut gone: Vec<_> = missing.map(|(name, _)| name.clone()).collect();
        if self.kind == Kind::Node && self.objects.is_empty() {
            batch.events.push(ModelEvent::NodeDeleted);
        }
        // The map has a random order; events are delivered in one that is always the same.
        gone.sort_unstable();
        for name in gone {
            self.report(&name, Vec::new(), batch);
            self.forget(&name, batch);
        }
        self.announce(false, batch);
    }

    fn is_old(&self, name: &Name, version: Option<u64>) -> bool {
        let known = self.objects.get(name).and_then(|object| object.version);
        matches!((version, known), (Some(version), Some(known)) if version < known)
    }

    fn forget(&mut self, name: &Name, batch: &mut Batch) {
        self.cidrs.remove(name);
        if self.objects.remove(name).is_some_and(|object| object.served) {
            batch.events.extend(self.kind.deletion(name.clone()));
        }
    }

    /// Reports the problems of an object that are new, and those that no longer exist.
    fn report(&mut self, name: &Name, problems: Vec<Problem>, batch: &mut Batch) {
        let before = if problems.is_empty() {
            self.problems.remove(name)
        } else {
            self.problems.insert(name.clone(), problems.clone())
        };
        let old: BTreeSet<_> = before.into_iter().flatten().collect();
        let new: BTreeSet<_> = problems.into_iter().collect();
        batch.problems.extend(new.difference(&old).cloned());
        batch.healed.extend(old.difference(&new).cloned());
    }

    /// Passes on all prefixes once they are complete, and whenever they change.
    fn announce(&mut self, listing: bool, batch: &mut Batch) {
        if self.kind != Kind::ServiceCidr || listing {
            return;
        }
        let all: BTreeSet<_> = self.cidrs.values().flatten().copied().collect();
        let all: Vec<_> = all.into_iter().collect();
        if self.announced.as_ref() != Some(&all) {
            self.announced = Some(all.clone());
            batch.events.push(ModelEvent::ServiceCidrsApplied(all));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, version: &str, port: &str) -> Item {
        let json = format!(
            r#"{{"metadata":{{"namespace":"ns","name":"{name}","resourceVersion":"{version}"}},
                "spec":{{"clusterIP":"10.96.0.1","ports":[{{"port":{port}}}]}}}}"#
        );
        Kind::Service.read_json(&json).unwrap()
    }

    fn cidr(name: &str, cidrs: &str) -> Item {
        let json = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"cidrs":[{cidrs}]}}}}"#);
        Kind::ServiceCidr.read_json(&json).unwrap()
    }

    /// Short form of a batch, which it empties: `+a` for an applied Service, `-a` for a deleted one, `!` for
    /// a problem, `~` for a healed one.
    fn show(batch: &mut Batch) -> String {
        let batch = std::mem::take(batch);
        let event = |event: &ModelEvent| match event {
            ModelEvent::ServiceApplied(service) => format!("+{}", service.name.name),
            ModelEvent::ServiceDeleted(name) => format!("-{}", name.name),
            ModelEvent::ServiceCidrsApplied(cidrs) => format!("{cidrs:?}"),
            other => format!("{other:?}"),
        };
        let mut all: Vec<_> = batch.events.iter().map(event).collect();
        all.extend(batch.problems.iter().map(|_| "!".to_owned()));
        all.extend(batch.healed.iter().map(|_| "~".to_owned()));
        all.join(" ")
    }

    fn listed(items: &[Item]) -> (ObjectTracker, Batch) {
        let (mut tracker, mut batch) = (ObjectTracker::new(Kind::Service), Batch::default());
        list(&mut tracker, items, &mut batch);
        (tracker, batch)
    }

    fn list(tracker: &mut ObjectTracker, items: &[Item], batch: &mut Batch) {
        tracker.begin_list();
        for item in items {
            tracker.apply(item.clone(), true, batch);
        }
        tracker.end_list(batch);
    }

    #[test]
    fn what_a_list_does_not_contain_is_gone() {
        let (mut tracker, mut batch) =
            listed(&[service("a", "1", "80"), service("b", "2", "80"), service("c", "3", "80")]);
        assert_eq!(show(&mut batch), "+a +b +c");
        list(&mut tracker, &[service("b", "2", "80")], &mut batch);
        assert_eq!(show(&mut batch), "+b -a -c");
        list(&mut tracker, &[], &mut batch);
        assert_eq!(show(&mut batch), "-b");
    }

    #[test]
    fn stragglers_of_a_watch_mean_nothing_but_a_list_is_the_truth() {
        let (mut tracker, mut batch) = listed(&[service("a", "10", "80")]);
        show(&mut batch);
        tracker.apply(service("a", "9", "80"), false, &mut batch);
        tracker.delete(service("a", "9", "80"), &mut batch);
        assert_eq!(show(&mut batch), "");
        tracker.apply(service("a", "10", "80"), false, &mut batch);
        assert_eq!(show(&mut batch), "+a", "a repetition is harmless: the model compares");
        tracker.delete(service("a", "11", "80"), &mut batch);
        tracker.delete(service("a", "11", "80"), &mut batch);
        assert_eq!(show(&mut batch), "-a");
        tracker.apply(service("a", "5", "80"), false, &mut batch);
        assert_eq!(show(&mut batch), "+a", "nothing older is known");
        list(&mut tracker, &[service("a", "3", "80")], &mut batch);
        assert_eq!(show(&mut batch), "+a", "the server was restored from a backup");
    }

    #[test]
    fn versions_that_are_no_numbers_are_not_compared() {
        let (mut tracker, mut batch) = listed(&[service("a", "x9", "80")]);
        tracker.apply(service("a", "x1", "80"), false, &mut batch);
        tracker.delete(service("a", "", "80"), &mut batch);
        assert_eq!(show(&mut batch), "+a +a -a");
    }

    #[test]
    fn an_object_that_can_no_longer_be_served_is_gone_and_its_problem_is_reported_once() {
        let (mut tracker, mut batch) = listed(&[service("a", "1", "80"), service("b", "1", "80")]);
        show(&mut batch);
        tracker.apply(service("a", "2", "0"), false, &mut batch);
        assert_eq!(show(&mut batch), "-a !");
        tracker.apply(service("a", "3", "0"), false, &mut batch);
        assert_eq!(show(&mut batch), "");
        tracker.apply(service("a", "4", "80"), false, &mut batch);
        assert_eq!(show(&mut batch), "+a ~");
        tracker.apply(service("a", "5", "0"), false, &mut batch);
        show(&mut batch);
        list(&mut tracker, &[service("b", "1", "80")], &mut batch);
        assert_eq!(show(&mut batch), "+b ~");
    }

    #[test]
    fn an_object_without_a_name_spoils_no_other() {
        let (_, mut batch) = listed(&[Kind::Service.read_json("{}").unwrap(), service("a", "1", "80")]);
        assert_eq!(show(&mut batch), "+a !");
        let (_, mut batch) = listed(&[Kind::Service.read_json("7").unwrap(), service("a", "1", "80")]);
        assert_eq!(show(&mut batch), "+a !");
    }

    #[test]
    fn prefixes_are_announced_together() {
        let (mut tracker, mut batch) = (ObjectTracker::new(Kind::ServiceCidr), Batch::default());
        let two = [cidr("a", r#""10.96.0.0/16""#), cidr("b", r#""fd00::/112","10.96.0.0/16""#)];
        list(&mut tracker, &two, &mut batch);
        assert_eq!(
            batch.events,
            [ModelEvent::ServiceCidrsApplied(vec![
                "10.96.0.0/16".parse().unwrap(),
                "fd00::/112".parse().unwrap()
            ])]
        );
        show(&mut batch);
        list(&mut tracker, &two, &mut batch);
        assert_eq!(batch.events, []);
        tracker.delete(two[1].clone(), &mut batch);
        assert_eq!(batch.events, [ModelEvent::ServiceCidrsApplied(vec!["10.96.0.0/16".parse().unwrap()])]);
        show(&mut batch);
        tracker.apply(cidr("c", r#""nonsense""#), false, &mut batch);
        assert_eq!(show(&mut batch), "!");
        let mut empty = ObjectTracker::new(Kind::ServiceCidr);
        list(&mut empty, &[], &mut batch);
        assert_eq!(batch.events, [ModelEvent::ServiceCidrsApplied(vec![])], "none is an answer too");
    }
}
