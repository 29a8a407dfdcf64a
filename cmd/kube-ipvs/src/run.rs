//! The long-running process: sources and watchers feed one thread that owns the kernel.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use dataplane::Touched;
use drain::Outcome;
use drain_file::DrainFile;
use kube_source::{ApiStatus, Batch, Delivery, Listener};
use packet_rules::RulesWatcher;
use reconcile::{Event, Reconciler};
use service_model::ModelEvent;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use telemetry::{Health, Limits, Metrics, Site, SourceStatus};
use tracing::{info, warn};
use vip::VipWatcher;

use crate::{
    advice, clock, config::Settings, drain_saver::DrainSaver, kernel_tables, observers::Observers, source,
    state_dir,
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

/// Messages of the threads to the loop.
enum Message {
    Events(Vec<ModelEvent>),
    Touched(Touched),
    Stop(i32),
    /// A thread cannot go on.
    Failed(anyhow::Error),
}

/// Runs until SIGTERM or SIGINT; the dataplane stays as it is.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    let _lock = state_dir::lock(&settings.state_dir)?;
    info!(version = env!("CARGO_PKG_VERSION"), node = %settings.node_name, "kube-ipvs starts");
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let source = source::open(settings)?;
    info!(objects = source.describe(), "follows objects");
    for warning in advice::warnings(settings, source.server()) {
        warn!("{warning}");
    }
    let health = Arc::new(Health::new(Limits::of(settings.reconcile.sync_period), source.vital()));
    // The loop counts as at work until it first waits for messages: it opens tables, which may load modules.
    health.begin_step(Instant::now());
    let metrics = Arc::new(Metrics::new(Outcome::ALL.map(Outcome::as_str)).context("set up the metrics")?);
    serve(settings, &health, &metrics)?;
    let (sender, receiver) = mpsc::sync_channel(QUEUED_MESSAGES);
    // The API server answers while the loop opens the tables.
    follow(source, sender.clone(), Arc::clone(&health))?;
    let opened = kernel_tables::open()?;
    kernel_tables::set_timeouts(settings)?;
    let choice = kernel_tables::choose_conn_reuse(settings, Some(&metrics));
    let config = kernel_tables::for_this_kernel(settings, &choice);
    stop_on_signal(sender.clone())?;
    // Before the first dump, so that no change falls in between.
    watch_vips(opened.vip_port, sender.clone())?;
    watch_rules(opened.rules_watcher, sender)?;
    let mut reconciler = Reconciler::new(config, opened.tables);
    let file = DrainFile::new(&settings.state_dir, kernel::boot_id().context("read the boot's id")?);
    let saver = DrainSaver::resume(file, &mut reconciler);
    let observers = Observers::new(health, metrics);
    observers.report_findings(&reconciler);
    drive(reconciler, saver, &receiver, &observers)
}

fn serve(settings: &Settings, health: &Arc<Health>, metrics: &Arc<Metrics>) -> anyhow::Result<()> {
    if let Some(addr) = settings.healthz {
        let site = Site::Health(Arc::clone(health));
        telemetry::serve(addr, site, None).context("start the health server")?;
    }
    if let Some(addr) = settings.metrics {
        let site = Site::Metrics(Arc::clone(metrics));
        telemetry::serve(addr, site, None).context("start the metrics server")?;
    }
    Ok(())
}

fn stop_on_signal(sender: SyncSender<Message>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("catch signals")?;
    spawn("signals", sender, move |sender| {
        if let Some(signal) = signals.forever().next() {
            let _closed = sender.send(Message::Stop(signal));
        }
    })
}

fn follow(source: source::Opened, sender: SyncSender<Message>, health: Arc<Health>) -> anyhow::Result<()> {
    spawn("source", sender, move |sender| {
        source.run(|delivery| {
            let passed_on = match delivery {
                Delivery::Objects(batch) => forward(batch, sender),
                Delivery::Status(kind, status) => {
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

/// Logs problems, each once, and passes events on.
fn forward(batch: Batch, sender: &SyncSender<Message>) -> Result<(), LoopGone> {
    for problem in &batch.problems {
        warn!("{problem}");
    }
    for problem in &batch.healed {
        info!("no longer: {problem}");
    }
    if batch.events.is_empty() { Ok(()) } else { send(sender, Message::Events(batch.events)) }
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
) -> anyhow::Result<()> {
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
                Message::Events(events) => {
                    for event in events {
                        reconciler.handle(Event::Model(event));
                    }
                }
                Message::Touched(table) => reconciler.handle(Event::Touched(table)),
                Message::Stop(signal) => {
                    info!(signal, "stops; virtual servers, routes and packet rules stay as they are");
                    saver.finish(&reconciler);
                    return Ok(());
                }
                Message::Failed(error) => {
                    saver.finish(&reconciler);
                    return Err(error);
                }
            }
        }
        planned += step(&mut reconciler, observers);
        saver.save_if_due(&reconciler, clock::now());
        observers.report_standing(begun, reconciler.standing());
        let is_idle = reconciler.is_running() && !reconciler.has_backlog();
        if is_idle && std::mem::take(&mut planned) >= SERVICES_BEFORE_TRIM {
            kernel::give_memory_back();
        }
    }
}

/// Executes one step, and returns the number of Services that it planned.
fn step(reconciler: &mut Reconciler, observers: &Observers) -> usize {
    let (begin, spent) = (clock::now(), clock::spent());
    let report = reconciler.step(begin);
    let end = clock::now();
    reconciler.charge(report.step, clock::spent().saturating_sub(spent), end);
    if !report.is_quiet() {
        let took = end.saturating_sub(begin);
        info!(?took, "sync: {report}");
    }
    observers.report_step(&report, reconciler.draining());
    observers.report_shortfalls(reconciler.shortfalls());
    if report.findings {
        observers.report_findings(reconciler);
    }
    report.services
}

#[cfg(test)]
mod tests {
    use dataplane::{
        BatchReport, IpvsTable, ObservedRealServer, TableError, Tables, VirtualServerDump,
        fake::{FakeConntrack, FakeIpvs, FakeRules, FakeSysctls, FakeVips},
    };
    use drain_file::DrainFile;
    use lb_types::{IpvsOp, VirtualServerId};
    use reconcile::Config;
    use testkit::{TempDir, wait_until};

    use super::*;

    /// IPVS of a kernel whose answer to the first dump does not come.
    struct StuckIpvs {
        kernel: FakeIpvs,
        /// Closes once the kernel answers.
        stuck: Receiver<()>,
    }

    impl IpvsTable for StuckIpvs {
        fn has_scheduler(&mut self, _: lb_types::Scheduler) -> Result<bool, TableError> {
            Ok(true)
        }

        fn dump_virtual_servers(&mut self) -> Result<VirtualServerDump, TableError> {
            let _closed = self.stuck.recv();
            self.kernel.dump_virtual_servers()
        }

        fn dump_real_servers(&mut self, vs: VirtualServerId) -> Result<Vec<ObservedRealServer>, TableError> {
            self.kernel.dump_real_servers(vs)
        }

        fn apply(&mut self, ops: &[IpvsOp]) -> Result<BatchReport, TableError> {
            self.kernel.apply(ops)
        }
    }

    /// Runs the loop over fakes until a message stops it.
    fn drive_over_fakes(stuck: Receiver<()>, receiver: &Receiver<Message>, health: Arc<Health>) {
        let dir = TempDir::new("drive");
        let tables = Tables {
            ipvs: Box::new(StuckIpvs { kernel: FakeIpvs::default(), stuck }),
            vips: Box::new(FakeVips::default()),
            rules: Box::new(FakeRules::default()),
            sysctls: Box::new(FakeSysctls::default()),
            conntrack: Box::new(FakeConntrack::default()),
        };
        let mut reconciler = Reconciler::new(Config::default(), tables);
        let file = DrainFile::new(dir.path(), "boot".to_owned());
        let saver = DrainSaver::resume(file, &mut reconciler);
        let metrics = Arc::new(Metrics::new([]).unwrap());
        drive(reconciler, saver, receiver, &Observers::new(health, metrics)).unwrap();
    }

    #[test]
    fn a_call_into_the_kernel_that_hangs_is_seen() {
        let (release, stuck) = mpsc::channel();
        let (sender, receiver) = mpsc::sync_channel(QUEUED_MESSAGES);
        let health = Arc::new(Health::new(Limits::of(Duration::from_secs(30)), &[]));
        health.begin_step(Instant::now());
        let noted = Arc::clone(&health);
        let driven = thread::spawn(move || drive_over_fakes(stuck, &receiver, noted));
        let pages_in_an_hour = || {
            let then = Instant::now() + Duration::from_secs(3600);
            (health.livez(then).good, health.healthz(then).good)
        };
        let wait_for_pages = |what: &str, expect: (bool, bool)| {
            wait_until(Duration::from_secs(60), what, || pages_in_an_hour() == expect);
        };
        wait_for_pages("the loop waits for objects", (true, true));
        sender.send(Message::Events(vec![ModelEvent::Synced])).unwrap();
        wait_for_pages("the dump hangs", (false, false));
        drop(release);
        wait_for_pages("the dump was answered", (true, true));
        wait_until(Duration::from_secs(60), "readiness", || health.readyz(Instant::now()).good);
        sender.send(Message::Stop(SIGTERM)).unwrap();
        driven.join().unwrap();
    }

    fn end(body: impl FnOnce(&SyncSender<Message>) + Send + 'static) -> String {
        let (sender, receiver) = mpsc::sync_channel(1);
        // A second sender, as in the running process: the channel stays open.
        spawn("test", sender.clone(), body).unwrap();
        match receiver.recv().unwrap() {
            Message::Failed(error) => error.to_string(),
            Message::Events(_) | Message::Touched(_) | Message::Stop(_) => panic!("no failure"),
        }
    }

    #[test]
    fn a_watcher_that_fails_tries_again_and_its_table_counts_as_touched() {
        let (sender, receiver) = mpsc::sync_channel(16);
        let mut answers = vec![Ok(Some(Touched::Vips)), Err(anyhow!("busy")), Err(anyhow!("busy")), Ok(None)];
        answers.extend([Err(anyhow!("busy")), Ok(Some(Touched::Vips))]);
        let (mut answers, mut receiver) = (answers.into_iter(), Some(receiver));
        let (mut pauses, mut reports) = (Vec::new(), 0);
        let wait = || {
            answers.next().unwrap_or_else(|| {
                // The loop ends.
                reports = receiver.take().map_or(reports, |receiver| receiver.try_iter().count());
                Ok(Some(Touched::Vips))
            })
        };
        watch(wait, Touched::Vips, &sender, |pause| pauses.push(pause));
        assert_eq!(reports, 5, "two changes and three suspicions");
        assert_eq!(pauses, [FIRST_RETRY_PAUSE, FIRST_RETRY_PAUSE * 2, FIRST_RETRY_PAUSE]);
    }

    #[test]
    fn the_loop_hears_of_every_thread_that_ends() {
        assert_eq!(end(|_| ()), "thread test has ended");
        assert!(end(|_| panic!("on purpose")).starts_with("thread test has panicked"));
        let first = end(|sender| _ = sender.send(Message::Failed(anyhow!("the reason"))));
        assert_eq!(first, "the reason");
    }
}
