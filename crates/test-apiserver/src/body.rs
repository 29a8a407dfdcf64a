//! Bodies of responses: whole ones, and streams that faults can slow down, hold back or cut.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::{
    clock::monotonic,
    requests::Delivery,
    resource::Resource,
    shared::{OpenWatch, Shared},
};

/// Pieces of a stream that may wait for the socket. They are few, so that a slow client slows down the
/// sender.
const BUFFERED_PIECES: usize = 16;

/// Error of a body that was cut on purpose.
#[derive(Debug, thiserror::Error)]
#[error("cut by a fault")]
pub(crate) struct CutShort;

#[derive(Debug)]
pub(crate) enum Answer {
    Whole(Option<Bytes>),
    Stream(Stream),
}

#[derive(Debug)]
pub(crate) struct Stream {
    pieces: mpsc::Receiver<Piece>,
    shared: Arc<Shared>,
    /// Dropped with the body, that is, when the client has gone or everything is sent.
    _open: Option<OpenWatch>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes, Option<Delivery>),
    Cut,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl Stream {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        Poll::Ready(match ready!(self.pieces.poll_recv(context)) {
            Some(Piece::Data(bytes, delivery)) => {
                if let Some(delivery) = delivery {
                    self.shared.deliveries().push(Delivery { at: monotonic(), ..delivery });
                }
                Some(Ok(Frame::data(bytes)))
            }
            Some(Piece::Cut) => Some(Err(CutShort)),
            None => None,
        })
    }
}

/// Error for a client that has gone.
#[derive(Debug)]
pub(crate) struct Left;

/// Sending end of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    pieces: mpsc::Sender<Piece>,
    shared: Arc<Shared>,
    resource: Resource,
}

/// Creates a sink and the body that its bytes make.
pub(crate) fn stream(shared: &Arc<Shared>, resource: Resource, open: Option<OpenWatch>) -> (Sink, Answer) {
    let (sender, pieces) = mpsc::channel(BUFFERED_PIECES);
    let sink = Sink { pieces: sender, shared: Arc::clone(shared), resource };
    (sink, Answer::Stream(Stream { pieces, shared: Arc::clone(shared), _open: open }))
}

impl Sink {
    /// Sends `bytes`, as slowly as the faults demand.
    pub(crate) async fn send(&self, mut bytes: Bytes, delivery: Option<Delivery>) -> Result<(), Left> {
        loop {
            self.shared.wait_unless_silent(self.resource).await;
            let trickle = self.shared.faults.borrow().of(self.resource).trickle;
            let Some(trickle) = trickle.filter(|trickle| trickle.bytes < bytes.len()) else {
                return self.push(Piece::Data(bytes, delivery)).await;
            };
            let piece = bytes.split_to(trickle.bytes.max(1));
            self.push(Piece::Data(piece, None)).await?;
            tokio::time::sleep(Duration::from_millis(trickle.every_ms)).await;
        }
    }

    /// Closes the connection without ending the response.
    pub(crate) async fn cut(self) {
        // Earlier bytes must leave the buffers of the connection first, because they are lost with it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _ = self.push(Piece::Cut).await;
        self.left().await;
    }

    /// Waits until the client has gone.
    pub(crate) async fn left(&self) {
        self.pieces.closed().await;
    }

    async fn push(&self, piece: Piece) -> Result<(), Left> {
        self.pieces.send(piece).await.map_err(|_| Left)
    }
}
