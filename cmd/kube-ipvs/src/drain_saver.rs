//! Keeping `drain.json` up to date, on the loop: writing a thousand drains takes some milliseconds.

use std::time::Duration;

use drain::{Share, Time};
use drain_file::{DrainFile, Saved};
use reconcile::{Reconciler, State};
use tracing::{info, warn};

use crate::clock;

/// Shortest time between two versions of the file: what a crash forgets at most, but for the time of writing.
const PAUSE: Duration = Duration::from_millis(200);

/// The same where only what the drains wait for has changed, which is for listings.
const PAUSE_OF_DETAILS: Duration = Duration::from_secs(1);

/// Share of a core that saving may take.
const SHARE: Share = Share::one_of(50);

/// Pause after a failed attempt.
const RETRY: Duration = Duration::from_secs(10);

/// Knows which version the file has.
#[derive(Debug)]
pub struct DrainSaver {
    file: DrainFile,
    saved: Version,
    /// Time of the last attempt.
    written: Time,
    /// No attempt before.
    rest: Time,
    /// Set if the last attempt failed.
    failing: bool,
}

/// Version of what is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    /// Changes of what must survive a restart.
    records: u64,
    /// Changes of what drains wait for.
    details: u64,
}

impl Version {
    fn of(reconciler: &Reconciler) -> Self {
        Version { records: reconciler.state().drains.version(), details: reconciler.drain_details() }
    }
}

impl DrainSaver {
    /// Reads the file, and hands what the process before this one left to the loop.
    pub fn resume(file: DrainFile, reconciler: &mut Reconciler) -> Self {
        restore(&file, reconciler);
        let saved = Version::of(reconciler);
        DrainSaver { file, saved, written: Time::ZERO, rest: Time::ZERO, failing: false }
    }

    /// Time at which the file should be written, if it should.
    pub fn due(&self, reconciler: &Reconciler) -> Option<Time> {
        self.due_of(Version::of(reconciler), reconciler.state().drains.len())
    }

    fn due_of(&self, Version { records, details }: Version, draining: usize) -> Option<Time> {
        if self.failing || records != self.saved.records {
            Some(self.rest)
        } else if details != self.saved.details && draining > 0 {
            Some(self.rest.max(self.written + PAUSE_OF_DETAILS))
        } else {
            None
        }
    }

    /// Writes the file if it is due at `now`.
    pub fn save_if_due(&mut self, reconciler: &Reconciler, now: Time) {
        if self.due(reconciler).is_some_and(|due| due <= now) {
            self.save(reconciler);
        }
    }

    /// Writes the file unless it is up to date.
    pub fn finish(mut self, reconciler: &Reconciler) {
        if self.due(reconciler).is_some() {
            self.save(reconciler);
        }
    }

    fn save(&mut self, reconciler: &Reconciler) {
        let (begin, version) = (clock::now(), Version::of(reconciler));
        let State { desired, mirror, drains, .. } = reconciler.state();
        let drains = drains.iter().map(|(key, drain)| Saved {
            service_port: desired.name_of(&key.front).map(|name| name.to_string()),
            mark: mirror.marks.get(&key.front),
            ..Saved::new(key, drain, reconciler.drain_waits_for(key, drain))
        });
        let result = self.file.save(drains);
        let end = clock::now();
        let path = self.file.path().display();
        match (&result, self.failing) {
            (Ok(()), true) => info!("{path} is written again"),
            (Err(error), false) => {
                warn!("{path}: {error}; a restart would forget since when and why real servers drain");
            }
            _ => {}
        }
        let pause = PAUSE.max(SHARE.pause(end.saturating_sub(begin)));
        (self.saved, self.written) = (version, end);
        self.failing = result.is_err();
        self.rest = end + if self.failing { RETRY } else { pause };
    }
}

fn restore(file: &DrainFile, reconciler: &mut Reconciler) {
    let path = file.path().display();
    match file.load() {
        Ok(loaded) => {
            for problem in &loaded.problems {
                warn!("{path}: an entry is left out: {problem}");
            }
            reconciler.restore(loaded.drains.into_iter().map(|saved| (saved.key, saved.record)));
        }
        Err(error) => {
            let consequence = "drains that were under way begin anew, with new deadlines";
            warn!("{path} {:#}; {consequence}", anyhow::Error::from(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dataplane::{
        Tables,
        fake::{FakeConntrack, FakeIpvs, FakeRules, FakeSysctls, FakeVips},
    };
    use reconcile::Config;
    use testkit::TempDir;

    use super::*;

    fn reconciler() -> Reconciler {
        let tables = Tables {
            ipvs: Box::new(FakeIpvs::default()),
            vips: Box::new(FakeVips::default()),
            rules: Box::new(FakeRules::default()),
            sysctls: Box::new(FakeSysctls::default()),
            conntrack: Box::new(FakeConntrack::default()),
        };
        Reconciler::new(Config::default(), tables)
    }

    #[test]
    fn a_file_that_cannot_be_written_is_tried_again_later_and_then_is() {
        let directory = TempDir::new("drain-saver");
        let missing = directory.path().join("missing");
        let mut reconciler = reconciler();
        let mut saver = DrainSaver::resume(DrainFile::new(&missing, "boot".to_owned()), &mut reconciler);
        assert_eq!(saver.due(&reconciler), None, "nothing has changed");
        saver.save(&reconciler);
        let due = saver.due(&reconciler).unwrap();
        assert!(saver.failing && due > clock::now() + RETRY / 2, "{due:?}");
        fs::create_dir(&missing).unwrap();
        saver.save_if_due(&reconciler, due - Duration::from_millis(1));
        assert!(saver.failing, "not before its time");
        saver.save_if_due(&reconciler, due);
        assert!(!saver.failing && saver.file.path().exists());
        assert_eq!(saver.due(&reconciler), None);
    }

    #[test]
    fn records_are_saved_soon_and_details_once_a_second() {
        let directory = TempDir::new("drain-saver-pauses");
        let mut reconciler = reconciler();
        let file = DrainFile::new(directory.path(), "boot".to_owned());
        let mut saver = DrainSaver::resume(file, &mut reconciler);
        saver.save(&reconciler);
        let DrainSaver { saved, written, rest, .. } = saver;
        assert!(rest >= written + PAUSE);
        let details = Version { details: saved.details + 1, ..saved };
        assert_eq!(saver.due_of(details, 0), None, "nothing drains");
        assert_eq!(saver.due_of(details, 1), Some(rest.max(written + PAUSE_OF_DETAILS)));
        assert_eq!(saver.due_of(Version { records: saved.records + 1, ..details }, 0), Some(rest));
    }
}
