//! Answers that go wrong below HTTP: the connection stalls, breaks or delivers nonsense in the middle of one.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// Fault of an answer after some bytes, head included; everything later on its connection goes wrong, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoil {
    /// Number of bytes that arrive as they should.
    pub after: usize,
    /// Fault that follows.
    pub then: Ruin,
}

/// Fault of the bytes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruin {
    /// The server sends nothing more, but the connection stays open.
    Silence,
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
    /// Every byte is changed.
    Garbage,
    /// The bytes come one by one, with this pause after each.
    Drip(Duration),
}

/// Choice of the answers to spoil.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Answer to one request, of any kind, counted from now on: 0 is the next one.
    Nth(u64),
    /// Answers to all requests whose path and query begin so, until the faults are cleared.
    Path(String),
}

/// Answers to spoil.
#[derive(Debug, Default)]
pub(crate) struct Spoils {
    wanted: Vec<(Pick, Spoil)>,
    /// Number of answers that were spoilt.
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

    /// Takes the spoil of the answer to this request, if there is one.
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

/// Spoil of a connection, set before the answer is sent.
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

    /// Counts bytes that arrived as they should.
    fn count_passed(&self, bytes: usize) {
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
                this.count_passed(written);
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
            // The connection stays open, even if the client wanted it closed after the answer.
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
