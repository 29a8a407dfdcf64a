//! Messages between host and guest, over one virtio-serial port (pure apart from `Read` and `Write`).
//!
//! A message is one byte of kind, four bytes of length (little endian) and the payload. The kernel's
//! console is another device, so nothing can come between the bytes of a message.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Length of a payload in bytes beyond which the two sides no longer understand each other.
const MAX_PAYLOAD: usize = 64 << 20;

/// One message in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Guest: the agent is up.
    Hello(Hello),
    /// Host: run this.
    Run(Task),
    /// Guest: a piece of the task's output, standard output and error in the order of writing.
    Output(Vec<u8>),
    /// Guest: the task ended.
    Done(Outcome),
    /// Host: send the files below this path.
    Fetch(String),
    /// Guest: one file of a fetch.
    File(GuestFile),
    /// Guest: no more files; the text is empty or an error.
    Fetched(String),
    /// Guest: the agent still gets processor time.
    Alive,
    /// Host: power off.
    Quit,
}

/// First message of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Kernel release.
    pub release: String,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Program and arguments; the program is looked up in `PATH`.
    pub argv: Vec<String>,
    /// Variables added to the guest's own few.
    pub env: Vec<(String, String)>,
    /// Milliseconds after which the guest kills it.
    pub timeout_ms: u64,
}

/// End of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Exit code; `None` if a signal ended the task or it never started.
    pub code: Option<i32>,
    /// Signal that ended the task.
    pub signal: Option<i32>,
    /// Reason why the task never started.
    pub error: Option<String>,
    /// True if the guest killed the task because its time was over.
    pub timed_out: bool,
    /// Duration of the task in milliseconds.
    pub millis: u64,
    /// Kernel messages of level warning and worse during the run.
    pub kernel: Vec<String>,
    /// Processes that the task left behind and the guest killed.
    pub leftovers: Vec<String>,
}

/// A file on its way out of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFile {
    /// Path relative to the requested one; empty for that one itself.
    pub path: String,
    /// Contents of the file.
    pub contents: Vec<u8>,
}

impl Outcome {
    /// Tells whether the task exited with 0 in time.
    pub fn is_success(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }

    /// Describes an end without an exit code.
    pub fn problem(&self) -> Option<String> {
        if self.timed_out {
            return Some(format!(
                "killed after {:.0} s: timed out",
                Duration::from_millis(self.millis).as_secs_f64()
            ));
        }
        let signal = self.signal.map(|signal| format!("killed by signal {signal}"));
        self.error.clone().or(signal)
    }
}

impl Message {
    /// Writes the message in one piece.
    pub fn encode(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = match self {
            Self::Hello(hello) => (b'h', json(hello)?),
            Self::Run(task) => (b'r', json(task)?),
            Self::Output(bytes) => (b'o', bytes.clone()),
            Self::Done(outcome) => (b'd', json(outcome)?),
            Self::Fetch(path) => (b'g', path.clone().into_bytes()),
            Self::File(file) => (b'f', file.encode()),
            Self::Fetched(error) => (b'e', error.clone().into_bytes()),
            Self::Alive => (b'a', Vec::new()),
            Self::Quit => (b'q', Vec::new()),
        };
        let length = u32::try_from(payload.len()).map_err(|_| invalid("payload too long"))?;
        let mut bytes = Vec::with_capacity(payload.len() + 5);
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&payload);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads one message; `None` if the stream ended between two messages.
    pub fn decode(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut kind = [0];
        if from.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_PAYLOAD {
            return Err(invalid("payload too long"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Self::parse(kind[0], payload).map(Some)
    }

    fn parse(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        Ok(match kind {
            b'h' => Self::Hello(from_json(&payload)?),
            b'r' => Self::Run(from_json(&payload)?),
            b'o' => Self::Output(payload),
            b'd' => Self::Done(from_json(&payload)?),
            b'g' => Self::Fetch(text(payload)?),
            b'f' => Self::File(GuestFile::parse(&payload)?),
            b'e' => Self::Fetched(text(payload)?),
            b'a' => Self::Alive,
            b'q' => Self::Quit,
            other => return Err(invalid(format!("unknown message kind {other}"))),
        })
    }
}

impl GuestFile {
    /// Encodes the length of the path, the path, and the contents.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.path.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(self.path.as_bytes());
        bytes.extend_from_slice(&self.contents);
        bytes
    }

    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let (length, rest) = bytes.split_first_chunk().ok_or_else(|| invalid("file without a path"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(invalid)?;
        let (path, contents) = rest.split_at_checked(length).ok_or_else(|| invalid("file without a path"))?;
        Ok(Self { path: text(path.to_vec())?, contents: contents.to_vec() })
    }
}

fn json<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(invalid)
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(invalid)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(invalid)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let task = Task {
            argv: vec!["ip".to_owned(), "addr".to_owned()],
            env: vec![("A".to_owned(), "b c".to_owned())],
            timeout_ms: 1500,
        };
        let outcome = Outcome { code: Some(101), kernel: vec!["BUG: x".to_owned()], ..Outcome::default() };
        vec![
            Message::Hello(Hello { release: "6.12.1".to_owned() }),
            Message::Run(task),
            Message::Output(b"\xff\0r\n".to_vec()),
            Message::Output(vec![b'x'; 100_000]),
            Message::Done(outcome),
            Message::Fetch("/results".to_owned()),
            Message::File(GuestFile { path: "a/b".to_owned(), contents: vec![0, 1, 2] }),
            Message::Fetched(String::new()),
            Message::Alive,
            Message::Quit,
        ]
    }

    #[test]
    fn every_message_survives_the_wire() {
        let mut wire = Vec::new();
        for message in messages() {
            message.encode(&mut wire).unwrap();
        }
        let mut reader = wire.as_slice();
        for expected in messages() {
            assert_eq!(Message::decode(&mut reader).unwrap(), Some(expected));
        }
        assert_eq!(Message::decode(&mut reader).unwrap(), None);
    }

    #[test]
    fn broken_streams_are_errors() {
        for wire in [&b"o\x05\0\0\0abc"[..], b"o\x05", b"z\0\0\0\0", b"o\xff\xff\xff\xff", b"f\x01\0\0\0x"] {
            assert!(Message::decode(&mut &*wire).is_err(), "{wire:?}");
        }
    }
}
