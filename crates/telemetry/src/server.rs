//! HTTP server of `/healthz`, `/livez` and `/readyz`, and at another address of `/metrics` and the pages about the process.

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

use crate::{
    Answer, Health, HealthPage, Metrics, Process,
    connections::Connections,
    pages::{self, Form, Kind},
    service_health::ServiceSite,
};

/// Pause after a failure to bind, as in kube-proxy (`serveHealthz` in cmd/kube-proxy/app/server.go).
pub(crate) const BIND_RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Longest wait for the head of a request; TCP retransmits a lost packet three times within it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest duration of a connection, for clients that read slowly.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request, so that a connection takes little memory.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Connections that the kernel queues until the server accepts them, fewer if `net.core.somaxconn` is lower.
pub(crate) const ACCEPT_QUEUE_LENGTH: i32 = 4096;

/// Set of pages that an address serves.
#[derive(Clone, Debug)]
pub enum Site {
    /// `/healthz`, `/livez` and `/readyz`; answers of the first two are counted, as by kube-proxy.
    Health(Arc<Health>, Arc<Metrics>),
    /// `/metrics`, and what kube-proxy's metrics server has besides.
    Metrics(Arc<Metrics>, Arc<Process>),
    /// One page under all paths, for the load balancer of a Service.
    Service(Arc<ServiceSite>),
}

impl Site {
    /// Name of the site and of its thread.
    const fn name(&self) -> &'static str {
        match self {
            Site::Health(..) => "health",
            Site::Metrics(..) => "metrics",
            Site::Service(_) => "service-health",
        }
    }

    fn page<T>(&self, request: &Request<T>) -> Page {
        let (path, now) = (request.uri().path(), Instant::now());
        match self {
            Site::Health(health, metrics) => health_page(path, now, health, metrics),
            Site::Metrics(metrics, process) => process_page(request, now, metrics, process),
            Site::Service(site) => {
                let (answer, weight) = site.answer();
                Page { weight: Some(weight), ..Page::json(answer) }
            }
        }
    }
}

fn health_page(path: &str, now: Instant, health: &Health, metrics: &Metrics) -> Page {
    let counted = |kind: HealthPage, answer: Answer| {
        let page = Page::json(answer);
        metrics.kube_proxy.count_answer(kind, page.status.as_u16());
        page
    };
    match path {
        "/livez" => counted(HealthPage::Livez, health.livez(now)),
        "/healthz" => counted(HealthPage::Healthz, health.healthz(now)),
        "/readyz" => Page::json(health.readyz(now)),
        _ => Page::not_found(),
    }
}

fn process_page<T>(request: &Request<T>, now: Instant, metrics: &Metrics, process: &Process) -> Page {
    let text = |text: String| Page::text(StatusCode::OK, TEXT_TYPE, text);
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let negotiated = |kind: Kind| match kind.negotiate(accept.unwrap_or_default()) {
        Some(Form::Text) => text(match kind {
            Kind::Statusz => process.statusz(now),
            Kind::Flagz => process.flagz(),
        }),
        // YAML has all of JSON.
        Some(Form::Object(version, encoding)) => {
            let object = match kind {
                Kind::Statusz => process.statusz_object(now, version),
                Kind::Flagz => process.flagz_object(version),
            };
            let page = Page::text(StatusCode::OK, encoding.media_type(), format!("{object}\n"));
            Page { warning: kind.warning(version), ..page }
        }
        None => {
            let only = "the media type requested is not supported; text/plain, application/json and application/yaml \
                        are, the last two with g=config.k8s.io, v=v1beta1 and as=Statusz or as=Flagz\n";
            Page::text(StatusCode::NOT_ACCEPTABLE, TEXT_TYPE, only.to_owned())
        }
    };
    match request.uri().path() {
        "/metrics" => Page::metrics(metrics.render(now)),
        "/proxyMode" => text("ipvs".to_owned()),
        "/healthz" => text(pages::ping(request.uri().query().unwrap_or_default()).to_owned()),
        "/healthz/ping" => text("ok".to_owned()),
        "/configz" => Page::text(StatusCode::OK, JSON_TYPE, process.config.clone()),
        "/statusz" => negotiated(Kind::Statusz),
        "/flagz" => negotiated(Kind::Flagz),
        _ => Page::not_found(),
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
    /// Weight of the node for load balancers.
    weight: Option<usize>,
    /// Text of a Warning header.
    warning: Option<String>,
}

impl Page {
    const fn not_found() -> Self {
        Page::text(StatusCode::NOT_FOUND, TEXT_TYPE, String::new())
    }

    const fn text(status: StatusCode, content_type: &'static str, text: String) -> Self {
        Page { status, content_type, text, weight: None, warning: None }
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

/// Reaction to an address that cannot be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindFailure {
    /// Tries again every 5 seconds.
    Retries,
    /// Is an error.
    Fails,
}

/// Serves a site on a thread of its own.
pub fn serve(addr: SocketAddr, site: Site, failure: BindFailure, bound: Option<Bound>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let name = site.name();
    let listener = match failure {
        BindFailure::Retries => None,
        BindFailure::Fails => {
            let _entered = runtime.enter();
            Some(try_bind(addr, listen_on).and_then(TcpListener::from_std)?)
        }
    };
    let body = move || LocalSet::new().block_on(&runtime, listen(addr, listener, site, bound));
    thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(())
}

async fn listen(addr: SocketAddr, listener: Option<TcpListener>, site: Site, bound: Option<Bound>) {
    let listener = match listener {
        Some(listener) => {
            info!(%addr, "answers requests for {}", site.name());
            listener
        }
        None => bind(addr, site.name()).await,
    };
    if let (Some(bound), Ok(addr)) = (bound, listener.local_addr()) {
        bound(addr);
    }
    accept_all(listener, site, Rc::default()).await;
}

/// Connections that are open, of one server or of several.
pub(crate) type Open = Rc<RefCell<Connections<AbortHandle>>>;

/// Serves a site to whoever connects.
pub(crate) async fn accept_all(listener: TcpListener, site: Site, connections: Open) {
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
    listen_with(addr, |socket| match addr {
        // `[::]` serves IPv4, too, whatever the value of net.ipv6.bindv6only.
        SocketAddr::V6(_) => socket.set_only_v6(false),
        SocketAddr::V4(_) => Ok(()),
    })
}

/// Listens on an address with a socket that has further options.
pub(crate) fn listen_with(
    addr: SocketAddr,
    set_options: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    set_options(&socket)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(ACCEPT_QUEUE_LENGTH)?;
    Ok(socket.into())
}

fn answer(request: &Request<Incoming>, site: &Site) -> Response<Full<Bytes>> {
    match (site, request.method()) {
        (Site::Service(_), _) | (_, &Method::GET | &Method::HEAD) => respond(site.page(request)),
        _ => respond(Page::text(StatusCode::METHOD_NOT_ALLOWED, TEXT_TYPE, String::new())),
    }
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.text)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(page.content_type));
    headers.insert("x-content-type-options", header::HeaderValue::from_static("nosniff"));
    if let Some(weight) = page.weight {
        headers.insert("x-load-balancing-endpoint-weight", weight.into());
    }
    if let Some(warning) = page.warning.and_then(|text| text.try_into().ok()) {
        headers.insert(header::WARNING, warning);
    }
    response
}

#[cfg(test)]
mod tests;
