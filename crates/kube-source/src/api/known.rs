//! What was passed on of one kind of objects: their names and versions, so that what vanished during a gap is noticed
//! and what is old is not taken for new.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnetwork::IpNetwork;
use service_model::ModelEvent;

use super::kinds::{Content, Item, Kind, Name};
use crate::{Batch, Problem};

/// Objects of one kind.
#[derive(Debug)]
pub(super) struct Known {
    kind: Kind,
    objects: HashMap<Name, Copy>,
    /// Grows with every list; what a list did not contain has an older one.
    list: u32,
    problems: BTreeMap<Name, Vec<Problem>>,
    /// Of ServiceCIDRs only.
    cidrs: BTreeMap<Name, Vec<IpNetwork>>,
    announced: Option<Vec<IpNetwork>>,
}

#[derive(Clone, Copy, Debug)]
struct Copy {
    /// Versions are opaque in principle; API servers compare them as numbers, and since Kubernetes 1.35 say so.
    version: Option<u64>,
    /// The last list that contained it.
    list: u32,
    /// Whether the receiver knows it: some objects are not served.
    served: bool,
}

impl Known {
    pub(super) fn new(kind: Kind) -> Self {
        Known {
            kind,
            objects: HashMap::new(),
            list: 0,
            problems: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            announced: None,
        }
    }

    /// A list begins: what it does not contain is gone at its end.
    pub(super) fn begin_list(&mut self) {
        self.list += 1;
    }

    /// An object is there. Outside of a list, an older version than the one known is a straggler and means nothing.
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
        let copy = Copy { version, list: self.list, served: item.content.is_some() };
        self.objects.insert(name.clone(), copy);
        match item.content {
            Some(Content::Event(event)) => batch.events.push(event),
            Some(Content::Cidrs(cidrs)) => drop(self.cidrs.insert(name, cidrs)),
            None => {}
        }
        self.announce(listing, batch);
    }

    /// An object is gone, as of a version.
    pub(super) fn delete(&mut self, item: Item, batch: &mut Batch) {
        let Some(name) = item.name else { return };
        if self.is_old(&name, item.version.and_then(|version| version.parse().ok())) {
            return;
        }
        self.report(&name, Vec::new(), batch);
        self.forget(&name, batch);
        self.announce(false, batch);
    }

    /// The list is complete.
    pub(super) fn end_list(&mut self, batch: &mut Batch) {
        let missing = |(name, copy): (&Name, &Copy)| (copy.list != self.list).then(|| name.clone());
        let mut gone: Vec<_> = self.objects.iter().filter_map(missing).collect();
        gone.sort_unstable();
        for name in gone {
            self.report(&name, Vec::new(), batch);
            self.forget(&name, batch);
        }
        self.announce(false, batch);
    }

    fn is_old(&self, name: &Name, version: Option<u64>) -> bool {
        let known = self.objects.get(name).and_then(|copy| copy.version);
        matches!((version, known), (Some(version), Some(known)) if version < known)
    }

    fn forget(&mut self, name: &Name, batch: &mut Batch) {
        self.cidrs.remove(name);
        if self.objects.remove(name).is_some_and(|copy| copy.served) {
            batch.events.extend(self.kind.deleted(name.clone()));
        }
    }

    fn report(&mut self, name: &Name, problems: Vec<Problem>, batch: &mut Batch) {
        let before = match problems.is_empty() {
            true => self.problems.remove(name).unwrap_or_default(),
            false => self.problems.insert(name.clone(), problems.clone()).unwrap_or_default(),
        };
        let (old, new): (BTreeSet<_>, BTreeSet<_>) =
            (before.into_iter().collect(), problems.into_iter().collect());
        batch.problems.extend(new.difference(&old).cloned());
        batch.healed.extend(old.difference(&new).cloned());
    }

    /// Tells all prefixes once they are complete and whenever they change.
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
        Kind::Service.read(&json).unwrap()
    }

    fn cidr(name: &str, cidrs: &str) -> Item {
        let json = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"cidrs":[{cidrs}]}}}}"#);
        Kind::ServiceCidr.read(&json).unwrap()
    }

    /// `+a` for an applied Service, `-a` for a deleted one, `!` for a problem, `~` for one that is healed.
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

    fn listed(items: &[Item]) -> (Known, Batch) {
        let (mut known, mut batch) = (Known::new(Kind::Service), Batch::default());
        list(&mut known, items, &mut batch);
        (known, batch)
    }

    fn list(known: &mut Known, items: &[Item], batch: &mut Batch) {
        known.begin_list();
        items.iter().for_each(|item| known.apply(item.clone(), true, batch));
        known.end_list(batch);
    }

    #[test]
    fn what_a_list_does_not_contain_is_gone() {
        let (mut known, mut batch) =
            listed(&[service("a", "1", "80"), service("b", "2", "80"), service("c", "3", "80")]);
        assert_eq!(show(&mut batch), "+a +b +c");
        list(&mut known, &[service("b", "2", "80")], &mut batch);
        assert_eq!(show(&mut batch), "+b -a -c");
        list(&mut known, &[], &mut batch);
        assert_eq!(show(&mut batch), "-b");
    }

    #[test]
    fn stragglers_of_a_watch_mean_nothing_but_a_list_is_the_truth() {
        let (mut known, mut batch) = listed(&[service("a", "10", "80")]);
        show(&mut batch);
        known.apply(service("a", "9", "80"), false, &mut batch);
        known.delete(service("a", "9", "80"), &mut batch);
        assert_eq!(show(&mut batch), "");
        known.apply(service("a", "10", "80"), false, &mut batch);
        assert_eq!(show(&mut batch), "+a", "a repetition is harmless: the model compares");
        known.delete(service("a", "11", "80"), &mut batch);
        known.delete(service("a", "11", "80"), &mut batch);
        assert_eq!(show(&mut batch), "-a");
        known.apply(service("a", "5", "80"), false, &mut batch);
        assert_eq!(show(&mut batch), "+a", "nothing older is known");
        list(&mut known, &[service("a", "3", "80")], &mut batch);
        assert_eq!(show(&mut batch), "+a", "the server was restored from a backup");
    }

    #[test]
    fn versions_that_are_no_numbers_are_not_compared() {
        let (mut known, mut batch) = listed(&[service("a", "x9", "80")]);
        known.apply(service("a", "x1", "80"), false, &mut batch);
        known.delete(service("a", "", "80"), &mut batch);
        assert_eq!(show(&mut batch), "+a +a -a");
    }

    #[test]
    fn an_object_that_can_no_longer_be_served_is_gone_and_its_problem_told_once() {
        let (mut known, mut batch) = listed(&[service("a", "1", "80"), service("b", "1", "80")]);
        show(&mut batch);
        known.apply(service("a", "2", "0"), false, &mut batch);
        assert_eq!(show(&mut batch), "-a !");
        known.apply(service("a", "3", "0"), false, &mut batch);
        assert_eq!(show(&mut batch), "");
        known.apply(service("a", "4", "80"), false, &mut batch);
        assert_eq!(show(&mut batch), "+a ~");
        known.apply(service("a", "5", "0"), false, &mut batch);
        show(&mut batch);
        list(&mut known, &[service("b", "1", "80")], &mut batch);
        assert_eq!(show(&mut batch), "+b ~");
    }

    #[test]
    fn an_object_without_a_name_spoils_no_other() {
        let (_, mut batch) = listed(&[Kind::Service.read("{}").unwrap(), service("a", "1", "80")]);
        assert_eq!(show(&mut batch), "+a !");
        let (_, mut batch) = listed(&[Kind::Service.read("7").unwrap(), service("a", "1", "80")]);
        assert_eq!(show(&mut batch), "+a !");
    }

    #[test]
    fn prefixes_are_announced_together() {
        let (mut known, mut batch) = (Known::new(Kind::ServiceCidr), Batch::default());
        let two = [cidr("a", r#""10.96.0.0/16""#), cidr("b", r#""fd00::/112","10.96.0.0/16""#)];
        list(&mut known, &two, &mut batch);
        assert_eq!(
            batch.events,
            [ModelEvent::ServiceCidrsApplied(vec![
                "10.96.0.0/16".parse().unwrap(),
                "fd00::/112".parse().unwrap()
            ])]
        );
        show(&mut batch);
        list(&mut known, &two, &mut batch);
        assert_eq!(batch.events, []);
        known.delete(two[1].clone(), &mut batch);
        assert_eq!(batch.events, [ModelEvent::ServiceCidrsApplied(vec!["10.96.0.0/16".parse().unwrap()])]);
        show(&mut batch);
        known.apply(cidr("c", r#""nonsense""#), false, &mut batch);
        assert_eq!(show(&mut batch), "!");
        let mut empty = Known::new(Kind::ServiceCidr);
        list(&mut empty, &[], &mut batch);
        assert_eq!(batch.events, [ModelEvent::ServiceCidrsApplied(vec![])], "none is an answer too");
    }
}
