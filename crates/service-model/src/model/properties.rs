//! Properties of the model: whatever happens, it equals the last delivered objects.

use std::collections::BTreeMap;

use lb_types::{IpFamily, ServiceName};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    Endpoint, EndpointSlice, ModelEvent, Service, ServiceModel,
    testing::{node, service, slice_name, slice_of},
};

const SERVICES: [&str; 3] = ["api", "dns", "web"];
const SLICES: [&str; 4] = ["s1", "s2", "s3", "s4"];

fn some_service() -> impl Strategy<Value = Service> {
    let ports = select(vec!["http:80/TCP", "http:80/TCP dns:53/UDP", "dns:53/UDP :9/SCTP"]);
    (select(&SERVICES[..]), ports, any::<bool>()).prop_map(|(name, ports, critical)| {
        let mut service = service(name, ports);
        service.critical = critical;
        service
    })
}

fn some_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoint = "[1-4]R?S?T?[L-]?(@a|@b|@a\\+b)?(#n1|#n2)?(=ns/p/u|=ns/q/v)?";
    let ports =
        select(vec!["", "http:80/TCP", "http:8080/TCP dns:53/UDP", "http:80/TCP http:8080/TCP :9/SCTP"]);
    let family = select(&IpFamily::ALL[..]);
    (select(&SLICES[..]), select(&SERVICES[..]), family, ports, vec(endpoint, 0..5)).prop_map(
        |(name, service, family, ports, endpoints)| {
            slice_of(family, name, service, ports, &endpoints.join(" "))
        },
    )
}

fn some_event() -> impl Strategy<Value = ModelEvent> {
    prop_oneof![
        3 => some_service().prop_map(ModelEvent::ServiceApplied),
        1 => select(&SERVICES[..]).prop_map(|name| ModelEvent::ServiceDeleted(ServiceName::new("ns", name))),
        6 => some_slice().prop_map(ModelEvent::SliceApplied),
        2 => select(&SLICES[..]).prop_map(|name| ModelEvent::SliceDeleted(slice_name(name))),
        1 => (select(vec!["n1", "n2"]), select(vec!["a", "b", ""]))
            .prop_map(|(name, zone)| ModelEvent::NodeApplied(node(name, zone))),
    ]
}

/// Everything that users of a model can see.
type View = BTreeMap<ServiceName, (Service, Vec<Vec<Endpoint>>)>;

fn view(model: &ServiceModel) -> View {
    let one = |service: &Service| {
        let both = |port| IpFamily::ALL.map(|family| model.endpoints(service, port, family));
        (service.name.clone(), (service.clone(), service.ports.iter().flat_map(both).collect()))
    };
    model.services().map(one).collect()
}

/// Last event of every object, except deletions.
fn last_words(events: &[ModelEvent]) -> Vec<ModelEvent> {
    let mut last = BTreeMap::new();
    for event in events {
        let key = match event {
            ModelEvent::ServiceApplied(service) => format!("service {}", service.name),
            ModelEvent::ServiceDeleted(name) => format!("service {name}"),
            ModelEvent::SliceApplied(slice) => format!("slice {}", slice.name.name),
            ModelEvent::SliceDeleted(name) => format!("slice {}", name.name),
            ModelEvent::ServiceCidrsApplied(_) => "prefixes".to_owned(),
            ModelEvent::NodeApplied(_) | ModelEvent::NodeDeleted | ModelEvent::Synced => "node".to_owned(),
        };
        last.insert(key, event.clone());
    }
    let is_deletion =
        |e: &ModelEvent| matches!(e, ModelEvent::ServiceDeleted(_) | ModelEvent::SliceDeleted(_));
    last.into_values().filter(|event| !is_deletion(event)).collect()
}

fn reversed(event: &ModelEvent) -> ModelEvent {
    let mut event = event.clone();
    if let ModelEvent::SliceApplied(slice) = &mut event {
        slice.endpoints.reverse();
        slice.ports.reverse();
    }
    event
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_result_depends_on_the_last_words_only(
        (events, order) in vec(some_event(), 0..40)
            .prop_flat_map(|events| (Just(last_words(&events)).prop_shuffle(), Just(events)))
            .prop_map(|(order, events)| (events, order)),
    ) {
        let (mut long, mut short) = (ServiceModel::default(), ServiceModel::default());
        for event in events {
            long.apply(event);
        }
        for event in order {
            short.apply(event);
        }
        prop_assert_eq!(view(&long), view(&short));
        prop_assert_eq!(long.node(), short.node());
    }

    #[test]
    fn a_repeated_delivery_changes_nothing(events in vec(some_event(), 0..30)) {
        let mut model = ServiceModel::default();
        for event in events.iter().cloned() {
            model.apply(event);
        }
        model.take_dirty();
        model.take_node_changed();
        for event in last_words(&events).iter().map(reversed) {
            model.apply(event);
        }
        prop_assert_eq!(model.take_dirty(), vec![]);
        prop_assert!(!model.take_node_changed());
    }

    #[test]
    fn whatever_changes_is_dirty(events in vec(some_event(), 0..30)) {
        let mut model = ServiceModel::default();
        for event in events {
            let before = view(&model);
            model.take_dirty();
            model.apply(event);
            let after = view(&model);
            let dirty = model.take_dirty();
            let names = before.keys().chain(after.keys());
            for name in names.filter(|name| before.get(*name) != after.get(*name)) {
                prop_assert!(dirty.contains(name), "{}", name);
            }
        }
    }

    #[test]
    fn deletion_leaves_nothing(events in vec(some_event(), 0..30)) {
        let mut model = ServiceModel::default();
        for event in events {
            model.apply(event);
        }
        for name in &SERVICES {
            model.apply(ModelEvent::ServiceDeleted(ServiceName::new("ns", name)));
        }
        for name in &SLICES {
            model.apply(ModelEvent::SliceDeleted(slice_name(name)));
        }
        model.take_dirty();
        model.forget_changes();
        prop_assert!(model.is_pristine());
        prop_assert_eq!(view(&model), View::new());
    }
}
