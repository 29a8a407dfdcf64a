//! Keeping `drain.json` up to date: the loop copies its drains, a thread of its own encodes and writes them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, anyhow};
use drain::{Drain, Key, Time};
use drain_file::DrainFile;
use reconcile::Reconciler;
use tracing::{info, warn};

use crate::clock;

/// Shortest time between two versions of the file: what a crash forgets at most, but for the time of writing.
const PAUSE: Duration = Duration::from_millis(200);

/// Share of a core that saving may take, as the number of times that it rests for what it took.
const REST: u32 = 50;

/// Until the next attempt after a failed one.
const RETRY: Duration = Duration::from_secs(10);

/// All drains at one moment.
type Snapshot = Vec<(Key, Drain)>;

/// Knows which version the file has, or will have soon.
#[derive(Debug)]
pub struct DrainSaver {
    snapshots: SyncSender<Snapshot>,
    writer: JoinHandle<()>,
    progress: Arc<Mutex<Progress>>,
    /// The version that was handed to the writer last.
    handed_over: u64,
    /// Nothing is handed over before.
    rested: Time,
}

/// What the writer tells.
#[derive(Debug, Default)]
struct Progress {
    /// Whether it has something to write, or is writing.
    busy: bool,
    /// Whether the last attempt failed.
    failing: bool,
    /// No attempt before.
    rest: Time,
}

impl DrainSaver {
    /// Reads the file, hands what the process before this one left to the loop, and starts the writer.
    pub fn resume(file: DrainFile, reconciler: &mut Reconciler) -> anyhow::Result<Self> {
        restore(&file, reconciler);
        let progress = Arc::new(Mutex::new(Progress::default()));
        let (snapshots, receiver) = mpsc::sync_channel(1);
        let told = Arc::clone(&progress);
        let writer = thread::Builder::new()
            .name("drain-saver".to_owned())
            .spawn(move || write_all(&file, &receiver, &told))
            .context("start thread drain-saver")?;
        let handed_over = reconciler.drains_version();
        Ok(DrainSaver { snapshots, writer, progress, handed_over, rested: Time::ZERO })
    }

    /// When the file should be written, if it should, or when to look how the writer got on.
    pub fn due(&self, reconciler: &Reconciler) -> Option<Time> {
        let Progress { busy, failing, rest } = *lock(&self.progress);
        let is_outdated = failing || reconciler.drains_version() != self.handed_over;
        (busy || is_outdated).then(|| rest.max(self.rested))
    }

    /// Has the file written if it is due at `now`.
    pub fn save_if_due(&mut self, reconciler: &Reconciler, now: Time) -> anyhow::Result<()> {
        if self.due(reconciler).is_none_or(|due| due > now) {
            return Ok(());
        }
        self.rested = now + PAUSE;
        let busy = lock(&self.progress).busy;
        match busy {
            true if self.writer.is_finished() => Err(writer_died()),
            true => Ok(()),
            false => self.hand_over(reconciler),
        }
    }

    fn hand_over(&mut self, reconciler: &Reconciler) -> anyhow::Result<()> {
        self.handed_over = reconciler.drains_version();
        lock(&self.progress).busy = true;
        self.snapshots.send(snapshot(reconciler)).map_err(|_| writer_died())
    }

    /// Writes the file unless it is up to date for certain, and returns when that is done.
    pub fn finish(mut self, reconciler: &Reconciler) -> anyhow::Result<()> {
        if self.due(reconciler).is_some() {
            self.hand_over(reconciler)?;
        }
        drop(self.snapshots);
        self.writer.join().map_err(|_| writer_died())
    }
}

fn restore(file: &DrainFile, reconciler: &mut Reconciler) {
    let path = file.path().display();
    match file.load() {
        Ok(loaded) => {
            loaded.problems.iter().for_each(|problem| warn!("{path}: an entry is left out: {problem}"));
            reconciler.restore(loaded.drains.into_iter().map(|saved| (saved.key, saved.record)));
        }
        Err(error) => {
            let consequence = "drains that were under way begin anew, with new deadlines";
            warn!("{path} {:#}; {consequence}", anyhow::Error::from(error));
        }
    }
}

fn snapshot(reconciler: &Reconciler) -> Snapshot {
    reconciler.drains().map(|(key, drain)| (*key, drain.clone())).collect()
}

fn writer_died() -> anyhow::Error {
    anyhow!("thread drain-saver has panicked; the message is in the log above")
}

/// The writer: ends when nothing can come any more.
fn write_all(file: &DrainFile, snapshots: &Receiver<Snapshot>, told: &Mutex<Progress>) {
    for drains in snapshots {
        let begin = clock::now();
        let result = file.save(drains.iter().map(|(key, drain)| (key, drain)));
        let end = clock::now();
        let mut progress = lock(told);
        let path = file.path().display();
        match (&result, progress.failing) {
            (Ok(()), true) => info!("{path} is written again"),
            (Err(error), false) => {
                warn!("{path}: {error}; a restart would forget since when and why real servers drain");
            }
            _ => {}
        }
        let took = end.saturating_sub(begin);
        progress.busy = false;
        progress.failing = result.is_err();
        progress.rest = end + if result.is_ok() { PAUSE.max(took * REST) } else { RETRY };
    }
}

/// Nobody panics while holding it, and if: its fields are always valid.
fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use testkit::TempDir;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_tried_again_later_and_then_is() {
        let directory = TempDir::new("drain-saver");
        let missing = directory.path().join("missing");
        let file = DrainFile::new(&missing, "boot".to_owned());
        let progress = Mutex::new(Progress::default());
        let attempt = || {
            let (sender, receiver) = mpsc::sync_channel(1);
            sender.send(Snapshot::new()).unwrap();
            drop(sender);
            write_all(&file, &receiver, &progress);
            let Progress { busy, failing, rest } = *lock(&progress);
            assert!(!busy);
            (failing, rest.saturating_sub(clock::now()))
        };
        let (failing, rest) = attempt();
        assert!(failing && rest > RETRY / 2, "{rest:?}");
        fs::create_dir(&missing).unwrap();
        let (failing, _) = attempt();
        assert!(!failing && file.path().exists());
    }
}
