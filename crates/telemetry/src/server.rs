//! `/healthz`, `/livez` and `/readyz`, and at another address `/metrics`, over HTTP.

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

use crate::{Health, Metrics};

/// As kube-proxy (`serveHealthz` in cmd/kube-proxy/app/server.go).
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// Slow clients are not waited for.
const HEAD: Duration = Duration::from_secs(10);
/// Connections at a time.
const CONNECTIONS: usize = 64;

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
            (Site::Health(health), "/healthz" | "/livez") => Page::json(health.healthz(Instant::now())),
            (Site::Health(health), "/readyz") => Page::json(health.readyz()),
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

    fn json((good, text): (bool, String)) -> Page {
        Page::text(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, JSON, text)
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
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&free).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Such as no free file descriptor.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let site = site.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &site);
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

async fn bind(addr: SocketAddr, name: &str) -> tokio::net::TcpListener {
    let mut reported = false;
    loop {
        let error = match try_bind(addr) {
            Ok(listener) => {
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

fn try_bind(addr: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let listener = TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
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

    fn start(site: Site) -> SocketAddr {
        let (sender, receiver) = mpsc::channel();
        let bound: Bound = Box::new(move |addr| sender.send(addr).unwrap());
        serve("127.0.0.1:0".parse().unwrap(), site, Some(bound)).unwrap();
        receiver.recv().unwrap()
    }

    #[test]
    fn answers_over_http() {
        let health = Arc::new(Health::new(Duration::from_secs(30), &["services"]));
        let addr = start(Site::Health(Arc::clone(&health)));
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
    fn metrics_have_an_address_of_their_own() {
        let addr = start(Site::Metrics(Metrics::new(["drained"]).unwrap().into()));
        let text = get(addr, "GET /metrics");
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("version=0.0.4"), "{text}");
        assert!(text.contains("\nkube_ipvs_draining_real_servers 0\n"), "{text}");
        assert!(get(addr, "GET /proxyMode").ends_with("\r\n\r\nipvs"));
        assert!(get(addr, "GET /healthz").starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn an_address_in_use_is_waited_for() {
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = busy.local_addr().unwrap();
        let (sender, receiver) = mpsc::channel();
        let bound: Bound = Box::new(move |addr| sender.send(addr).unwrap());
        let health = Health::new(Duration::from_secs(30), &[]);
        serve(addr, Site::Health(health.into()), Some(bound)).unwrap();
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
        drop(busy);
        assert_eq!(receiver.recv_timeout(BIND_AGAIN * 2), Ok(addr));
    }
}
