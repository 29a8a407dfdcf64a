//! The long-running process: sources and watchers feed one thread that owns the kernel.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, anyhow, bail};
use dataplane::Touched;
use drain::Outcome;
use drain_file::DrainFile;
use kernel::KernelRelease;
use kube_source::{ApiStatus, Batch, Delivery, Listener, Recorder};
use packet_rules::RulesWatcher;
use reconcile::{Event, Part, Reconciler, Step};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use service_model::ModelEvent;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use telemetry::{Health, Limits, Metrics, Process, Site, SourceStatus};
use tracing::{info, warn};
use vip::VipWatcher;

use crate::{
    advice::{self, NodeAdvice},
    clock,
    config::Settings,
    config_watch::ConfigWatch,
    drain_saver::DrainSaver,
    events, kernel_tables,
    measures::{self, Timing},
    observers::Observers,
    restart::{self, Stopped},
    source, state_dir,
};

/// Time for which a watcher blocks before it looks whether anybody still listens.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// First and longest pause of a watcher that fails; each pause is twice the one before.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// Messages that may wait for the loop. In the first lists each holds some 32 objects, or a page of them. A source that
/// is faster has to wait, so that a long list costs little memory here.
const QUEUED_MESSAGES: usize = 128;

/// Messages that one step plans together, if a source goes on filling the queue meanwhile.
const MESSAGES_PER_STEP: usize = 4096;

/// Services planned in a row that leave memory worth giving back, as a start or a new list does.
const SERVICES_BEFORE_TRIM: usize = 1000;

/// Signals that ask the process to stop.
const STOP_SIGNALS: [i32; 2] = [SIGTERM, SIGINT];

/// Messages of the threads to the loop.
enum Message {
    /// Changes of objects, with the time at which they arrived.
    Events(Vec<ModelEvent>, Instant),
    Touched(Touched),
    Stop(i32),
    /// The configuration file has another configuration.
    Reconfigured,
    /// A thread cannot go on.
    Failed(anyhow::Error),
}

/// Runs until SIGTERM, SIGINT or another configuration; the dataplane stays as it is.
pub fn run(settings: &Settings, process: Process, file: Option<ConfigWatch>) -> anyhow::Result<Stopped> {
    let _lock = state_dir::lock(&settings.state_dir)?;
    // First of all, so that whoever stops it at once finds no failure.
    for signal in STOP_SIGNALS {
        restart::note(signal).context("catch signals")?;
    }
    let signals = Signals::new(STOP_SIGNALS).context("catch signals")?;
    info!(version = env!("CARGO_PKG_VERSION"), node = %settings.node_name, "kube-ipvs starts");
    raise_open_files();
    adjust_oom_score(settings);
    kernel_tables::load_ipvs(settings);
    let choice = kernel_tables::choose_conn_reuse(settings);
    // Nothing above has started a thread that goes on, and nothing below needs more.
    if let Err(error) = kernel::drop_privileges() {
        warn!("cannot give up capabilities: {error}; a seccomp profile may forbid capset and prctl");
    }
    let (sender, receiver) = mpsc::sync_channel(QUEUED_MESSAGES);
    stop_on_signal(signals, sender.clone())?;
    advice::report_settings(settings);
    let source = source::open(settings)?;
    info!(objects = source.describe(), "follows objects");
    for warning in advice::warnings(settings, source.server()) {
        warn!("{warning}");
    }
    let health = Arc::new(Health::new(Limits::of(settings.reconcile.sync_period), source.vital()));
    // The loop counts as at work until it first waits for messages: it opens tables, which may load modules.
    health.begin_step(Instant::now());
    let metrics = Arc::new(Metrics::new(Outcome::ALL.map(Outcome::as_str)).context("set up the metrics")?);
    choice.export(&metrics, &KernelRelease::running());
    serve(settings, &health, &metrics, process)?;
    let (recorder, requests) = (source.recorder(), source.requests());
    let started = clock::wall();
    // The API server answers while the loop opens the tables.
    let receivers = (Arc::clone(&health), Arc::clone(&metrics));
    follow(source, sender.clone(), receivers, (started, NodeAdvice::new(settings)))?;
    let opened = kernel_tables::open()?;
    kernel_tables::set_timeouts(settings)?;
    let config = kernel_tables::for_this_kernel(settings, &choice);
    if let Some(file) = file {
        watch_config(file, sender.clone())?;
    }
    // Before the first dump, so that no change falls in between.
    watch_vips(opened.vip_port, sender.clone())?;
    watch_rules(opened.rules_watcher, sender)?;
    let mut reconciler = Reconciler::new(config, opened.tables);
    let file = DrainFile::new(&settings.state_dir, kernel::boot_id().context("read the boot's id")?);
    let saver = DrainSaver::resume(file, &mut reconciler);
    let addresses = settings.reconcile.planner.node_port_addresses.clone();
    if let Some(recorder) = &recorder {
        recorder.record(events::of_start());
    }
    let observers = Observers::new(health, metrics, started).with_recorder(recorder).with_requests(requests);
    let observers = observers.with_health_checks(addresses).context("start the health checks of Services")?;
    let observers = observers.with_kube_proxy_rules(settings.kube_proxy_rules);
    observers.report_findings(&reconciler);
    Ok(drive(reconciler, saver, &receiver, &observers)?.with_probe(choice.outcome()))
}

/// Raises the limit of open files as far as this process may: each health check of a Service has sockets of its own.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        warn!("raise the limit of open files ({limit:?}): {error}");
    }
}

/// Sets the rank among the processes that the kernel kills, as far as this process may.
fn adjust_oom_score(settings: &Settings) {
    let rank = settings.oom_score_adj;
    if let Err(error) = kernel::set_oom_score_adj(rank) {
        info!("cannot set oom_score_adj to {rank}: {error}; CAP_SYS_RESOURCE is needed to lower it");
    }
}

fn serve(
    settings: &Settings,
    health: &Arc<Health>,
    metrics: &Arc<Metrics>,
    process: Process,
) -> anyhow::Result<()> {
    if let Some(addr) = settings.healthz {
        let site = Site::Health(Arc::clone(health), Arc::clone(metrics));
        telemetry::serve(addr, site, settings.bind_failure, None)
            .with_context(|| format!("start the health server at {addr}"))?;
    }
    if let Some(addr) = settings.metrics {
        let site = Site::Metrics(Arc::clone(metrics), Arc::new(process));
        telemetry::serve(addr, site, settings.bind_failure, None)
            .with_context(|| format!("start the metrics server at {addr}"))?;
    }
    Ok(())
}

fn stop_on_signal(mut signals: Signals, sender: SyncSender<Message>) -> anyhow::Result<()> {
    spawn("signals", sender, move |sender| {
        if let Some(signal) = signals.forever().next() {
            let _closed = sender.send(Message::Stop(signal));
        }
    })
}

fn watch_config(mut file: ConfigWatch, sender: SyncSender<Message>) -> anyhow::Result<()> {
    spawn("configuration", sender, move |sender| {
        file.wait();
        let _closed = sender.send(Message::Reconfigured);
    })
}

/// Starts the source, whose changes go to the loop; statuses and times of delivery go to whoever shows them.
fn follow(
    source: source::Opened,
    sender: SyncSender<Message>,
    (health, metrics): (Arc<Health>, Arc<Metrics>),
    (started, mut node_advice): (SystemTime, NodeAdvice),
) -> anyhow::Result<()> {
    let recorder = source.recorder();
    spawn("source", sender, move |sender| {
        source.run(|delivery| {
            let passed_on = match delivery {
                Delivery::Objects(batch) => {
                    for event in &batch.events {
                        if let Some(warning) = node_advice.take(event) {
                            warn!("{warning}");
                        }
                    }
                    measures::record_delivery(&metrics, &batch.events, started, clock::wall());
                    forward(batch, recorder.as_ref(), sender)
                }
                Delivery::Status(kind, status) => {
                    metrics.sources.set_following(kind, status == ApiStatus::Following);
                    health.set_source_status(kind, source_status(status));
                    Ok(())
                }
            };
            if passed_on.is_ok() { Listener::Listens } else { Listener::Gone }
        });
    })
}

fn source_status(status: ApiStatus) -> SourceStatus {
    match status {
        ApiStatus::Following => SourceStatus::Following,
        ApiStatus::Failing(code) => SourceStatus::Failing(code),
    }
}

/// Error of a message to a loop that has ended.
struct LoopGone;

/// Logs problems, each once, reports those of Services, and passes changes of the model on.
fn forward(batch: Batch, recorder: Option<&Recorder>, sender: &SyncSender<Message>) -> Result<(), LoopGone> {
    for problem in &batch.problems {
        warn!("{problem}");
        if let Some((recorder, notice)) = recorder.zip(problem.notice()) {
            recorder.record(notice);
        }
    }
    for problem in &batch.healed {
        info!("no longer: {problem}");
    }
    if batch.events.is_empty() {
        return Ok(());
    }
    send(sender, Message::Events(batch.events, Instant::now()))
}

fn send(sender: &SyncSender<Message>, message: Message) -> Result<(), LoopGone> {
    sender.send(message).map_err(|_| LoopGone)
}

fn watch_vips(own_port: u32, sender: SyncSender<Message>) -> anyhow::Result<()> {
    let mut watcher = VipWatcher::open(own_port).context("listen to changes of routes")?;
    spawn("vip-watcher", sender, move |sender| {
        let wait = || watcher.wait(LONGEST_WAIT).context("listen to changes of routes");
        watch(wait, Touched::Vips, sender, thread::sleep);
    })
}

fn watch_rules(mut watcher: RulesWatcher, sender: SyncSender<Message>) -> anyhow::Result<()> {
    spawn("rules-watcher", sender, move |sender| {
        let wait = || watcher.wait(LONGEST_WAIT).context("listen to changes of nftables");
        watch(wait, Touched::Rules, sender, thread::sleep);
    })
}

/// Forwards the changes that a watcher sees until the loop is gone. A watcher that fails, because the node is short of
/// memory for example, tries again after a pause; meanwhile its whole `table` counts as touched.
fn watch(
    mut wait: impl FnMut() -> anyhow::Result<Option<Touched>>,
    table: Touched,
    sender: &SyncSender<Message>,
    mut sleep: impl FnMut(Duration),
) {
    let mut failing: Option<Duration> = None;
    loop {
        let touched = match wait() {
            Ok(touched) => {
                if failing.take().is_some() {
                    info!("listens to changes of {} again", name(table));
                }
                touched
            }
            Err(error) => {
                if failing.is_none() {
                    warn!(
                        "cannot {error:#}; tries again, and compares the whole table each time until it can"
                    );
                }
                let pause = failing.map_or(FIRST_RETRY_PAUSE, |pause| (pause * 2).min(LONGEST_RETRY_PAUSE));
                failing = Some(pause);
                sleep(pause);
                Some(table)
            }
        };
        if touched.is_some_and(|table| send(sender, Message::Touched(table)).is_err()) {
            return;
        }
    }
}

/// Word for a table in the log, as in the operation of its watcher.
fn name(table: Touched) -> &'static str {
    match table {
        Touched::Vips => "routes",
        Touched::Rules => "nftables",
    }
}

/// Starts a thread that the loop cannot do without. When it ends before the loop, in whatever way, the process ends,
/// because the loop would serve for ever from the objects that it has.
fn spawn(
    name: &'static str,
    sender: SyncSender<Message>,
    body: impl FnOnce(&SyncSender<Message>) + Send + 'static,
) -> anyhow::Result<()> {
    let watched = move || {
        let how = match panic::catch_unwind(AssertUnwindSafe(|| body(&sender))) {
            Ok(()) => "has ended",
            Err(_) => "has panicked; the message is in the log above",
        };
        let _loop_gone = send(&sender, Message::Failed(anyhow!("thread {name} {how}")));
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(watched)
        .with_context(|| format!("start thread {name}"))?;
    Ok(())
}

/// Hands events and the time to the loop. Messages that arrived while the loop was at work go into one plan.
fn drive(
    mut reconciler: Reconciler,
    mut saver: DrainSaver,
    receiver: &Receiver<Message>,
    observers: &Observers,
) -> anyhow::Result<Stopped> {
    let mut planned = 0;
    loop {
        let now = clock::now();
        let wakeup = reconciler.next_wakeup(now).into_iter().chain(saver.due(&reconciler)).min();
        observers.health.end_step();
        let first = match wakeup.map(|due| due.saturating_sub(now)) {
            Some(wait) => receiver.recv_timeout(wait),
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let first = match first {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => bail!("all sources have ended"),
        };
        let begun = Instant::now();
        observers.health.begin_step(begun);
        let waiting = std::iter::from_fn(|| receiver.try_recv().ok()).take(MESSAGES_PER_STEP);
        for message in first.into_iter().chain(waiting) {
            match message {
                Message::Events(events, arrived) => {
                    observers.measures.report_arrival(arrived);
                    for event in events {
                        reconciler.handle(Event::Model(event));
                    }
                }
                Message::Touched(table) => reconciler.handle(Event::Touched(table)),
                Message::Stop(signal) => {
                    info!(signal, "stops; virtual servers, routes and packet rules stay as they are");
                    saver.finish(&reconciler);
                    return Ok(Stopped::Done);
                }
                Message::Reconfigured => {
                    saver.finish(&reconciler);
                    return Ok(Stopped::Reconfigured(None));
                }
                Message::Failed(error) => {
                    saver.finish(&reconciler);
                    return Err(error);
                }
            }
        }
        let (services, timing) = step(&mut reconciler, observers, begun);
        planned += services;
        saver.save_if_due(&reconciler, clock::now());
        observers.report_standing(timing, reconciler.standing());
        observers.measures.report_state(&reconciler, timing);
        // A load balancer must not hear of endpoints that node ports do not lead to yet.
        if reconciler.is_running() {
            observers.report_health_checks(&reconciler);
        }
        let is_idle = reconciler.is_running() && !reconciler.has_backlog();
        if is_idle && std::mem::take(&mut planned) >= SERVICES_BEFORE_TRIM {
            kernel::give_memory_back();
        }
    }
}

/// Executes one step, and returns the number of Services that it planned. `begun` is the time at which the loop took the
/// messages before it.
fn step(reconciler: &mut Reconciler, observers: &Observers, begun: Instant) -> (usize, Timing) {
    let (begin, spent) = (clock::now(), clock::spent());
    let report = reconciler.step(begin);
    let end = clock::now();
    reconciler.charge(report.step, clock::spent().saturating_sub(spent), end);
    if !report.is_quiet() {
        let took = end.saturating_sub(begin);
        info!(?took, "sync: {report}");
    }
    let timing = Timing { begun, ended: Instant::now(), at: clock::wall() };
    observers.report_step(&report, timing, reconciler.state().drains.len());
    if report.step == Step::Audit(Part::Servers) {
        observers.measures.report_traffic(reconciler);
    }
    observers.report_shortfalls(reconciler.shortfalls());
    observers.report_problems(reconciler.take_new_problems());
    if report.findings {
        observers.report_findings(reconciler);
    }
    (report.services, timing)
}

#[cfg(test)]
mod tests;
