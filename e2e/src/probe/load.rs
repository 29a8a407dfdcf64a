//! Short connections at a given rate from a small range of source ports, every outcome counted.
//!
//! The server closes first, so a source port is free again as soon as its connection is over. It comes round
//! after `ports / rate` seconds: the same five-tuple as an old connection that IPVS still remembers for two
//! minutes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    Failure, Proto, Stage,
    once::{Outcome, Question, ask},
};

/// Time from which on a connection counts as slow: it has lost a packet (the first retransmission comes after
/// 1 s).
pub const SLOW_FROM: Duration = Duration::from_millis(900);

/// Upper bounds of the histogram's buckets in milliseconds; the last bucket is everything above.
const BUCKETS: [u64; 8] = [1, 3, 10, 30, 100, 300, 900, 3000];

/// Number of failures kept with all details, by default; the counts are complete.
const INCIDENTS_KEPT: usize = 50;

/// Settings of a load.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses to connect to, in turn.
    pub targets: Vec<SocketAddr>,
    /// Source addresses, at most one of each family; the family of the target chooses.
    pub sources: Vec<IpAddr>,
    /// First source port, and the number of ports.
    pub ports: (u16, u16),
    /// Connections a second, all workers together.
    pub rate: u32,
    /// Workers, each with its own share of the source ports and one connection at a time.
    pub workers: u16,
    /// Bound on each connect and each answer.
    pub timeout: Duration,
    /// Time after which the load ends by itself.
    pub longest: Duration,
    /// Number of failed and slow connections whose details are kept.
    pub kept: usize,
}

impl Settings {
    /// A load of 40 connections a second by 8 workers from 160 ports: each port comes round every 4 seconds,
    /// and a slow guest can keep up.
    pub fn new(targets: &[SocketAddr], sources: &[IpAddr]) -> Settings {
        Settings {
            targets: targets.to_vec(),
            sources: sources.to_vec(),
            ports: (20_000, 160),
            rate: 40,
            workers: 8,
            timeout: Duration::from_secs(10),
            longest: Duration::from_secs(600),
            kept: INCIDENTS_KEPT,
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} connections, {} failed {:?}, {} slow, median {:.1} ms, p99 {:.1} ms, longest {:.1} ms, {:?}",
            self.connections,
            self.failed(),
            self.failures,
            self.slow,
            self.median,
            self.p99,
            self.longest,
            self.pods
        )?;
        for Incident { at, took, to, port, what } in &self.incidents {
            write!(f, "\n  {at:>7} ms  port {port} -> {to}: {what} after {took} ms")?;
        }
        Ok(())
    }
}

/// A failed or slow connection.
#[derive(Debug, Clone, Serialize)]
pub struct Incident {
    /// Milliseconds since the load began, at the start of the connection.
    pub at: u128,
    /// Duration of the connection, in milliseconds.
    pub took: u128,
    /// Address that it went to.
    pub to: SocketAddr,
    /// Port that it came from.
    pub port: u16,
    /// `slow`, or the failure.
    pub what: String,
}

/// Name of an incident that is no failure.
const SLOW_WORD: &str = "slow";

impl Incident {
    /// Tells whether the connection failed.
    pub fn is_failure(&self) -> bool {
        self.what != SLOW_WORD
    }
}

/// Measurements of a load.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Number of connections tried.
    pub connections: u64,
    /// Number of connections with the right answer, slow ones included.
    pub ok: u64,
    /// Numbers of failures by kind.
    pub failures: BTreeMap<String, u64>,
    /// Number of successful connections that took longer than [`SLOW_FROM`].
    pub slow: u64,
    /// Number of times that the source port was still busy on the client itself; not counted as connections.
    pub port_busy: u64,
    /// Numbers of connections answered by each pod.
    pub pods: BTreeMap<String, u64>,
    /// Histogram of the latency of successful connections: `<3` is from 1 up to 3 ms.
    pub histogram: BTreeMap<String, u64>,
    /// Median latency in milliseconds.
    pub median: f64,
    /// 99th percentile in milliseconds.
    pub p99: f64,
    /// Slowest successful connection in milliseconds.
    pub longest: f64,
    /// First failed and slow connections, in the order in which they ended.
    pub incidents: Vec<Incident>,
    /// Microseconds of every successful connection.
    #[serde(skip)]
    latencies: Latencies,
}

/// Latencies, which are not worth printing: the report has everything that follows from them.
#[derive(Clone, Default)]
struct Latencies(Vec<u32>);

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} values)", self.0.len())
    }
}

impl Report {
    /// Number of all failures.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn count(&mut self, kept: usize, started: Duration, question: &Question, outcome: Outcome) {
        if matches!(&outcome.result, Err(Failure { stage: Stage::Local, .. })) {
            self.port_busy += 1;
            return;
        }
        self.connections += 1;
        let what = match outcome.result {
            Ok(answer) => {
                self.ok += 1;
                *self.pods.entry(answer.pod).or_default() += 1;
                self.latencies.0.push(u32::try_from(outcome.took.as_micros()).unwrap_or(u32::MAX));
                if outcome.took < SLOW_FROM {
                    return;
                }
                self.slow += 1;
                SLOW_WORD.to_owned()
            }
            Err(failure) => {
                let what = failure.to_string();
                *self.failures.entry(what.clone()).or_default() += 1;
                what
            }
        };
        if self.incidents.len() < kept {
            let port = question.from.map_or(0, |from| from.port());
            let (at, took) = (started.as_millis(), outcome.took.as_millis());
            self.incidents.push(Incident { at, took, to: question.to, port, what });
        }
    }

    /// Fills in what follows from the latencies.
    fn finish(mut self) -> Report {
        self.latencies.0.sort_unstable();
        let at = |share: f64| {
            let last = self.latencies.0.len().saturating_sub(1);
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an index"
            )]
            let index = (last as f64 * share).round() as usize;
            self.latencies.0.get(index).map_or(0.0, |&micros| f64::from(micros) / 1000.0)
        };
        (self.median, self.p99, self.longest) = (at(0.5), at(0.99), at(1.0));
        for &micros in &self.latencies.0 {
            let bound = BUCKETS.iter().find(|&&bound| u64::from(micros) < bound * 1000);
            let name = bound
                .map_or_else(|| format!(">={}", BUCKETS[BUCKETS.len() - 1]), |bound| format!("<{bound}"));
            *self.histogram.entry(name).or_default() += 1;
        }
        self
    }
}

/// A running load; ends with [`Load::stop`] or when dropped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the workers; they inherit the calling thread's network namespace.
    pub fn start(settings: &Settings) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(Report::default()));
        let begin = Instant::now();
        let workers = (0..settings.workers)
            .map(|number| {
                let worker = Worker {
                    number,
                    settings: settings.clone(),
                    begin,
                    stop: Arc::clone(&stop),
                    report: Arc::clone(&report),
                };
                thread::spawn(move || worker.work())
            })
            .collect();
        Load { stop, report, workers }
    }

    /// Counts so far.
    pub fn progress(&self) -> Report {
        lock(&self.report).clone()
    }

    /// Tells whether the load has ended by itself.
    pub fn is_over(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Ends the load, waits for the connections under way and returns everything.
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
        lock(&self.report).clone().finish()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Worker {
    number: u16,
    settings: Settings,
    begin: Instant,
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
}

impl Worker {
    fn work(&self) {
        let workers = u32::from(self.settings.workers);
        let period = Duration::from_secs(1) * workers / self.settings.rate.max(1);
        // Workers start one after the other, so that connections are spread evenly.
        let mut due = self.begin + period * u32::from(self.number) / workers;
        for turn in 0.. {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.stop.load(Ordering::Relaxed) || self.begin.elapsed() > self.settings.longest {
                return;
            }
            let question = self.question(turn);
            let started = self.begin.elapsed();
            let outcome = ask(&question);
            lock(&self.report).count(self.settings.kept, started, &question, outcome);
            // A worker that fell behind goes on at once but does not catch up in a burst.
            due = (due + period).max(Instant::now() - period);
        }
    }

    /// Addresses of the next connection: this worker's source ports in turn, and all targets in turn.
    fn question(&self, turn: usize) -> Question {
        let settings = &self.settings;
        let (first, count) = settings.ports;
        let share = usize::from((count / settings.workers).max(1));
        let offset = usize::from(self.number) + (turn % share) * usize::from(settings.workers);
        let to = settings.targets[turn % settings.targets.len()];
        let source = settings.sources.iter().find(|source| source.is_ipv4() == to.is_ipv4());
        let port = first + u16::try_from(offset).unwrap_or_default();
        let from = SocketAddr::new(source.copied().unwrap_or_else(|| super::socket::any(to).ip()), port);
        Question { proto: Proto::Tcp, to, from: Some(from), timeout: settings.timeout }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Load, Settings};
    use crate::probe::Proto;
    use crate::probe::server::{Listener, start};

    #[test]
    fn counts_good_and_refused_connections_with_port_reuse() {
        let at = "127.0.0.1:34512".parse().unwrap();
        start("here", &[Listener { proto: Proto::Tcp, at }]).unwrap();
        let mut settings = Settings::new(&[at, "127.0.0.1:1".parse().unwrap()], &[at.ip()]);
        (settings.ports, settings.rate, settings.workers) = ((21_000, 9), 400, 3);
        let load = Load::start(&settings);
        testkit::wait_until(Duration::from_secs(30), "60 connections", || load.progress().connections >= 60);
        let report = load.stop();
        assert_eq!(report.ok + report.failed(), report.connections);
        assert_eq!(report.pods["here"], report.ok);
        assert_eq!(report.failures.keys().collect::<Vec<_>>(), ["ECONNREFUSED in connect"]);
        assert_eq!(report.histogram.values().sum::<u64>(), report.ok);
        assert!(report.ok >= 20, "{report:?}");
    }
}
