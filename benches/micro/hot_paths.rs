//! Benchmarks of the hot paths without a kernel, one by one: `cargo bench -p benches`.
//!
//! They show where time goes; `cargo xtask bench` measures what users get.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use benches::{
    alone::Absent,
    objects::{self, Size},
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use drain::{Cause, Key, Ledger, Overrides};
use drain_file::{DrainFile, Saved};
use ipvs::codec::{Command, Destination, DestinationKey, Service, ServiceKey, parse_destination};
use kube_source::{convert, wire};
use lb_types::Scheduler;
use netlink::{Batch, Messages};
use planner::{Context, NodeFacts, Ownership, PlannerConfig, desire_service};
use reconcile::{Config, Event, Reconciler};
use service_model::{EndpointSlice, ModelEvent, ServiceModel};
use testkit::TempDir;

/// A slice with another first endpoint each time.
fn changed(size: Size, number: usize) -> EndpointSlice {
    let service = number % size.services;
    let mut pods = objects::pods(size, service);
    pods[0] = objects::new_pod(number % 65_536);
    objects::slice(service, &pods)
}

/// Saving of `drain.json`, which the loop does itself while something drains.
fn drain_file(c: &mut Criterion) {
    let dir = TempDir::new("drain-file");
    let file = DrainFile::new(dir.path(), "3f2504e0-4f89-11d3-9a0c-0305e82c3301".to_owned());
    let mut ledger = Ledger::default();
    for n in 0..1_000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let vip = "10.96.0.80:80/TCP".parse().expect("a front");
        let key = Key { front: vip, rs: format!("10.{a}.{b}.{c}:8080").parse().expect("a real server") };
        ledger.begin(key, Cause::Terminating, &Overrides::NONE, Duration::from_secs(81_234));
        ledger.note_pod(&key, &format!("shop/web-{n}/3f2504e0-4f89-11d3-9a0c-0305e82c3301").into());
    }
    c.bench_function("drain file: save 1,000 drains", |b| {
        b.iter(|| {
            let saved = ledger
                .iter()
                .map(|(key, drain)| Saved::new(key, drain, drain.waits_for(Duration::ZERO, || None)));
            file.save(saved).expect("save the drains");
        });
    });
}

fn model(c: &mut Criterion) {
    let size = Size::of(10_000);
    let mut model = ServiceModel::default();
    for event in objects::events(size) {
        model.apply(event);
    }
    let _all = model.take_dirty();
    let mut number = 0;
    c.bench_function("model: one changed slice of 10,000", |b| {
        b.iter(|| {
            number += 1;
            model.apply(ModelEvent::SliceApplied(changed(size, number)));
            black_box(model.take_dirty())
        });
    });
    let (ownership, facts) = (Ownership::default(), NodeFacts::default());
    let config = PlannerConfig::default();
    let context = Context { config: &config, ownership: &ownership, facts: &facts };
    c.bench_function("planner: intent of one service", |b| {
        b.iter(|| {
            number += 1;
            let service = model.service(&objects::service_name(number % size.services));
            service.map(|service| black_box(desire_service(service, &model, context)))
        });
    });
}

/// Measures a step from event to writes, over tables that cost nothing.
fn step(c: &mut Criterion) {
    for size in [Size::of(100), Size::of(10_000)] {
        let mut reconciler = Reconciler::new(Config::default(), Absent::tables());
        for event in objects::events(size) {
            reconciler.handle(Event::Model(event));
        }
        while !reconciler.is_running() {
            reconciler.step(Duration::ZERO);
        }
        let mut number = 0;
        c.bench_function(&format!("loop: one changed slice of {}", size.services), |b| {
            b.iter(|| {
                number += 1;
                reconciler.handle(Event::Model(ModelEvent::SliceApplied(changed(size, number))));
                black_box(reconciler.step(Duration::ZERO))
            });
        });
    }
}

/// Measures a start from a complete model and an empty kernel to all writes.
fn start(c: &mut Criterion) {
    for services in [100, 10_000] {
        let events = objects::events(Size::of(services));
        let fresh = || {
            let mut reconciler = Reconciler::new(Config::default(), Absent::tables());
            for event in events.iter().cloned() {
                reconciler.handle(Event::Model(event));
            }
            reconciler
        };
        let mut group = c.benchmark_group("loop");
        group.sample_size(10).bench_function(format!("start with {services}"), |b| {
            b.iter_batched(
                fresh,
                |mut reconciler| {
                    while !reconciler.is_running() {
                        reconciler.step(Duration::ZERO);
                    }
                    reconciler
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

fn source(c: &mut Criterion) {
    let json = objects::slice_json(1, &objects::pods(Size::of(10), 1)).to_string();
    c.bench_function("source: JSON of a slice with 10 endpoints", |b| {
        b.iter(|| {
            let object = serde_json::from_str::<wire::AnyObject>(black_box(&json));
            object.map(|object| convert::slice(&object.into_slice()))
        });
    });
}

fn codec(c: &mut Criterion) {
    let key = ServiceKey::Address { addr: Ipv4Addr::new(10, 96, 0, 1).into(), protocol: 6, port: 80 };
    let service = Service::new(key, Scheduler::RR);
    let destinations: Vec<_> = (0..10)
        .map(|n| Destination::new(DestinationKey { addr: IpAddr::from([10, 0, 0, n]), port: 8080 }))
        .collect();
    let mut batch = Batch::new();
    c.bench_function("codec: encode a virtual server with 10 real servers", |b| {
        b.iter(|| {
            batch.clear();
            Command::NewService(&service).push(&mut batch, 30);
            for d in &destinations {
                Command::NewDest(&key, d).push(&mut batch, 30);
            }
            black_box(batch.as_bytes().len())
        });
    });
    // A reply looks like the request to add a real server, but for the counters.
    c.bench_function("codec: decode 10 real servers", |b| {
        b.iter(|| {
            let messages = Messages::new(black_box(batch.as_bytes()));
            messages.filter_map(|message| parse_destination(&message, &key)).count()
        });
    });
}

criterion_group!(hot_paths, model, drain_file, step, start, source, codec);
criterion_main!(hot_paths);
