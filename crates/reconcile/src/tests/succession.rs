//! Ownership of a real server's connections when pods come and go at its address.

use dataplane::Touched;
use drain::{EndpointGone, Outcome, Overrides};
use lb_types::{ConnectionCounters, IpvsOp, Protocol};
use service_model::SlicePort;

use super::*;

const NODE: &str = "192.168.50.20";

/// `ADDRESS=POD`, with `-T` behind it for one that terminates: in a slice of a Service, at a port.
fn listed(name: &str, service: &str, port: u16, endpoints: &str) -> ModelEvent {
    let endpoint = |text: &str| {
        let (addr, pod) = text.split_once('=').unwrap();
        let (pod, terminating) = pod.strip_suffix("-T").map_or((pod, false), |pod| (pod, true));
        SliceEndpoint {
            ready: !terminating,
            terminating,
            pod: (!pod.is_empty()).then(|| format!("default/{pod}/uid-{pod}").into()),
            ..plain_endpoint(ip(addr))
        }
    };
    let port = SlicePort { name: "".into(), protocol: Protocol::Tcp, port: port.try_into().unwrap() };
    let endpoints = endpoints.split_whitespace().map(endpoint).collect();
    ModelEvent::SliceApplied(plain_slice(name, ServiceName::new("default", service), vec![port], endpoints))
}

fn web_slice(name: &str, endpoints: &str) -> ModelEvent {
    listed(name, "web", 8080, endpoints)
}

fn slice_deleted(name: &str) -> ModelEvent {
    ModelEvent::SliceDeleted(SliceName { namespace: "default".into(), name: name.into() })
}

fn at(addr: &str, port: u16) -> RealServerId {
    RealServerId { addr: ip(addr), port: port.try_into().unwrap() }
}

impl World {
    /// Services `web` and `api`, and some slices.
    fn with_slices(slices: impl IntoIterator<Item = ModelEvent>) -> Self {
        let services = [applied(service("web", WEB)), applied(service("api", API))];
        World::synced(services.into_iter().chain(slices))
    }

    fn hold(&self, vs: VirtualServerId, rs: RealServerId) {
        let connections = ConnectionCounters { active: 1, inactive: 0, persistent: 0 };
        self.kernel.ipvs.set_connections(vs, rs, connections);
    }

    /// Writes to IPVS since the last time, after one more event.
    fn writes(&mut self, event: ModelEvent) -> Vec<String> {
        self.kernel.ipvs.take_ops();
        self.send(event);
        self.run();
        self.kernel.ipvs.take_ops().iter().map(ToString::to_string).collect()
    }

    fn causes(&self) -> Vec<(RealServerId, drain::Cause)> {
        self.reconciler.state().drains.iter().map(|(key, drain)| (key.rs, drain.cause)).collect()
    }

    fn has(&self, vs: VirtualServerId, rs: RealServerId) -> Option<u32> {
        let servers = self.kernel.ipvs.virtual_servers();
        servers.get(&vs).and_then(|(_, real_servers)| Some(real_servers.get(&rs)?.weight.0))
    }
}

const API: &str = "10.96.255.90";

fn api_vs() -> VirtualServerId {
    vs(API, Protocol::Tcp)
}

#[test]
fn an_address_is_handed_over_once() {
    let mut world = World::with_slices([web_slice("a", "10.244.0.11=old 10.244.0.12=other")]);
    let shared = rs("10.244.0.11");
    world.hold(web_vs(), shared);
    world.sync(web_slice("a", "10.244.0.11=old-T 10.244.0.12=other"));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.has(web_vs(), shared), Some(0));
    // The old pod hangs, the new one has its address already.
    world.sync(web_slice("b", "10.244.0.11=new"));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.has(web_vs(), shared), Some(1), "serves");
    assert_eq!(world.writes(web_slice("a", "10.244.0.12=other")), [""; 0], "the new pod's connections stay");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.has(web_vs(), shared), Some(1));
    // The same in one slice.
    let both = "10.244.0.11=new-T 10.244.0.11=newer 10.244.0.12=other";
    world.sync(web_slice("a", both));
    world.sync(web_slice("b", ""));
    world.pass(Duration::from_secs(2));
    let only_newer = web_slice("a", "10.244.0.11=newer 10.244.0.12=other");
    assert_eq!(world.writes(only_newer), [""; 0]);
}

#[test]
fn pods_of_a_nodes_network_come_and_go_on_their_own_ports() {
    let slices =
        |first: &str, second: &str| [listed("a", "web", 8080, first), listed("b", "web", 9090, second)];
    let old = format!("{NODE}=old");
    let other = format!("{NODE}=other");
    let mut world = World::with_slices(slices(&old, &other));
    let (first, second) = (at(NODE, 8080), at(NODE, 9090));
    world.hold(web_vs(), first);
    world.hold(web_vs(), second);
    world.sync(listed("a", "web", 8080, &format!("{old}-T")));
    // A new pod beside the one that still drains evicts nothing.
    assert_eq!(
        world.writes(listed("c", "api", 7070, &format!("{NODE}=new"))),
        [format!("add real server {NODE}:7070 to {} Masq weight 1", api_vs())]
    );
    world.pass(Duration::from_secs(30));
    assert_eq!(world.has(web_vs(), first), Some(0), "drains beside the new pod");
    world.sync(listed("a", "web", 8080, ""));
    world.pass(Duration::from_secs(2));
    assert_eq!((world.has(web_vs(), first), world.has(web_vs(), second)), (None, Some(1)));
}

#[test]
fn a_pod_that_lost_its_label_is_not_cut_because_another_starts_on_its_node() {
    for wait in [0, 1, 59, 61, 300] {
        let mut world = World::with_slices([web_slice("a", &format!("{NODE}=old 10.244.0.12=other"))]);
        let old = rs(NODE);
        world.hold(web_vs(), old);
        world.sync(web_slice("a", "10.244.0.12=other"));
        world.pass(Duration::from_secs(wait));
        world.sync(listed("b", "api", 9090, &format!("{NODE}=new")));
        world.pass(Duration::from_secs(60));
        assert_eq!(world.has(web_vs(), old), Some(0), "after {wait} s");
        // The other way round.
        let mut world = World::with_slices([web_slice("a", &format!("{NODE}=old 10.244.0.12=other"))]);
        world.hold(web_vs(), old);
        world.sync(listed("b", "api", 9090, &format!("{NODE}=new")));
        world.pass(Duration::from_secs(wait));
        world.sync(web_slice("a", "10.244.0.12=other"));
        world.pass(Duration::from_secs(60));
        assert_eq!(world.has(web_vs(), old), Some(0), "after {wait} s");
        assert_eq!(world.causes(), [(old, drain::Cause::LeftSlices)]);
    }
}

#[test]
fn a_pod_is_gone_when_the_last_slice_of_any_service_has_lost_it() {
    for known in ["api", "unknown"] {
        let mut world = World::with_slices([
            web_slice("a", "10.244.0.11=old 10.244.0.12=other"),
            listed("b", known, 8080, "10.244.0.11=old"),
        ]);
        let old = rs("10.244.0.11");
        world.hold(web_vs(), old);
        if known == "api" {
            world.hold(api_vs(), old);
        }
        world.sync(web_slice("a", "10.244.0.11=old-T 10.244.0.12=other"));
        world.sync(listed("b", known, 8080, "10.244.0.11=old-T"));
        // Its label changed: `web` does not select it any more.
        world.sync(web_slice("a", "10.244.0.12=other"));
        world.pass(Duration::from_secs(60));
        assert_eq!(world.has(web_vs(), old), Some(0), "{known} lists it: it lives");
        world.send(listed("b", known, 8080, ""));
        world.pass(Duration::from_secs(2));
        assert_eq!((world.has(web_vs(), old), world.has(api_vs(), old)), (None, None), "{known}");
        assert_eq!(world.reconciler.state().drains.len(), 0);
    }
}

#[test]
fn a_pod_whose_port_changed_is_not_gone() {
    let mut world = World::with_slices([listed("a", "web", 8080, "10.244.0.11=old")]);
    world.hold(web_vs(), at("10.244.0.11", 8080));
    world.sync(listed("a", "web", 9090, "10.244.0.11=old"));
    world.pass(Duration::from_secs(60));
    assert_eq!(world.has(web_vs(), at("10.244.0.11", 8080)), Some(0), "its connections continue");
    world.sync(listed("a", "web", 9090, "10.244.0.11=old-T"));
    world.sync(listed("a", "web", 9090, ""));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.kernel.weights(web_vs()), [], "gone on both ports");
}

#[test]
fn a_slice_whose_service_comes_later_says_who_is_there() {
    let mut world = World::with_slices([web_slice("a", "10.244.0.11=old 10.244.0.12=other")]);
    let old = rs("10.244.0.11");
    world.hold(web_vs(), old);
    world.sync(listed("b", "later", 8080, "10.244.0.11=new"));
    world.sync(web_slice("a", "10.244.0.12=other"));
    world.run();
    assert_eq!(world.has(web_vs(), old), None, "its address and port belong to another pod");
}

#[test]
fn a_ready_endpoint_that_is_not_chosen_keeps_its_connections() {
    let hinted = |zone: &str| {
        let ModelEvent::SliceApplied(mut slice) = web_slice("a", "10.244.0.11=far 10.244.0.12=near") else {
            panic!("no slice")
        };
        for (endpoint, zone) in slice.endpoints.iter_mut().zip([zone, "here"]) {
            endpoint.zone_hints = vec![zone.into()];
        }
        slice
    };
    let in_zone = |zone: &str| match node() {
        ModelEvent::NodeApplied(node) => ModelEvent::NodeApplied(Node { zone: Some(zone.into()), ..node }),
        other => other,
    };
    let mut world = World::with_slices([ModelEvent::SliceApplied(hinted("here"))]);
    world.send(in_zone("here"));
    world.run();
    let far = rs("10.244.0.11");
    world.hold(web_vs(), far);
    world.sync(ModelEvent::SliceApplied(hinted("there")));
    assert_eq!(world.has(web_vs(), far), Some(0));
    assert_eq!(world.causes(), [(far, drain::Cause::NotChosen)]);
    let (_, drain) = world.reconciler.state().drains.iter().next().unwrap();
    assert_eq!(drain.deadline(), None);
    world.pass(Duration::from_secs(24 * 3600));
    assert_eq!(world.has(web_vs(), far), Some(0), "for as long as it likes");
    // Its pod ends: from now on there is a deadline.
    let mut ending = hinted("there");
    (ending.endpoints[0].ready, ending.endpoints[0].terminating) = (false, true);
    world.sync(ModelEvent::SliceApplied(ending));
    world.pass(Duration::from_secs(14 * 60));
    assert_eq!(world.has(web_vs(), far), Some(0));
    world.pass(Duration::from_secs(2 * 60));
    assert_eq!(world.has(web_vs(), far), None, "15 minutes after it began to terminate");
    // An idle one goes.
    let mut world = World::with_slices([ModelEvent::SliceApplied(hinted("here"))]);
    world.send(in_zone("here"));
    world.run();
    world.sync(ModelEvent::SliceApplied(hinted("there")));
    world.pass(Duration::from_secs(15));
    assert_eq!(world.has(web_vs(), far), None);
}

#[test]
fn what_came_and_went_while_the_link_was_refused_deletes_nothing_later() {
    let mut world = World::synced(web());
    let passing = vs("10.96.255.91", Protocol::Tcp);
    world.kernel.vips.set_link_down();
    world.kernel.vips.refuse(|op| matches!(op, lb_types::VipOp::EnsureLink).then_some(1));
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.run();
    world.sync(applied(service("passing", "10.96.255.91")));
    world.sync(ready("passing", &["10.244.0.31"]));
    world.sync(deleted("passing"));
    world.run();
    assert_eq!(world.kernel.weights(passing), []);
    world.kernel.vips.refuse_nothing();
    world.pass(Duration::from_secs(60));
    // Whoever adds it afterwards: it drains before it goes.
    let rs = rs("10.244.0.31");
    let settings = lb_types::VirtualServer::new(lb_types::Scheduler::RR);
    world.kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs: passing, settings });
    let settings = lb_types::RealServer::SERVING;
    world.kernel.ipvs.by_another(IpvsOp::AddRealServer { vs: passing, rs, settings });
    world.hold(passing, rs);
    world.pass(SYNC_PERIOD * 3);
    assert_eq!(world.has(passing, rs), Some(0), "quiesced, not deleted");
}

/// Conformance: ipvs/graceful_termination Test_GracefulDeleteRS: RS mismatch
#[test]
fn records_of_drains_that_are_none_are_not_kept() {
    let mut world = World::synced(web());
    let stale = drain::Key { front: web_front(), rs: rs("10.244.0.99") };
    let record = drain::Record {
        cause: drain::Cause::LeftSlices,
        since: Time::from_secs(1),
        overrides: drain::Overrides::NONE,
        pod: None,
        pod_ended: false,
    };
    world = World { now: world.now, ..World::on(world.kernel.clone(), config()) };
    world.reconciler.restore([(stale, record)]);
    let before = world.reconciler.state().drains.version();
    world.deliver(web());
    world.run();
    assert_eq!(world.reconciler.state().drains.len(), 0);
    assert_ne!(world.reconciler.state().drains.version(), before, "the file is written anew");
}

#[test]
fn a_restart_does_not_forget_that_a_pod_has_ended() {
    for restarts in [false, true] {
        let slices = [
            web_slice("a", "10.244.0.11=old 10.244.0.12=other"),
            listed("b", "api", 9090, "10.244.0.11=old"),
            listed("c", "api", 9091, "10.244.0.11=old"),
        ];
        let mut world = World::with_slices(slices.clone());
        world.hold(web_vs(), rs("10.244.0.11"));
        let [_, _, second] = slices;
        let other = web_slice("a", "10.244.0.12=other");
        world.sync(other.clone());
        // It terminates in one slice, leaves that, and is listed by another one still.
        world.sync(listed("b", "api", 9090, "10.244.0.11=old-T"));
        let version = world.reconciler.state().drains.version();
        world.sync(listed("b", "api", 9090, ""));
        assert_ne!(world.reconciler.state().drains.version(), version, "the file is written anew");
        assert!(world.causes().contains(&(rs("10.244.0.11"), drain::Cause::LeftSlices)));
        if restarts {
            let drains = world.reconciler.state().drains.iter();
            let records: Vec<(drain::Key, drain::Record)> =
                drains.map(|(key, drain)| (*key, drain.into())).collect();
            world = World { now: world.now, ..World::on(world.kernel.clone(), config()) };
            world.reconciler.restore(records);
            let services = [applied(service("web", WEB)), applied(service("api", API))];
            world.deliver(services.into_iter().chain([other, second]));
            world.run();
        }
        assert_eq!(world.has(web_vs(), rs("10.244.0.11")), Some(0), "listed: {restarts}");
        world.sync(listed("c", "api", 9091, ""));
        world.pass(Duration::from_secs(3));
        assert_eq!(world.has(web_vs(), rs("10.244.0.11")), None, "gone: {restarts}");
    }
}

/// The controller writes slices that it reuses one after the other, with their endpoints shuffled.
///
/// Conformance: ipvs/graceful_termination Test_GracefulDeleteRS: active connections
#[test]
fn a_terminating_pod_that_moves_to_another_slice_keeps_its_connections() {
    let old = rs("10.244.0.11");
    for deletes in [false, true] {
        let mut world = World::with_slices([
            web_slice("a", "10.244.0.11=old 10.244.0.12=other"),
            web_slice("b", "10.244.0.13=third"),
        ]);
        world.hold(web_vs(), old);
        world.sync(web_slice("a", "10.244.0.11=old-T 10.244.0.12=other"));
        world.sync(if deletes { slice_deleted("a") } else { web_slice("a", "10.244.0.12=other") });
        assert_eq!(world.has(web_vs(), old), Some(0), "it may come back");
        world.pass(Duration::from_secs(1));
        world.sync(web_slice("b", "10.244.0.11=old-T 10.244.0.13=third"));
        world.pass(Duration::from_secs(60));
        assert_eq!(world.has(web_vs(), old), Some(0), "it lives");
        // It ends.
        world.sync(web_slice("b", "10.244.0.13=third"));
        let is_last = deletes;
        assert_eq!(world.has(web_vs(), old), (!is_last).then_some(0), "only another slice could list it");
        world.pass(Duration::from_secs(3));
        assert_eq!(world.has(web_vs(), old), None);
    }
}

#[test]
fn an_outcome_counts_what_it_cut() {
    let mut world = World::with_slices([web_slice("a", "10.244.0.11=old 10.244.0.12=other")]);
    world.hold(web_vs(), rs("10.244.0.11"));
    world.sync(web_slice("a", "10.244.0.11=old-T 10.244.0.12=other"));
    world.pass(Duration::from_secs(2));
    world.send(web_slice("a", "10.244.0.12=other"));
    let report = world.run();
    let ended: Vec<_> = report.ended.iter().map(|ended| (ended.outcome, ended.cut)).collect();
    assert_eq!(ended, [(Outcome::EndpointGone, 1)]);
}

#[test]
fn a_pod_that_is_gone_goes_on_draining_where_its_service_wants_that() {
    for (wish, weight) in [(EndpointGone::Remove, None), (EndpointGone::Drain, Some(0))] {
        let mut web = service("web", WEB);
        web.settings.drain = Some(Overrides { endpoint_gone: Some(wish), ..Overrides::NONE }.into());
        let slice = web_slice("a", "10.244.0.11=old 10.244.0.12=other");
        let mut world = World::with_slices([applied(web), slice]);
        world.hold(web_vs(), rs("10.244.0.11"));
        world.sync(web_slice("a", "10.244.0.11=old-T 10.244.0.12=other"));
        world.pass(Duration::from_secs(2));
        world.sync(web_slice("a", "10.244.0.12=other"));
        assert_eq!(world.has(web_vs(), rs("10.244.0.11")), weight, "{wish}");
    }
}

#[test]
fn an_endpoint_without_a_pod_on_another_port_keeps_no_dead_pod_alive() {
    // As the API server's own, on a node whose network other pods share.
    let mut world = World::with_slices([
        web_slice("a", &format!("{NODE}=old 10.244.0.12=other")),
        listed("kubernetes", "kubernetes", 6443, &format!("{NODE}=")),
    ]);
    world.hold(web_vs(), rs(NODE));
    world.sync(web_slice("a", &format!("{NODE}=old-T 10.244.0.12=other")));
    world.pass(Duration::from_secs(1));
    world.sync(web_slice("a", "10.244.0.12=other"));
    assert_eq!(world.has(web_vs(), rs(NODE)), None);
}
