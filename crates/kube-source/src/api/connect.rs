//! Connections to the API server. New ones replace old ones from time to time, and credentials are read again
//! when they may have changed.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::{
        legacy::{
            Client as HttpClient,
            connect::{
                Connection, HttpConnector,
                proxy::{SocksV5, Tunnel},
            },
        },
        proxy::matcher::Intercept,
    },
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{ClientBuilder, ConfigExt},
};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::spawn_blocking,
    time::timeout,
};
use tower::{BoxError, Service, ServiceBuilder};
use tracing::{debug, warn};

use super::{
    ApiOptions, ConnectError, Limits,
    access::{Access, client_error, server_name},
    chance::up_to_half_more,
    counts::RequestCounts,
    plugin::{self, Credential, PluginError},
};

// With these times, a dead peer is noticed after about 15 seconds, not after the five minutes of a watch.
/// Silence after which the kernel probes an idle connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// Pause between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Probes without an answer that end a connection.
const KEEPALIVE_RETRIES: u32 = 3;
/// Longest time that sent data may stay unacknowledged.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence on a connection with HTTP/2 after which its peer is asked whether it is there, and the time that it has
/// for the answer, as in client-go. Unlike the probes of TCP, the question passes through proxies.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes that may be on their way in one stream of HTTP/2, and in all streams of a connection. A list or a watch that
/// nobody reads for a while takes no other one's share: all that is open at the same time (a request for each kind,
/// for the version, for an event) has room.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// Port of a SOCKS proxy whose URL has none, as in Go's net/http.
const DEFAULT_SOCKS_PORT: u16 = 1080;

/// Makes clients, and reads credentials again when they may have changed.
pub(super) struct Connector {
    options: ApiOptions,
    url: String,
    /// Client and credentials. Locked while credentials are fetched, so that one of several callers does it.
    current: Mutex<Current>,
    /// Minor version of the server, as far as it is known.
    pub(super) minor: watch::Sender<Option<u32>>,
    /// Notified after a new connection, behind which may be another server.
    pub(super) reconnected: Notify,
    pub(super) counts: RequestCounts,
}

struct Current {
    access: Access,
    /// Credential that the plugin printed.
    credential: Option<Credential>,
    /// True if the server no longer accepts the credentials of the client.
    refused: bool,
    client: Option<CachedClient>,
    /// Time at which address and credentials were read.
    read: Instant,
    /// Last failure of the plugin, which does not run again for each caller.
    failed: Option<(Instant, Arc<PluginError>)>,
}

/// A client, which is replaced after some time.
struct CachedClient {
    client: Client,
    valid_until: Instant,
}

/// Part of the configuration that a failure makes doubtful.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Address and certificates.
    Address,
    /// Address, certificates and token.
    Credentials,
}

impl Connector {
    pub(super) fn open(options: &ApiOptions) -> Result<Self, ConnectError> {
        let access = Access::read(options)?;
        // A fault in certificates or keys is reported at start, not at the first connection.
        access.check()?;
        Ok(Connector {
            options: options.clone(),
            url: access.config.cluster_url.to_string(),
            current: Mutex::new(Current {
                access,
                credential: None,
                refused: false,
                client: None,
                read: Instant::now(),
                failed: None,
            }),
            minor: watch::Sender::new(None),
            reconnected: Notify::new(),
            counts: RequestCounts::default(),
        })
    }

    /// URL of the server, as read at start.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Host and port of the server.
    pub(super) fn host(&self) -> String {
        let url: Option<Uri> = self.url.parse().ok();
        url.and_then(|url| url.authority().map(|host| host.as_str().to_owned())).unwrap_or_default()
    }

    /// Address of the server, unless the URL has a name.
    pub(super) fn server(&self) -> Option<IpAddr> {
        let url: Uri = self.url.parse().ok()?;
        url.host()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    pub(super) const fn limits(&self) -> &Limits {
        &self.options.limits
    }

    /// Returns a client. That is cheap, except for the first one and for its replacements from time to time,
    /// over which the next requests make new connections. Requests under way keep theirs.
    pub(super) async fn client(&self) -> Result<Client, ConnectError> {
        let mut current = self.current.lock().await;
        if let Some(cached) = current.client.as_ref().filter(|cached| Instant::now() < cached.valid_until) {
            return Ok(cached.client.clone());
        }
        if current.client.is_some() {
            self.read_again(&mut current).await;
        }
        let refused = current.refused;
        match self.make(&mut current).await {
            Ok(client) => Ok(client),
            // Credentials that may soon expire are better than none.
            Err(error) if let Some(cached) = current.client.as_mut().filter(|_| !refused) => {
                warn!(
                    "no new connection settings for the API server, keeping the old ones: {}",
                    super::chain(&error)
                );
                cached.valid_until = Instant::now() + self.limits().renewal;
                Ok(cached.client.clone())
            }
            Err(error) => Err(error),
        }
    }

    /// Has address and credentials read again before the next request: certificates and files may have been
    /// replaced.
    pub(super) async fn renew(&self, doubt: Doubt) {
        let mut current = self.current.lock().await;
        if current.read.elapsed() < self.limits().renewal {
            return;
        }
        if doubt == Doubt::Credentials {
            current.credential = None;
            current.refused = true;
        }
        if let Some(cached) = &mut current.client {
            cached.valid_until = Instant::now();
        }
    }

    async fn read_again(&self, current: &mut Current) {
        current.read = Instant::now();
        let options = self.options.clone();
        match self.run_blocking(move || Access::read(&options)).await {
            Ok(access) => {
                debug!("address and credentials of the API server read again");
                current.access = access;
            }
            Err(error) => {
                warn!(
                    "cannot read the credentials for the API server again, keeping the old ones: {}",
                    super::chain(&error)
                );
            }
        }
    }

    async fn make(&self, current: &mut Current) -> Result<Client, ConnectError> {
        let mut access = current.access.clone();
        let mut validity = up_to_half_more(self.limits().connection);
        if let Some(plugin) = access.plugin.take() {
            let fresh = |credential: &Credential| credential.validity() != Some(Duration::ZERO);
            if !current.credential.as_ref().is_some_and(fresh) {
                current.credential = Some(self.run_plugin(&plugin, &mut current.failed).await?);
            }
            if let Some(credential) = &current.credential {
                credential.fill_in(&mut access.config.auth_info);
                validity = validity.min(credential.validity().unwrap_or(validity));
            }
        }
        let client = self.run_blocking(move || client(&access)).await?;
        // Even if the plugin's credentials are always short-lived, it does not run for each request.
        let valid_until = Instant::now() + validity.max(self.limits().renewal);
        current.client = Some(CachedClient { client: client.clone(), valid_until });
        current.refused = false;
        self.reconnected.notify_one();
        Ok(client)
    }

    async fn run_plugin(
        &self,
        plugin: &kube::config::ExecConfig,
        failed: &mut Option<(Instant, Arc<PluginError>)>,
    ) -> Result<Credential, ConnectError> {
        if let Some((at, error)) = failed.as_ref()
            && at.elapsed() < self.limits().renewal
        {
            return Err(ConnectError::Plugin(Arc::clone(error)));
        }
        plugin::run(plugin, self.limits().plugin).await.map_err(|error| {
            let error = Arc::new(error);
            *failed = Some((Instant::now(), Arc::clone(&error)));
            ConnectError::Plugin(error)
        })
    }

    /// Runs work that may wait for a file system on another thread, and waits for it only for some time.
    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ConnectError> + Send + 'static,
    ) -> Result<T, ConnectError> {
        let done = timeout(self.limits().response, spawn_blocking(work)).await;
        done.map_err(|_elapsed| ConnectError::Late)?.map_err(|error| ConnectError::Runtime(error.into()))?
    }
}

/// Builds kube's own stack with connections that notice a dead peer, but without its retries and timeouts:
/// the state of each kind decides on these.
fn client(access: &Access) -> Result<Client, ConnectError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(KEEPALIVE_IDLE));
    http.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    http.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    http.set_tcp_user_timeout(Some(ACKNOWLEDGEMENT_TIMEOUT));
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let Access { config, proxy, .. } = access;
    let Some(proxy) = proxy else { return stack(config, http) };
    match proxy.uri().scheme_str() {
        Some("http") => stack(config, tunnel(proxy, http)),
        // The certificate of the proxy is verified like that of the server, as in Go's net/http.
        Some("https") => {
            let https = config.rustls_https_connector_with_connector(http).map_err(client_error)?;
            stack(config, tunnel(proxy, https))
        }
        _ => stack(config, socks(proxy, http)),
    }
}

fn tunnel<C>(proxy: &Intercept, connector: C) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.uri().clone(), connector);
    match proxy.basic_auth() {
        Some(header) => tunnel.with_auth(header.clone()),
        None => tunnel,
    }
}

/// Connects over a SOCKS proxy, which also resolves names.
fn socks(proxy: &Intercept, connector: HttpConnector) -> SocksV5<HttpConnector> {
    let mut uri = proxy.uri().clone();
    if uri.port().is_none() {
        let with_port = format!("socks5://{}:{DEFAULT_SOCKS_PORT}/", uri.host().unwrap_or_default());
        uri = with_port.parse().unwrap_or(uri);
    }
    let socks = SocksV5::new(uri, connector);
    match proxy.raw_auth() {
        Some((user, password)) => socks.with_auth(user.to_owned(), password.to_owned()),
        None => socks,
    }
}

/// Connections speak HTTP/2 where the server offers it by TLS, so that one is enough for all kinds.
fn stack<C>(config: &Config, connector: C) -> Result<Client, ConnectError>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let http = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        // Watches use a connection without asking the pool again, which would take it for idle. Client and pool live for
        // some minutes only.
        .pool_idle_timeout(None)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .build(https(config, connector)?);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(client_error)?)
        .layer(config.extra_headers_layer().map_err(client_error)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// TLS as kube sets it up, whose own connector offers HTTP/1.1 alone.
fn https<C>(config: &Config, connector: C) -> Result<HttpsConnector<C>, ConnectError> {
    let tls = config.rustls_client_config().map_err(client_error)?;
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = server_name(config)? {
        builder = builder.with_server_name_resolver(name);
    }
    Ok(builder.enable_http1().enable_http2().wrap_connector(connector))
}
