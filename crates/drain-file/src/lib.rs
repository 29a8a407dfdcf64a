//! `drain.json`: what of the drains must survive a restart of the process, and what `kube-ipvs drains` lists.
//!
//! Times are since boot, so that the file of an earlier boot means nothing; it is told by the boot's id.
//!
//! Reading order: [`DrainFile`], [`Saved`], [`Entry`]. Deliberately not here: when it is written, and what an entry is
//! worth once the kernel has been looked at.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use drain::{Drain, Key, Overrides, Record, Settings, Time};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Changes whenever older programs would misread it.
const VERSION: u32 = 1;

/// The file.
#[derive(Debug)]
pub struct DrainFile {
    path: PathBuf,
    boot: String,
}

/// Why the drains of the process before are not known.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It is not what was written.
    #[error("is damaged")]
    Damaged(#[source] serde_json::Error),
    /// A newer or older program wrote it.
    #[error("has version {0}, {VERSION} is expected")]
    Version(u32),
}

/// What the file contains.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The drains.
    pub drains: Vec<Saved>,
    /// Why some entries are left out.
    pub problems: Vec<String>,
}

/// An entry, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Who drains.
    pub key: Key,
    /// What the next process must know of it.
    pub record: Record,
    /// The words of it, for listings.
    pub entry: Entry,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    version: u32,
    boot_id: String,
    /// One by one, so that a damaged entry costs no other.
    drains: Vec<serde_json::Value>,
}

/// One draining real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    virtual_server: String,
    real_server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    cause: String,
    /// Since boot.
    since_millis: u64,
    /// By which policy it drains; for listings.
    policy: String,
    /// When it is removed in any case, since boot; for listings.
    #[serde(default)]
    deadline_millis: Option<u64>,
    /// What its Service wants otherwise than the configuration of whoever reads this.
    #[serde(default, skip_serializing_if = "Wishes::is_empty")]
    service: Wishes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wishes {
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linger_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    silence_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_gone: Option<String>,
}

impl DrainFile {
    /// The file of this boot in a directory.
    pub fn new(state_dir: &Path, boot: String) -> Self {
        DrainFile { path: state_dir.join("drain.json"), boot }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces it in one step: a reader sees the old or the new one. It is not flushed to a disk: it only has to
    /// outlive the process.
    pub fn save<'a>(&self, drains: impl Iterator<Item = (&'a Key, &'a Drain)>) -> io::Result<()> {
        let drains = drains.map(|(key, drain)| serde_json::to_value(Entry::new(key, drain)));
        let drains = drains.collect::<Result<Vec<_>, _>>()?;
        let content = Content { version: VERSION, boot_id: self.boot.clone(), drains };
        let next = self.path.with_extension("json.next");
        // Left by a process that died here, or laid out by somebody else: a link would be followed.
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec(&content)?)?;
        fs::rename(&next, &self.path)
    }

    /// What was saved last; nothing if that was never, or before the node was booted.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let text = match read_regular(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(error) => return Err(LoadError::Read(error)),
        };
        self.parse(&text)
    }

    /// What a text says that was saved in this boot; nothing if it was saved in another one.
    pub fn parse(&self, text: &[u8]) -> Result<Loaded, LoadError> {
        let content: Content = serde_json::from_slice(text).map_err(LoadError::Damaged)?;
        if content.boot_id != self.boot {
            return Ok(Loaded::default());
        }
        if content.version != VERSION {
            return Err(LoadError::Version(content.version));
        }
        let mut loaded = Loaded::default();
        for value in content.drains {
            match Entry::read(value) {
                Ok(saved) => loaded.drains.push(saved),
                Err(problem) => loaded.problems.push(problem),
            }
        }
        Ok(loaded)
    }
}

/// Reads a file that is no link, and no pipe that would never end.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}

impl Entry {
    fn new(key: &Key, drain: &Drain) -> Self {
        let Settings { policy, .. } = drain.settings;
        Entry {
            virtual_server: key.front.to_string(),
            real_server: key.rs.to_string(),
            pod: drain.pod.as_deref().map(str::to_owned),
            cause: drain.cause.to_string(),
            since_millis: millis(drain.since),
            policy: policy.to_string(),
            deadline_millis: drain.deadline().map(millis),
            service: Wishes::new(&drain.overrides),
        }
    }

    /// Complete and understood, or not at all.
    fn read(value: serde_json::Value) -> Result<Saved, String> {
        let entry: Entry = serde_json::from_value(value).map_err(|error| error.to_string())?;
        Ok(Saved { key: entry.key()?, record: entry.record()?, entry })
    }

    fn key(&self) -> Result<Key, String> {
        Ok(Key { front: parse(&self.virtual_server)?, rs: parse(&self.real_server)? })
    }

    fn record(&self) -> Result<Record, String> {
        Ok(Record {
            cause: parse(&self.cause)?,
            since: Duration::from_millis(self.since_millis),
            overrides: self.service.overrides()?,
            pod: self.pod.as_deref().map(Into::into),
        })
    }

    /// `NAMESPACE/NAME` of its pod; the file has the UID too.
    pub fn pod(&self) -> Option<&str> {
        let pod = self.pod.as_deref()?;
        let name_ends = pod.match_indices('/').nth(1).map(|(at, _)| at);
        Some(name_ends.map_or(pod, |at| &pod[..at]))
    }

    /// The virtual server, as it is printed everywhere.
    pub fn virtual_server(&self) -> &str {
        &self.virtual_server
    }

    /// The real server, as it is printed everywhere.
    pub fn real_server(&self) -> &str {
        &self.real_server
    }

    /// Why it drains.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// By which policy.
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// Since when.
    pub fn since(&self) -> Time {
        Duration::from_millis(self.since_millis)
    }

    /// Until when in any case.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline_millis.map(Duration::from_millis)
    }
}

impl Wishes {
    fn new(overrides: &Overrides) -> Self {
        let Overrides { policy, linger, timeout, silence, endpoint_gone } = overrides;
        Wishes {
            policy: policy.map(|policy| policy.to_string()),
            linger_millis: linger.map(millis),
            timeout_millis: timeout.map(millis),
            silence_millis: silence.map(millis),
            endpoint_gone: endpoint_gone.map(|action| action.to_string()),
        }
    }

    fn is_empty(&self) -> bool {
        *self == Wishes::default()
    }

    fn overrides(&self) -> Result<Overrides, String> {
        Ok(Overrides {
            policy: self.policy.as_deref().map(parse).transpose()?,
            linger: self.linger_millis.map(Duration::from_millis),
            timeout: self.timeout_millis.map(Duration::from_millis),
            silence: self.silence_millis.map(Duration::from_millis),
            endpoint_gone: self.endpoint_gone.as_deref().map(parse).transpose()?,
        })
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// 584 million years and more count as that.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
