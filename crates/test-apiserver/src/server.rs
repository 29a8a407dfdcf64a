//! Thread of the server: listener, connections, TLS.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, PoisonError, mpsc::Sender},
    time::Duration,
};

use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc::UnboundedReceiver,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    body::Answer,
    service::{path_and_query, serve},
    shared::Shared,
    spoil::{Fate, Spoilable},
    tls::HTTP2,
};

/// Attempts to get the port back after a restart, and the pause between them.
const BIND_ATTEMPTS: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(100);

/// Command of the owner for the thread, which answers when it is done.
#[derive(Debug)]
pub(crate) enum Command {
    /// Refuse connections, and end open ones.
    Close(Sender<io::Result<()>>),
    /// Accept them again, on the same port.
    Open(Sender<io::Result<()>>),
}

/// Everything that the thread needs.
pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) commands: UnboundedReceiver<Command>,
}

impl Server {
    /// Serves until the owner has gone.
    pub(crate) fn run(self, listener: std::net::TcpListener) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve(listener))
    }

    async fn serve(mut self, listener: std::net::TcpListener) -> io::Result<()> {
        let mut listener = Some(TcpListener::from_std(listener)?);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    None => return Ok(()),
                    Some(Command::Close(done)) => {
                        listener = None;
                        connections.shutdown().await;
                        let _ = done.send(Ok(()));
                    }
                    Some(Command::Open(done)) => {
                        let _ = done.send(self.open(&mut listener).await);
                    }
                },
                accepted = accept(listener.as_ref()) => match accepted {
                    Ok(stream) => {
                        connections.spawn(connection(Arc::clone(&self.shared), stream, self.tls.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection; trying again");
                        // Most likely there is no free file descriptor: they become free as connections end.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Listens at the same port as before, which a client of somebody else may have for a moment.
    async fn open(&self, listener: &mut Option<TcpListener>) -> io::Result<()> {
        let mut attempts = 0;
        while listener.is_none() {
            attempts += 1;
            match TcpListener::bind(self.address).await {
                Ok(bound) => *listener = Some(bound),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts < BIND_ATTEMPTS => {
                    tokio::time::sleep(BIND_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Accepts the next connection; waits while the server refuses them.
async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, tls: Option<TlsAcceptor>) {
    // An event must not wait for the next one.
    let _ = stream.set_nodelay(true);
    let (stream, fate) = Spoilable::new(stream);
    let connection = Connection { number: shared.next_connection(), shared, fate };
    match tls {
        None => connection.serve(stream).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(HTTP2) => {
                connection.serve_http2(stream).await;
            }
            Ok(stream) => connection.serve(stream).await,
            Err(error) => tracing::debug!(%error, "TLS handshake failed"),
        },
    }
}

#[derive(Clone)]
struct Connection {
    shared: Arc<Shared>,
    number: u64,
    fate: Fate,
}

impl Connection {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) {
        let service = service_fn(|request| self.clone().answer(request));
        // Clients leave, and faults cut bodies; neither is worth more than a debug line.
        if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "connection broke off");
        }
    }

    async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let mut farewells = self.shared.farewells.subscribe();
        let service = service_fn(move |request| self.clone().answer(request));
        let serving =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
        let mut serving = pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            Ok(()) = farewells.changed() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection broke off");
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let spoil = self.shared.spoils().take(path_and_query(request.uri()));
        if spoil.is_some() {
            *self.fate.lock().unwrap_or_else(PoisonError::into_inner) = spoil;
        }
        Ok(serve(self.shared, self.number, request).await)
    }
}
