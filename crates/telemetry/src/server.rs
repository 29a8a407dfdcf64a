//! `/healthz`, `/livez` and `/readyz`, and at another address `/metrics`, over HTTP.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, LocalSet, spawn_local, yield_now},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{Answer, Health, Metrics, connections::Connections};

/// As kube-proxy (`serveHealthz` in cmd/kube-proxy/app/server.go).
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// For the head of a request; TCP has sent a lost packet three times again by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// For a whole connection, from a client that reads slowly.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request, so that a connection takes little memory.
const HEAD_BYTES: usize = 16 << 10;
/// Connections that the kernel keeps until they are accepted, less if `net.core.somaxconn` says so.
const ACCEPT_QUEUE: i32 = 4096;

/// What is answered at an address.
#[derive(Clone, Debug)]
pub enum Site {
    /// `/healthz`, `/livez` and `/readyz`.
    Health(Arc<Health>),
    /// `/metrics`, and `/proxyMode` as kube-proxy's metrics server has it.
    Metrics(Arc<Metrics>),
}

impl Site {
    /// Also the name of its thread.
    const fn name(&self) -> &'static str {
        match self {
            Site::Health(_) => "health",
            Site::Metrics(_) => "metrics",
        }
    }

    fn page(&self, path: &str) -> Page {
        match (self, path) {
            (Site::Health(health), "/livez") => Page::json(health.livez(Instant::now())),
            (Site::Health(health), "/healthz") => Page::json(health.healthz(Instant::now())),
            (Site::Health(health), "/readyz") => Page::json(health.readyz(Instant::now())),
            (Site::Metrics(metrics), "/metrics") => Page::metrics(metrics.render()),
            (Site::Metrics(_), "/proxyMode") => Page::text(StatusCode::OK, TEXT, "ipvs".to_owned()),
            _ => Page::text(StatusCode::NOT_FOUND, TEXT, String::new()),
        }
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// The text format of Prometheus (`prometheus::TEXT_FORMAT`).
const METRICS: &str = "text/plain; version=0.0.4";

struct Page {
    status: StatusCode,
    kind: &'static str,
    text: String,
}

impl Page {
    const fn text(status: StatusCode, kind: &'static str, text: String) -> Page {
        Page { status, kind, text }
    }

    fn json(Answer { good, body }: Answer) -> Page {
        Page::text(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, JSON, body)
    }

    fn metrics(text: Result<String, prometheus::Error>) -> Page {
        match text {
            Ok(text) => Page::text(StatusCode::OK, METRICS, text),
            Err(error) => Page::text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
        }
    }
}

/// Called with the address that was bound.
pub type Bound = Box<dyn FnOnce(SocketAddr) + Send>;

/// Answers on a thread of its own. An address that cannot be bound is tried again every 5 seconds.
pub fn serve(addr: SocketAddr, site: Site, bound: Option<Bound>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let name = site.name();
    let body = move || LocalSet::new().block_on(&runtime, listen(addr, site, bound));
    thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(())
}

async fn listen(addr: SocketAddr, site: Site, bound: Option<Bound>) {
    let listener = bind(addr, site.name()).await;
    if let (Some(bound), Ok(addr)) = (bound, listener.local_addr()) {
        bound(addr);
    }
    let connections = Rc::new(RefCell::new(Connections::<AbortHandle>::default()));
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            // Such as no free file descriptor.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let id = connections.borrow().next_id();
        let (site, open) = (site.clone(), Rc::clone(&connections));
        let task = spawn_local(async move {
            // A client that hangs up, or is too slow, is no concern of ours.
            let _ended = timeout(CONNECTION_TIMEOUT, converse(stream, &site)).await;
            open.borrow_mut().remove(id);
        });
        if let Some(ended) = connections.borrow_mut().add(client.ip(), task.abort_handle()) {
            ended.abort();
        }
        // A request that is there already is answered before others can push its connection out.
        yield_now().await;
    }
}

async fn converse(stream: TcpStream, site: &Site) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let response = answer(&request, site);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES);
    server.keep_alive(false);
    server.serve_connection(TokioIo::new(stream), service).await
}

async fn bind(addr: SocketAddr, name: &str) -> TcpListener {
    let mut reported = false;
    loop {
        let bound = try_bind(addr, listen_on).and_then(TcpListener::from_std);
        let error = match bound {
            Ok(listener) => {
                let addr = listener.local_addr().unwrap_or(addr);
                info!(%addr, "answers requests for {name}");
                return listener;
            }
            Err(error) => error,
        };
        if !std::mem::replace(&mut reported, true) {
            warn!("{name} on {addr}: {error}; trying again every {BIND_AGAIN:?}");
        }
        sleep(BIND_AGAIN).await;
    }
}

/// The unspecified IPv6 address stands for both families, and for IPv4 alone where the kernel runs without IPv6.
fn try_bind<T>(addr: SocketAddr, listen: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let is_unspecified = addr.ip() == Ipv6Addr::UNSPECIFIED;
    listen(addr).or_else(|error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) if is_unspecified => {
            listen((Ipv4Addr::UNSPECIFIED, addr.port()).into())
        }
        _ => Err(error),
    })
}

fn listen_on(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if addr.is_ipv6() {
        // Whatever net.ipv6.bindv6only says: `[::]` serves IPv4, too.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(ACCEPT_QUEUE)?;
    Ok(socket.into())
}

fn answer(request: &Request<Incoming>, site: &Site) -> Response<Full<Bytes>> {
    match *request.method() {
        Method::GET | Method::HEAD => respond(site.page(request.uri().path())),
        _ => respond(Page::text(StatusCode::METHOD_NOT_ALLOWED, TEXT, String::new())),
    }
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.text)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(page.kind));
    headers.insert("x-content-type-options", header::HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
