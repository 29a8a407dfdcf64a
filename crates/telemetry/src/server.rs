//! `/healthz`, `/livez` and `/readyz` over HTTP.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Semaphore, task::LocalSet, time::sleep};
use tracing::{info, warn};

use crate::Health;

/// As kube-proxy (`serveHealthz` in cmd/kube-proxy/app/server.go).
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// Slow clients are not waited for.
const HEAD: Duration = Duration::from_secs(10);
/// Connections at a time.
const CONNECTIONS: usize = 64;

/// Called with the address that was bound.
pub type Bound = Box<dyn FnOnce(SocketAddr) + Send>;

/// Answers on a thread of its own. An address that cannot be bound is tried again every 5 seconds.
pub fn serve(addr: SocketAddr, health: Arc<Health>, bound: Option<Bound>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let body = move || LocalSet::new().block_on(&runtime, listen(addr, health, bound));
    thread::Builder::new().name("health".to_owned()).spawn(body)?;
    Ok(())
}

async fn listen(addr: SocketAddr, health: Arc<Health>, bound: Option<Bound>) {
    let listener = bind(addr).await;
    if let (Some(bound), Ok(addr)) = (bound, listener.local_addr()) {
        bound(addr);
    }
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&free).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Such as no free file descriptor.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let health = Arc::clone(&health);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &health);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false);
            // A client that hangs up is no concern of ours.
            let _ended = server.serve_connection(TokioIo::new(stream), service).await;
            drop(slot);
        });
    }
}

async fn bind(addr: SocketAddr) -> tokio::net::TcpListener {
    let mut reported = false;
    loop {
        let error = match try_bind(addr) {
            Ok(listener) => {
                info!(%addr, "answers health checks");
                return listener;
            }
            Err(error) => error,
        };
        if !std::mem::replace(&mut reported, true) {
            warn!("health checks on {addr}: {error}; trying again every {BIND_AGAIN:?}");
        }
        sleep(BIND_AGAIN).await;
    }
}

fn try_bind(addr: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let listener = TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    let (good, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz" | "/livez") => health.healthz(Instant::now()),
        (&Method::GET | &Method::HEAD, "/readyz") => health.readyz(),
        (&Method::GET | &Method::HEAD, _) => return respond(StatusCode::NOT_FOUND, String::new()),
        _ => return respond(StatusCode::METHOD_NOT_ALLOWED, String::new()),
    };
    respond(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

fn respond(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", header::HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        sync::mpsc,
    };

    use super::*;

    fn get(addr: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn answers_over_http() {
        let health = Arc::new(Health::new(Duration::from_secs(30), &["services"]));
        let (sender, receiver) = mpsc::channel();
        let bound: Bound = Box::new(move |addr| sender.send(addr).unwrap());
        serve("127.0.0.1:0".parse().unwrap(), Arc::clone(&health), Some(bound)).unwrap();
        let addr = receiver.recv().unwrap();
        assert!(get(addr, "GET /healthz").starts_with("HTTP/1.1 200"));
        assert!(get(addr, "GET /livez?verbose").starts_with("HTTP/1.1 200"));
        let text = get(addr, "GET /readyz");
        assert!(text.starts_with("HTTP/1.1 503") && text.ends_with('}'), "{text}");
        assert!(get(addr, "GET /other").starts_with("HTTP/1.1 404"));
        assert!(get(addr, "POST /healthz").starts_with("HTTP/1.1 405"));
        health.programmed();
        health.source("services", &crate::SourceStatus::Following);
        assert!(get(addr, "GET /readyz").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn an_address_in_use_is_waited_for() {
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = busy.local_addr().unwrap();
        let (sender, receiver) = mpsc::channel();
        let bound: Bound = Box::new(move |addr| sender.send(addr).unwrap());
        serve(addr, Arc::new(Health::new(Duration::from_secs(30), &[])), Some(bound)).unwrap();
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
        drop(busy);
        assert_eq!(receiver.recv_timeout(BIND_AGAIN * 2), Ok(addr));
    }
}
