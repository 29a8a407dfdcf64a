//! Keeping `drain.json` up to date without costing the loop much.

use std::time::Duration;

use drain::Time;
use reconcile::Reconciler;
use tracing::{info, warn};

use crate::{clock, drain_file::DrainFile};

/// Shortest time between two versions of the file: what a crash forgets at most.
const PAUSE: Duration = Duration::from_millis(200);

/// Share of a core that saving may take, as the number of times that it rests for what it took.
const REST: u32 = 50;

/// Until the next attempt after a failed one.
const RETRY: Duration = Duration::from_secs(10);

/// Knows which version the file has.
#[derive(Debug)]
pub struct DrainSaver {
    file: DrainFile,
    saved: u64,
    rest: Time,
    failing: bool,
}

impl DrainSaver {
    /// Reads the file and hands what the process before this one left to the loop.
    pub fn resume(file: DrainFile, reconciler: &mut Reconciler) -> Self {
        match file.load() {
            Ok(loaded) => {
                let path = file.path().display();
                loaded.problems.iter().for_each(|problem| warn!("{path}: an entry is left out: {problem}"));
                reconciler.restore(loaded.drains.into_iter().map(|saved| (saved.key, saved.record)));
            }
            Err(error) => {
                let consequence = "drains that were under way begin anew, with new deadlines";
                warn!("{} {:#}; {consequence}", file.path().display(), anyhow::Error::from(error));
            }
        }
        DrainSaver { file, saved: reconciler.drains_version(), rest: Time::ZERO, failing: false }
    }

    /// When the file should be written, if it should.
    pub fn due(&self, reconciler: &Reconciler) -> Option<Time> {
        (reconciler.drains_version() != self.saved).then_some(self.rest)
    }

    /// Writes the file if it is due at `now`.
    pub fn save_if_due(&mut self, reconciler: &Reconciler, now: Time) {
        if self.due(reconciler).is_some_and(|due| due <= now) {
            self.save(reconciler);
        }
    }

    /// Writes the file if it is out of date.
    pub fn save(&mut self, reconciler: &Reconciler) {
        if self.due(reconciler).is_none() {
            return;
        }
        let begin = clock::now();
        let result = self.file.save(reconciler.drains());
        let end = clock::now();
        self.rest = end + PAUSE.max(end.saturating_sub(begin) * REST);
        let path = self.file.path().display();
        match result {
            Ok(()) => {
                self.saved = reconciler.drains_version();
                if std::mem::take(&mut self.failing) {
                    info!("{path} is written again");
                }
            }
            Err(error) => {
                self.rest = end + RETRY;
                if !std::mem::replace(&mut self.failing, true) {
                    warn!("{path}: {error}; a restart would forget since when and why real servers drain");
                }
            }
        }
    }
}
