//! `drain.json`: what of the drains must survive a restart of the process, and what `kube-ipvs drains` lists.
//!
//! Times are since boot, so that the file of an earlier boot means nothing; it is told by the boot's id.
//!
//! Reading order: [`DrainFile`], [`Saved`]. Deliberately not here: when it is written, and what an entry is
//! worth once the kernel has been looked at.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    num::NonZeroU32,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use drain::{Drain, Key, Policy, Record, Time, WaitsFor, spelling::millis};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// Changes whenever older programs would misread it.
const VERSION: u32 = 1;

/// The file.
#[derive(Debug)]
pub struct DrainFile {
    path: PathBuf,
    boot: String,
}

/// Reason for which the drains of the process before are not known.
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

/// Content of the file, understood.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The drains.
    pub drains: Vec<Saved>,
    /// Reasons for which entries are left out.
    pub problems: Vec<String>,
}

/// One draining real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// The real server that drains.
    #[serde(flatten)]
    pub key: Key,
    /// The part that the next process must know.
    #[serde(flatten)]
    pub record: Record,
    /// Name of the Service port that its front serves, or served last; for listings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_port: Option<String>,
    /// Packet mark by which its virtual server is selected, if it is; for listings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<NonZeroU32>,
    /// The policy by which it drains; for listings.
    pub policy: Policy,
    /// Time since boot at which it is removed in any case; for listings.
    #[serde(default, rename = "deadlineMillis", serialize_with = "millis::serialize")]
    #[serde(deserialize_with = "millis::optional")]
    pub deadline: Option<Time>,
    /// Reason for which it is still there; for listings. Files of before do not have it, and words of a newer
    /// process may not be known.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "if_known")]
    pub waits_for: Option<WaitsFor>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content<D> {
    version: u32,
    boot_id: String,
    drains: Vec<D>,
}

impl DrainFile {
    /// The file of this boot in a directory.
    pub fn new(state_dir: &Path, boot: String) -> Self {
        DrainFile { path: state_dir.join("drain.json"), boot }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces it in one step: a reader sees the old or the new one. It is not flushed to a disk: it only
    /// has to outlive the process.
    pub fn save(&self, drains: impl Iterator<Item = Saved>) -> io::Result<()> {
        let content = Content { version: VERSION, boot_id: self.boot.clone(), drains: drains.collect() };
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

    /// Reads what was saved last; nothing if that was never, or before the node was booted.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let text = match read_regular(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(error) => return Err(LoadError::Read(error)),
        };
        self.parse(&text)
    }

    /// Parses a text that was saved in this boot; nothing if it was saved in another one.
    pub fn parse(&self, text: &[u8]) -> Result<Loaded, LoadError> {
        // Entries one by one, so that a damaged one costs no other.
        let content: Content<serde_json::Value> = serde_json::from_slice(text).map_err(LoadError::Damaged)?;
        if content.boot_id != self.boot {
            return Ok(Loaded::default());
        }
        if content.version != VERSION {
            return Err(LoadError::Version(content.version));
        }
        let mut loaded = Loaded::default();
        for value in content.drains {
            match serde_json::from_value(value) {
                Ok(saved) => loaded.drains.push(saved),
                Err(problem) => loaded.problems.push(problem.to_string()),
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

impl Saved {
    /// An entry for a drain.
    pub fn new(key: &Key, drain: &Drain, waits_for: WaitsFor) -> Self {
        let (policy, deadline) = (drain.settings.policy, drain.deadline());
        let record = Record::from(drain);
        Saved {
            key: *key,
            record,
            service_port: None,
            mark: None,
            policy,
            deadline,
            waits_for: Some(waits_for),
        }
    }

    /// `NAMESPACE/NAME` of its pod; the file has the UID too.
    pub fn pod(&self) -> Option<&str> {
        let pod = self.record.pod.as_deref()?;
        let name_ends = pod.match_indices('/').nth(1).map(|(at, _)| at);
        Some(name_ends.map_or(pod, |at| &pod[..at]))
    }
}

/// Costs nothing else where it is not.
fn if_known<'de, D: Deserializer<'de>>(from: D) -> Result<Option<WaitsFor>, D::Error> {
    serde_json::Value::deserialize(from).map(|value| serde_json::from_value(value).ok())
}

#[cfg(test)]
mod tests;
