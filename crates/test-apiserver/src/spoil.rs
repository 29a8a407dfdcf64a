//! Answers that go wrong below HTTP: a connection that stalls, breaks or talks nonsense in the middle of one.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// An answer that goes wrong after some bytes, head included; everything later on its connection does, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoil {
    /// So many bytes arrive as they should.
    pub after: usize,
    /// Then this happens.
    pub then: Ruin,
}

/// How an answer goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruin {
    /// Never a byte again, and the connection stays open.
    Silence,
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
    /// Every byte is another one than it should be.
    Garbage,
    /// One byte at a time, with this pause after each.
    Drip(Duration),
}

/// Which answers are spoilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// That of one request, counted from now on: 0 is the next one, whatever it asks for.
    Nth(u64),
    /// Those of all requests whose path and query begin so, until the faults are cleared.
    Path(String),
}

/// What is to be spoilt.
#[derive(Debug, Default)]
pub(crate) struct Spoils {
    wanted: Vec<(Pick, Spoil)>,
    /// Answers that were.
    spoilt: u64,
}

impl Spoils {
    pub(crate) fn add(&mut self, pick: Pick, spoil: Spoil) {
        self.wanted.push((pick, spoil));
    }

    pub(crate) fn clear(&mut self) {
        self.wanted.clear();
    }

    pub(crate) const fn spoilt(&self) -> u64 {
        self.spoilt
    }

    /// Is the answer to this request spoilt? Counts down.
    pub(crate) fn take(&mut self, uri: &str) -> Option<Spoil> {
        let mut found = None;
        self.wanted.retain_mut(|(pick, spoil)| match pick {
            Pick::Nth(0) => {
                found.get_or_insert(*spoil);
                false
            }
            Pick::Nth(left) => {
                *left -= 1;
                true
            }
            Pick::Path(path) => {
                if uri.starts_with(&**path) {
                    found.get_or_insert(*spoil);
                }
                true
            }
        });
        self.spoilt += u64::from(found.is_some());
        found
    }
}

/// Set when the answer is about to be sent.
pub(crate) type Fate = Arc<Mutex<Option<Spoil>>>;

/// A connection whose answers can be spoilt.
pub(crate) struct Spoilable {
    stream: TcpStream,
    fate: Fate,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Spoilable {
    pub(crate) fn new(stream: TcpStream) -> (Self, Fate) {
        let fate = Fate::default();
        (Self { stream, fate: Arc::clone(&fate), pause: None }, fate)
    }

    fn fate(&self) -> Option<Spoil> {
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what has arrived as it should.
    fn passed(&self, bytes: usize) {
        if let Some(spoil) = &mut *self.fate.lock().unwrap_or_else(PoisonError::into_inner) {
            spoil.after -= bytes.min(spoil.after);
        }
    }

    fn write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn ruin(&mut self, context: &mut Context<'_>, bytes: &[u8], how: Ruin) -> Poll<io::Result<usize>> {
        match how {
            Ruin::Silence => Poll::Ready(Ok(bytes.len())),
            Ruin::Close => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Ruin::Reset => {
                self.stream.set_zero_linger()?;
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            Ruin::Garbage => {
                let garbage: Vec<u8> = bytes.iter().map(|byte| byte ^ 0x55).collect();
                self.write(context, &garbage)
            }
            Ruin::Drip(every) => {
                if let Some(pause) = &mut self.pause {
                    ready!(pause.as_mut().poll(context));
                }
                self.pause = Some(Box::pin(sleep(every)));
                self.write(context, &bytes[..bytes.len().min(1)])
            }
        }
    }
}

impl AsyncRead for Spoilable {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Spoilable {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.fate() {
            None => this.write(context, bytes),
            Some(Spoil { after: 0, then }) => this.ruin(context, bytes, then),
            Some(Spoil { after, .. }) => {
                let written = ready!(this.write(context, &bytes[..bytes.len().min(after)]))?;
                this.passed(written);
                Poll::Ready(Ok(written))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.fate() {
            // The connection stays open, even if it was to be closed after the answer.
            Some(Spoil { after: 0, then: Ruin::Silence }) => Poll::Pending,
            _ => Pin::new(&mut this.stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_picked_by_number_and_by_path() {
        let spoil = |after| Spoil { after, then: Ruin::Close };
        let mut spoils = Spoils::default();
        spoils.add(Pick::Nth(1), spoil(1));
        spoils.add(Pick::Path("/version".into()), spoil(2));
        let taken: Vec<_> =
            ["/version", "/api", "/api", "/version"].map(|uri| spoils.take(uri)).into_iter().collect();
        assert_eq!(taken, [Some(spoil(2)), Some(spoil(1)), None, Some(spoil(2))]);
        assert_eq!(spoils.spoilt(), 3);
        spoils.clear();
        assert_eq!(spoils.take("/version"), None);
    }
}
