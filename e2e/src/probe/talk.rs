//! Long-lived connections that exchange a message every so often; each cut is recorded.
//!
//! A client that hears nothing sends again after a while: one that only waits, after its message was
//! acknowledged, sends no packet, and nobody can let it know that its server is gone.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Answer, Failure, Proto, Stage, errno, socket};

/// Shortest time after which a client sends another message if the first one has no answer.
const SHORTEST_REPEAT: Duration = Duration::from_millis(500);

/// Settings of conversations.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses to connect to, in turn.
    pub targets: Vec<SocketAddr>,
    /// Source addresses, at most one of each family; the family of the target chooses.
    pub sources: Vec<IpAddr>,
    /// Number of connections.
    pub connections: usize,
    /// Pause between two messages of a connection.
    pub every: Duration,
    /// Bound on the connect and on each answer.
    pub timeout: Duration,
    /// Numbers of messages, fewest and most, after which a connection has done its work and closes, spread
    /// over the connections. `None`: they go on until [`Talk::stop`].
    pub work: Option<(usize, usize)>,
}

impl Settings {
    /// Settings for `connections` connections with a message every 200 ms.
    pub fn new(targets: &[SocketAddr], sources: &[IpAddr], connections: usize) -> Settings {
        Settings {
            targets: targets.to_vec(),
            sources: sources.to_vec(),
            connections,
            every: Duration::from_millis(200),
            timeout: Duration::from_secs(10),
            work: None,
        }
    }

    /// Number of messages of connection `number`.
    fn messages(&self, number: usize) -> usize {
        let last = self.connections.saturating_sub(1).max(1);
        self.work.map_or(usize::MAX, |(fewest, most)| fewest + (most - fewest) * number / last)
    }
}

/// A connection that did all its work and was closed by its client.
#[derive(Debug, Clone, Serialize)]
pub struct Finished {
    /// Time of the end, as in [`Cut::at`].
    pub at: u128,
    /// Pod that served it.
    pub pod: String,
}

/// A connection that ended before its client wanted it to.
#[derive(Debug, Clone, Serialize)]
pub struct Cut {
    /// Milliseconds since the start.
    pub at: u128,
    /// Pod to which it was connected; empty if it never got an answer.
    pub pod: String,
    /// Failure that the client met.
    pub failure: Failure,
}

/// Measurements of conversations.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Numbers of connections that got a first answer, by pod.
    pub pods: BTreeMap<String, usize>,
    /// Number of answered messages.
    pub messages: u64,
    /// Connections that were cut or never established.
    pub cut: Vec<Cut>,
    /// Connections that did all their work.
    pub finished: Vec<Finished>,
    /// Longest wait for an answer, in milliseconds.
    pub longest: u128,
}

impl Report {
    /// Number of connections that got their first answer.
    pub fn established(&self) -> usize {
        self.pods.values().sum()
    }
}

/// Conversations under way; they end with [`Talk::stop`] or when dropped.
#[derive(Debug)]
pub struct Talk {
    begin: Instant,
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    talkers: Vec<JoinHandle<()>>,
}

impl Talk {
    /// Opens all connections, each on a thread that inherits the calling thread's network namespace.
    pub fn start(settings: &Settings) -> Talk {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(Report::default()));
        let begin = Instant::now();
        let talkers = (0..settings.connections)
            .map(|number| {
                let talker = Talker {
                    to: settings.targets[number % settings.targets.len()],
                    messages: settings.messages(number),
                    settings: settings.clone(),
                    begin,
                    stop: Arc::clone(&stop),
                    report: Arc::clone(&report),
                };
                let builder = thread::Builder::new().stack_size(128 * 1024);
                builder.spawn(move || talker.work()).expect("start a thread")
            })
            .collect();
        Talk { begin, stop, report, talkers }
    }

    /// Counts so far.
    pub fn progress(&self) -> Report {
        lock(&self.report).clone()
    }

    /// Time from which the times in the report count.
    pub fn begin(&self) -> Instant {
        self.begin
    }

    /// Ends all conversations and returns everything.
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
    messages: usize,
    settings: Settings,
    begin: Instant,
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
}

impl Talker {
    fn work(&self) {
        let mut pod = String::new();
        let result = self.talk(&mut pod);
        let at = self.begin.elapsed().as_millis();
        match result {
            Err(failure) => lock(&self.report).cut.push(Cut { at, pod, failure }),
            Ok(true) => lock(&self.report).finished.push(Finished { at, pod }),
            Ok(false) => {}
        }
    }

    /// Talks, and tells whether all work was done; the connection is closed when this returns.
    fn talk(&self, pod: &mut String) -> Result<bool, Failure> {
        let any = socket::any(self.to);
        let source = self.settings.sources.iter().find(|source| source.is_ipv4() == self.to.is_ipv4());
        let from = source.map_or(any, |&source| SocketAddr::new(source, 0));
        let socket = socket::bound(Proto::Tcp, from, self.settings.timeout)
            .map_err(|error| Failure::new(Stage::Local, &error))?;
        let stream =
            socket::connect_stream(socket, self.to).map_err(|error| Failure::new(Stage::Connect, &error))?;
        let mut reader = BufReader::new(stream);
        for _ in 0..self.messages {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let asked = Instant::now();
            reader
                .get_mut()
                .write_all(message().as_bytes())
                .map_err(|error| Failure::new(Stage::Send, &error))?;
            let answer = self.insist(&mut reader)?;
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
        Ok(true)
    }

    /// Reads the answer; whenever it has been missing for a while the message goes out once more.
    fn insist(&self, reader: &mut BufReader<TcpStream>) -> Result<Answer, Failure> {
        let receive = |error: &io::Error| Failure::new(Stage::Receive, error);
        let asked = Instant::now();
        let patience = self.settings.every.max(SHORTEST_REPEAT);
        reader.get_ref().set_read_timeout(Some(patience)).map_err(|error| receive(&error))?;
        let mut line = String::new();
        loop {
            match reader.read_line(&mut line) {
                Ok(0) => return Err(Failure::eof()),
                Ok(_) => {
                    return line.parse().map_err(|_| receive(&io::ErrorKind::InvalidData.into()));
                }
                Err(error) if errno::name(&error) == "TIMEOUT" && asked.elapsed() < self.settings.timeout => {
                    let again = reader.get_mut().write_all(message().as_bytes());
                    again.map_err(|error| Failure::new(Stage::Send, &error))?;
                }
                Err(error) => return Err(receive(&error)),
            }
        }
    }
}

/// Message as long as a small HTTP request: a packet with it differs in length from one without data.
fn message() -> String {
    format!("{:<99}\n", "talk")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Settings, Talk};
    use crate::probe::Proto;
    use crate::probe::server::{Listener, start};

    #[test]
    fn work_is_spread_over_the_connections_and_ends_by_itself() {
        let to = "127.0.0.1:34514".parse().unwrap();
        start("here", &[Listener { proto: Proto::Tcp, at: to }]).unwrap();
        let mut settings = Settings::new(&[to], &[], 5);
        (settings.every, settings.work) = (Duration::from_millis(1), Some((2, 6)));
        let talk = Talk::start(&settings);
        let done = || talk.progress().finished.len() == 5;
        testkit::wait_until(Duration::from_secs(30), "the work to be done", done);
        let report = talk.stop();
        assert_eq!((report.messages, report.cut.len(), report.finished[0].pod.as_str()), (20, 0, "here"));
    }
}
