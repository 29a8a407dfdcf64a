//! HTTP server of `/healthz`, `/livez` and `/readyz`, and at another address of `/metrics`.

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

/// Pause after a failure to bind, as in kube-proxy (`serveHealthz` in cmd/kube-proxy/app/server.go).
const BIND_RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Longest wait for the head of a request; TCP retransmits a lost packet three times within it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest duration of a connection, for clients that read slowly.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request, so that a connection takes little memory.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Connections that the kernel queues until the server accepts them, fewer if `net.core.somaxconn` is lower.
const ACCEPT_QUEUE_LENGTH: i32 = 4096;

/// Set of pages that an address serves.
#[derive(Clone, Debug)]
pub enum Site {
    /// `/healthz`, `/livez` and `/readyz`.
    Health(Arc<Health>),
    /// `/metrics`, and `/proxyMode` as kube-proxy's metrics server has it.
    Metrics(Arc<Metrics>),
}

impl Site {
    /// Name of the site and of its thread.
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
            (Site::Metrics(_), "/proxyMode") => Page::text(StatusCode::OK, TEXT_TYPE, "ipvs".to_owned()),
            _ => Page::text(StatusCode::NOT_FOUND, TEXT_TYPE, String::new()),
        }
    }
}

const JSON_TYPE: &str = "application/json";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";
/// Media type of the text format of Prometheus (`prometheus::TEXT_FORMAT`).
const METRICS_TYPE: &str = "text/plain; version=0.0.4";

struct Page {
    status: StatusCode,
    content_type: &'static str,
    text: String,
}

impl Page {
    const fn text(status: StatusCode, content_type: &'static str, text: String) -> Self {
        Page { status, content_type, text }
    }

    fn json(Answer { good, body }: Answer) -> Self {
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Page::text(status, JSON_TYPE, body)
    }

    fn metrics(text: Result<String, prometheus::Error>) -> Self {
        match text {
            Ok(text) => Page::text(StatusCode::OK, METRICS_TYPE, text),
            Err(error) => Page::text(StatusCode::INTERNAL_SERVER_ERROR, TEXT_TYPE, error.to_string()),
        }
    }
}

/// Function that gets the address that was bound.
pub type Bound = Box<dyn FnOnce(SocketAddr) + Send>;

/// Serves a site on a thread of its own. An address that cannot be bound is tried again every 5 seconds.
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
            // There may be no free file descriptor: connections end, and with them their descriptors become
            // free.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let id = connections.borrow().next_id();
        let (site, open) = (site.clone(), Rc::clone(&connections));
        let task = spawn_local(async move {
            // That a client hangs up, or is too slow, is no error here.
            let _ended = timeout(CONNECTION_TIMEOUT, converse(stream, &site)).await;
            open.borrow_mut().remove(id);
        });
        if let Some(ended) = connections.borrow_mut().add(client.ip(), task.abort_handle()) {
            ended.abort();
        }
        // Lets the task answer a request that has already arrived, before other connections can push its own
        // out.
        yield_now().await;
    }
}

async fn converse(stream: TcpStream, site: &Site) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let response = answer(&request, site);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
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
            warn!("{name} on {addr}: cannot listen: {error}; trying again every {BIND_RETRY_PAUSE:?}");
        }
        sleep(BIND_RETRY_PAUSE).await;
    }
}

/// Listens on an address. The unspecified IPv6 address stands for both families, and for IPv4 alone if the
/// kernel runs without IPv6.
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
        // `[::]` serves IPv4, too, whatever the value of net.ipv6.bindv6only.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(ACCEPT_QUEUE_LENGTH)?;
    Ok(socket.into())
}

fn answer(request: &Request<Incoming>, site: &Site) -> Response<Full<Bytes>> {
    match *request.method() {
        Method::GET | Method::HEAD => respond(site.page(request.uri().path())),
        _ => respond(Page::text(StatusCode::METHOD_NOT_ALLOWED, TEXT_TYPE, String::new())),
    }
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.text)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(page.content_type));
    headers.insert("x-content-type-options", header::HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
