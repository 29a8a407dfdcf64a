//! Credentials and connections.

use std::{
    cell::RefCell,
    io,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{ClientBuilder, ConfigExt},
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::{runtime::Runtime, sync::OnceCell};
use tower::{BoxError, ServiceBuilder};
use tracing::{debug, warn};

use super::ApiOptions;

/// A dead peer is noticed after about 15 seconds, not after the five minutes of a watch.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);
/// Credentials are read again at most this often.
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// The API server cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig file.
    #[error("--kubeconfig: {}", path.display())]
    Kubeconfig {
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// Neither a kubeconfig nor a service account.
    #[error(
        "no way to the API server: give --kubeconfig or --master, run as a Pod with a service account, or use --manifests"
    )]
    InCluster(#[source] InClusterError),
    /// `--master`.
    #[error("--master: {url:?} is not a URL like https://10.0.0.1:6443")]
    Master {
        /// As given.
        url: String,
    },
    /// TLS settings, credentials.
    #[error("set up the connection to the API server")]
    Client(#[source] Box<kube::Error>),
    /// No runtime.
    #[error("start the runtime of the API client")]
    Runtime(#[source] io::Error),
}

/// Makes connections, and reads credentials again where they may have changed.
pub(super) struct Connector {
    options: ApiOptions,
    current: RefCell<Current>,
    /// Minor version of the server, once it has told.
    minor: OnceCell<Option<u32>>,
}

struct Current {
    config: Config,
    client: Option<Client>,
    read: Instant,
}

impl Connector {
    pub(super) fn open(options: &ApiOptions, runtime: &Runtime) -> Result<Self, ConnectError> {
        let config = runtime.block_on(config(options))?;
        // What is wrong with certificates or keys must not wait for the first connection.
        config.rustls_client_config().map_err(client_error)?;
        let current = Current { config, client: None, read: Instant::now() };
        Ok(Connector { options: options.clone(), current: RefCell::new(current), minor: OnceCell::new() })
    }

    pub(super) fn url(&self) -> String {
        self.current.borrow().config.cluster_url.to_string()
    }

    pub(super) fn server(&self) -> Option<IpAddr> {
        let current = self.current.borrow();
        let host = current.config.cluster_url.host()?;
        host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// A client; cheap. Must be called within the runtime.
    pub(super) fn client(&self) -> Result<Client, ConnectError> {
        let mut current = self.current.borrow_mut();
        if let Some(client) = &current.client {
            return Ok(client.clone());
        }
        let client = client(&current.config)?;
        current.client = Some(client.clone());
        Ok(client)
    }

    /// Reads address and credentials again: certificates and files may have been replaced. Keeps what it has if that
    /// fails.
    pub(super) async fn renew(&self) {
        if self.current.borrow().read.elapsed() < RENEW_AFTER {
            return;
        }
        // Marked before the wait, so that one of several callers does it.
        self.current.borrow_mut().read = Instant::now();
        match config(&self.options).await {
            Ok(config) => {
                debug!("credentials read again");
                *self.current.borrow_mut() = Current { config, client: None, read: Instant::now() };
            }
            Err(error) => warn!("keeping the old credentials: {error}"),
        }
    }

    /// Minor version of the server; asked for until it answers.
    pub(super) async fn minor(&self) -> Option<u32> {
        let ask = || async {
            let version = self.client().map_err(drop)?.apiserver_version().await.map_err(drop)?;
            // Providers write "34+".
            let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
            Ok::<_, ()>(digits.parse().ok().filter(|_| version.major == "1"))
        };
        self.minor.get_or_try_init(ask).await.ok().copied().flatten()
    }
}

/// As kube-proxy: `--kubeconfig`, else, without `--master`, the service account; `--master` overrides the address.
async fn config(options: &ApiOptions) -> Result<Config, ConnectError> {
    let mut config = match (&options.kubeconfig, &options.master) {
        (Some(path), _) => from_kubeconfig(path.clone()).await?,
        (None, None) => Config::incluster().map_err(ConnectError::InCluster)?,
        (None, Some(_)) => Config::new(http::Uri::from_static("http://localhost")),
    };
    if let Some(url) = &options.master {
        config.cluster_url = master(url)?;
    }
    Ok(config)
}

async fn from_kubeconfig(path: PathBuf) -> Result<Config, ConnectError> {
    let wrong = |source| ConnectError::Kubeconfig { path: path.clone(), source: Box::new(source) };
    let kubeconfig = Kubeconfig::read_from(&path).map_err(wrong)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrong)
}

/// A host alone means http, as in client-go (`DefaultServerURL` in staging/src/k8s.io/client-go/rest/url_utils.go).
fn master(url: &str) -> Result<http::Uri, ConnectError> {
    let wrong = || ConnectError::Master { url: url.to_owned() };
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: http::Uri = full.parse().map_err(|_| wrong())?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (known && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri).ok_or_else(wrong)
}

fn client_error(error: kube::Error) -> ConnectError {
    ConnectError::Client(Box::new(error))
}

/// kube's own stack without its retries and timeouts, which the course of each kind decides on, and with connections
/// that notice a dead peer.
fn client(config: &Config) -> Result<Client, ConnectError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(KEEPALIVE_IDLE));
    http.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    http.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    http.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    http.set_connect_timeout(Some(CONNECT));
    let https = config.rustls_https_connector_with_connector(http).map_err(client_error)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(client_error)?)
        .layer(config.extra_headers_layer().map_err(client_error)?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(https));
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_api_server() {
        for (url, expect) in [
            ("https://10.0.0.1:6443", Some("https://10.0.0.1:6443/")),
            ("http://[fd00::1]:8080/prefix", Some("http://[fd00::1]:8080/prefix")),
            ("10.0.0.1:8080", Some("http://10.0.0.1:8080/")),
            ("api.example", Some("http://api.example/")),
            ("ftp://10.0.0.1", None),
            ("https://", None),
            ("", None),
            ("a b", None),
        ] {
            assert_eq!(master(url).ok().map(|uri| uri.to_string()).as_deref(), expect, "{url:?}");
        }
    }
}
