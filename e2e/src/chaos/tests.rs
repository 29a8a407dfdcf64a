//! Tests of the random work itself: it is reproducible and valid, and makes every kind of change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Cluster, History, Id, Random, Step, damage};
use crate::{checker::Wanted, manifest::NODE_NAME, observe::parse_ipvs};

const BYSTANDER: &str = "bystander";

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(30);
    let metadata = json!({"namespace": "default", "name": BYSTANDER});
    cluster.adopt(vec![
        json!({"kind": "Node", "metadata": {"name": NODE_NAME}}),
        json!({"kind": "Service", "metadata": metadata, "spec": {"clusterIP": "10.96.0.80"}}),
    ]);
    cluster
}

/// Applies the steps to a store, as a server would.
fn replay(store: &mut BTreeMap<Id, Value>, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Apply(object) => drop(store.insert(Id::of(&object), object)),
            Step::Delete(id) => assert!(store.remove(&id).is_some(), "{id:?} does not exist"),
        }
    }
}

#[test]
fn a_seed_repeats_and_another_one_differs() {
    let sequence = |seed| {
        let (mut random, mut cluster) = (Random::new(seed), cluster());
        (0..200).map(|_| cluster.change(&mut random)).collect::<Vec<_>>()
    };
    assert_eq!(sequence(7), sequence(7));
    assert_ne!(sequence(7), sequence(8));
    assert_ne!(Random::new(0x9e37_79b9_7f4a_7c15).below(1 << 30), 0, "the seed that cancels out");
}

#[test]
fn changes_are_valid_and_touch_only_what_they_may() {
    let (mut random, mut cluster) = (Random::new(3), cluster());
    let mut store: BTreeMap<Id, Value> =
        cluster.objects().map(|object| (Id::of(object), object.clone())).collect();
    let bystander = store.clone();
    for _ in 0..30 {
        replay(&mut store, cluster.create(&mut random).unwrap().steps);
    }
    let (mut words, mut fewest, mut most) = (BTreeSet::new(), usize::MAX, 0);
    for _ in 0..3_000 {
        let change = cluster.change(&mut random);
        assert!(!change.what.is_empty());
        words.extend(change.what.split(' ').next().map(str::to_owned));
        replay(&mut store, change.steps);
        let count = cluster.services().len();
        (fewest, most) = (fewest.min(count), most.max(count));
    }
    assert!(cluster.objects().eq(store.values()), "the steps do what the cluster believes");
    assert!(bystander.iter().all(|(id, object)| store[id] == *object));
    assert!(fewest >= 26 && most <= 34, "from {fewest} to {most} Services");
    for word in ["create", "delete", "ports", "type", "affinity", "scale", "split", "merge", "move", "give"] {
        assert!(words.contains(word), "{word} never happened in {words:?}");
    }
    let objects: Vec<Value> = store.into_values().collect();
    let wanted = Wanted::of(&objects, NODE_NAME).unwrap();
    assert!(wanted.servers.len() > 10 && wanted.servers.values().any(|server| server.real.len() > 1));
}

/// No two Services ever share an address: the API server would refuse it.
#[test]
fn addresses_are_never_shared() {
    let (mut random, mut cluster) = (Random::new(11), cluster());
    let mut store = BTreeMap::new();
    for _ in 0..1_000 {
        for step in cluster.change(&mut random).steps {
            replay(&mut store, vec![step]);
            let ips: Vec<_> = store.values().flat_map(ips).collect();
            assert_eq!(ips.iter().collect::<BTreeSet<_>>().len(), ips.len(), "{ips:?}");
        }
    }
}

fn ips(object: &Value) -> Vec<String> {
    let ips = object["spec"]["clusterIPs"].as_array();
    ips.into_iter().flatten().map(ToString::to_string).collect()
}

#[test]
fn damage_is_done_to_what_is_there() {
    let ipvs = parse_ipvs(
        "-A -t 10.96.0.80:80 -s rr\n-a -t 10.96.0.80:80 -r 10.244.0.11:8080 -m -w 1\n-A -u [fd00:96::81]:53 -s rr\n",
    );
    let mut random = Random::new(5);
    let lines: BTreeSet<_> = (0..2_000).map(|_| damage(&mut random, &ipvs)).collect();
    for line in [
        "ipvsadm -C",
        "nft delete table inet kube-ipvs",
        "ip link delete kube-ipvs0",
        "ipvsadm -d -t 10.96.0.80:80 -r 10.244.0.11:8080",
        "ipvsadm -D -u [fd00:96::81]:53",
        "ip route delete local fd00:96::81 table local",
        "nft flush set inet kube-ipvs services-v6",
    ] {
        assert!(lines.contains(line), "{line} is missing in {lines:#?}");
    }
    let nothing = parse_ipvs("");
    assert!((0..200).all(|_| !damage(&mut random, &nothing).is_empty()));
}

#[test]
fn the_last_fifty_actions_are_kept() {
    let mut history = History::new();
    for number in 0..60 {
        history.add(&format!("action {number};"));
    }
    let text = history.to_string();
    assert!(text.contains("action 10;") && text.contains("action 59;") && !text.contains("action 9;"));
    assert!(text.starts_with("the last 50 of 60 actions"));
}
