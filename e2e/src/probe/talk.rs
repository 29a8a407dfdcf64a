//! Long-lived connections that exchange a message every so often; each cut is recorded.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::once::read_answer;
use super::{Failure, Proto, Stage, socket};

/// What to keep up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to connect, in turn.
    pub targets: Vec<SocketAddr>,
    /// Source addresses, at most one of each family; the family of the target chooses.
    pub sources: Vec<IpAddr>,
    /// How many connections.
    pub connections: usize,
    /// Pause between two messages of a connection.
    pub every: Duration,
    /// Bound on the connect and on each answer.
    pub timeout: Duration,
}

impl Settings {
    /// `connections` connections with a message every 200 ms.
    pub fn new(targets: &[SocketAddr], sources: &[IpAddr], connections: usize) -> Settings {
        Settings {
            targets: targets.to_vec(),
            sources: sources.to_vec(),
            connections,
            every: Duration::from_millis(200),
            timeout: Duration::from_secs(10),
        }
    }
}

/// A connection that ended before its client wanted it to.
#[derive(Debug, Clone, Serialize)]
pub struct Cut {
    /// Milliseconds since the start.
    pub at: u128,
    /// The pod it was connected to; empty if it never got an answer.
    pub pod: String,
    /// What the client met.
    pub failure: Failure,
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Connections that got a first answer, by pod.
    pub pods: BTreeMap<String, usize>,
    /// Messages answered.
    pub messages: u64,
    /// Connections that were cut or never established.
    pub cut: Vec<Cut>,
    /// Longest wait for an answer, in milliseconds.
    pub longest: u128,
}

impl Report {
    /// Connections that got their first answer.
    pub fn established(&self) -> usize {
        self.pods.values().sum()
    }
}

/// Conversations under way; they end with [`Talk::stop`] or when dropped.
#[derive(Debug)]
pub struct Talk {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    talkers: Vec<JoinHandle<()>>,
}

impl Talk {
    /// Open all connections, each on a thread that inherits the calling thread's network namespace.
    pub fn start(settings: &Settings) -> Talk {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(Report::default()));
        let begin = Instant::now();
        let talkers = (0..settings.connections)
            .map(|number| {
                let talker = Talker {
                    to: settings.targets[number % settings.targets.len()],
                    settings: settings.clone(),
                    begin,
                    stop: Arc::clone(&stop),
                    report: Arc::clone(&report),
                };
                let builder = thread::Builder::new().stack_size(128 * 1024);
                builder.spawn(move || talker.work()).expect("start a thread")
            })
            .collect();
        Talk { stop, report, talkers }
    }

    /// What was counted so far.
    pub fn progress(&self) -> Report {
        lock(&self.report).clone()
    }

    /// End all conversations and return everything.
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        for talker in self.talkers.drain(..) {
            if let Err(panic) = talker.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.progress()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Talker {
    to: SocketAddr,
    settings: Settings,
    begin: Instant,
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
}

impl Talker {
    fn work(&self) {
        let mut pod = String::new();
        if let Err(failure) = self.talk(&mut pod) {
            let at = self.begin.elapsed().as_millis();
            lock(&self.report).cut.push(Cut { at, pod, failure });
        }
    }

    fn talk(&self, pod: &mut String) -> Result<(), Failure> {
        let any = socket::any(self.to);
        let source = self.settings.sources.iter().find(|source| source.is_ipv4() == self.to.is_ipv4());
        let from = source.map_or(any, |&source| SocketAddr::new(source, 0));
        let socket = socket::bound(Proto::Tcp, from, self.settings.timeout)
            .map_err(|error| Failure::new(Stage::Local, &error))?;
        let stream =
            socket::connect_stream(socket, self.to).map_err(|error| Failure::new(Stage::Connect, &error))?;
        let mut reader = BufReader::new(stream);
        while !self.stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            reader.get_mut().write_all(b"talk\n").map_err(|error| Failure::new(Stage::Send, &error))?;
            let answer = read_answer(&mut reader)?;
            let mut report = lock(&self.report);
            report.messages += 1;
            report.longest = report.longest.max(asked.elapsed().as_millis());
            if pod.is_empty() {
                *report.pods.entry(answer.pod.clone()).or_default() += 1;
                *pod = answer.pod;
            }
            drop(report);
            thread::sleep(self.settings.every);
        }
        Ok(())
    }
}
