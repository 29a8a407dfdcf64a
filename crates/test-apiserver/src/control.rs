//! Control endpoint: the methods of a server for other processes, as JSON over plain HTTP under `/__test/`.
//!
//! It has its own port and thread, so that it can end an outage of the server.

mod calls;

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::oneshot;

use crate::handle::{StartError, TestApiServer};
use calls::{Calls, Failure};

/// A running control endpoint. It ends with this value, and keeps the server running until then.
#[derive(Debug)]
pub struct Control {
    address: SocketAddr,
    end: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts an endpoint for `server` at `address`; port 0 stands for any free one.
    ///
    /// # Errors
    ///
    /// If it cannot listen on the address.
    pub fn start(server: Arc<TestApiServer>, address: SocketAddr) -> Result<Self, StartError> {
        let failed = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("control".to_owned());
        let thread = thread
            .spawn(move || {
                if let Err(error) = run(listener, ended, Calls::new(server)) {
                    tracing::error!(%error, "the control endpoint ended");
                }
            })
            .map_err(StartError::Thread)?;
        Ok(Self { address, end: Some(end), thread: Some(thread) })
    }

    /// Address on which it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(listener: TcpListener, mut ended: oneshot::Receiver<Infallible>, calls: Calls) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let calls = Arc::new(calls);
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = &mut ended => return Ok(()),
            };
            let calls = Arc::clone(&calls);
            let service = service_fn(move |request| answer(Arc::clone(&calls), request));
            if let Ok((stream, _)) = accepted {
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        }
    })
}

async fn answer(
    calls: Arc<Calls>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let query = parts.uri.query().unwrap_or_default();
    let (code, value) = match calls.call(&parts.method, parts.uri.path(), query, &body) {
        Ok(value) => (StatusCode::OK, value),
        Err(Failure::Unknown) => (StatusCode::NOT_FOUND, json!({"error": "no such call"})),
        Err(Failure::Refused(message)) => (StatusCode::BAD_REQUEST, json!({"error": message})),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
