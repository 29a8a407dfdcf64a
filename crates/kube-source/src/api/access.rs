//! Address of the API server and credentials for it: kubeconfig, service account, flags, proxies.

use std::{env::consts, io, path::PathBuf, sync::Arc};

use http::{HeaderValue, Uri, header::USER_AGENT};
use hyper_rustls::FixedServerNameResolver;
use hyper_util::client::proxy::matcher::Intercept;
use kube::{
    Config,
    client::ConfigExt,
    config::{Cluster, ExecConfig, InClusterError, Kubeconfig, KubeconfigError},
};
use secrecy::ExposeSecret;

use super::{ApiOptions, plugin::PluginError, proxy};

/// Reason why no request can be sent to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig file cannot be used.
    #[error("--kubeconfig: {}", path.display())]
    Kubeconfig {
        /// Path of the file.
        path: PathBuf,
        /// Fault that was found in it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The kubeconfig file cannot be parsed. The error does not repeat its text, which holds credentials.
    #[error("--kubeconfig: {}: not a kubeconfig: syntax or type error{at}", path.display())]
    NoKubeconfig {
        /// Path of the file.
        path: PathBuf,
        /// ` in line 3, column 5`, if known.
        at: String,
    },
    /// The kubeconfig names a credential helper that client-go no longer supports either.
    #[error(
        "--kubeconfig: {}: users[].user.auth-provider {name:?} is not supported; use an exec plugin (users[].user.exec) or a token",
        path.display()
    )]
    AuthProvider {
        /// Path of the kubeconfig.
        path: PathBuf,
        /// Name of the helper.
        name: String,
    },
    /// The URL of a proxy is malformed or has an unknown scheme.
    #[error("{setting}: not the URL of a proxy; the schemes http, https, socks5 and socks5h are supported")]
    Proxy {
        /// Field or variable with the URL. The error does not repeat its value, which may contain a password.
        setting: &'static str,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error(
        "no address of the API server: give --kubeconfig or --master, run as a Pod with a service account, or use --manifests"
    )]
    InCluster(#[source] InClusterError),
    /// The address of the API server is not one.
    #[error("{setting}: {url:?} is not a URL like https://10.0.0.1:6443")]
    Address {
        /// Flag, or field of the kubeconfig.
        setting: &'static str,
        /// Its value.
        url: String,
    },
    /// The certificates that the server's is checked by are none.
    #[error(
        "the file or data of the certificate authority has no certificate in PEM \
         (--kubeconfig: clusters[].cluster.certificate-authority, or ca.crt of the service account)"
    )]
    NoAuthority,
    /// The exec credential plugin delivered no credentials.
    #[error(transparent)]
    Plugin(Arc<PluginError>),
    /// The TLS settings or credentials cannot be used.
    #[error("set up the connection to the API server")]
    Client(#[source] Box<kube::Error>),
    /// The name that the kubeconfig demands of the server's certificate is none.
    #[error("--kubeconfig: clusters[].cluster.tls-server-name is neither a host name nor an address")]
    ServerName,
    /// The runtime did not start, or has ended.
    #[error("start the runtime of the API client")]
    Runtime(#[source] io::Error),
    /// Files of the configuration or credentials could not be read in time.
    #[error(
        "reading the kubeconfig, certificates or tokens takes too long; check that their file system responds"
    )]
    Late,
}

/// Address of the API server, and everything that a connection to it needs.
#[derive(Clone)]
pub(super) struct Access {
    /// Configuration without the exec plugin.
    pub(super) config: Config,
    pub(super) plugin: Option<ExecConfig>,
    pub(super) proxy: Option<Intercept>,
}

impl Access {
    /// Reads the configuration as kube-proxy does: `--kubeconfig`, or without it and without `--master` the
    /// service account; `--master` overrides the address. Runs no program and opens no connection, but may
    /// wait for a file system.
    pub(super) fn read(options: &ApiOptions) -> Result<Self, ConnectError> {
        let (mut config, proxy_url) = match (&options.kubeconfig, &options.master) {
            (Some(path), master) => from_kubeconfig(path, master.is_some())?,
            (None, None) => (Config::incluster().map_err(ConnectError::InCluster)?, None),
            (None, Some(_)) => (Config::new(Uri::from_static("http://localhost")), None),
        };
        let has_no_authority = config.root_cert.as_ref().is_some_and(Vec::is_empty);
        if let Some(url) = &options.master {
            config.cluster_url = parse_address("--master", url, has_tls(&config))?;
        }
        config.headers.push((USER_AGENT, user_agent()));
        let proxy = match proxy_url {
            Some(url) => Some(proxy::parse("--kubeconfig: clusters[].cluster.proxy-url", &url)?),
            None => options.proxies.on_the_way_to(&config.cluster_url)?,
        };
        let tls = config.cluster_url.scheme_str() == Some("https")
            || proxy.as_ref().is_some_and(|proxy| proxy.uri().scheme_str() == Some("https"));
        if tls && has_no_authority && !config.accept_invalid_certs {
            return Err(ConnectError::NoAuthority);
        }
        if !tls {
            // Without a certificate here, the client would read those of the operating system, a hundred
            // files, in vain.
            config.root_cert.get_or_insert_default();
        }
        let plugin = config.auth_info.exec.take();
        Ok(Access { config, plugin, proxy })
    }

    /// Checks certificates, keys and the name that the server's certificate is to have.
    pub(super) fn check(&self) -> Result<(), ConnectError> {
        server_name(&self.config)?;
        self.config.rustls_client_config().map(drop).map_err(client_error)
    }
}

/// Name that the server's certificate is to have instead of the host of its URL.
pub(super) fn server_name(config: &Config) -> Result<Option<FixedServerNameResolver>, ConnectError> {
    let name = config.tls_server_name.clone().filter(|name| !name.is_empty());
    let parse = |name: String| name.try_into().map_err(|_| ConnectError::ServerName);
    Ok(name.map(parse).transpose()?.map(FixedServerNameResolver::new))
}

pub(super) fn client_error(error: kube::Error) -> ConnectError {
    ConnectError::Client(Box::new(error))
}

/// `User-Agent` as Kubernetes' own programs write it: name, version, system, and processor in Go's words.
fn user_agent() -> HeaderValue {
    let processor = match consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let agent = format!("kube-ipvs/{} ({}/{processor})", env!("CARGO_PKG_VERSION"), consts::OS);
    HeaderValue::try_from(agent).unwrap_or(HeaderValue::from_static("kube-ipvs"))
}

/// The configuration of the current context, and the URL of its proxy. Its server may be overridden.
fn from_kubeconfig(path: &PathBuf, is_overridden: bool) -> Result<(Config, Option<String>), ConnectError> {
    let wrong = |source| match source {
        KubeconfigError::Parse(error) => {
            let at = error.location();
            let at = at.map(|at| format!(" in line {}, column {}", at.line(), at.column()));
            ConnectError::NoKubeconfig { path: path.clone(), at: at.unwrap_or_default() }
        }
        source => ConnectError::Kubeconfig { path: path.clone(), source: Box::new(source) },
    };
    let mut kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    tidy(&mut kubeconfig);
    let cluster = current_cluster(&kubeconfig);
    let proxy = cluster.and_then(|cluster| cluster.proxy_url.clone()).filter(|url| !url.is_empty());
    let server = cluster.and_then(|cluster| cluster.server.clone());
    let mut config = Config::try_from(kubeconfig).map_err(wrong)?;
    // `kube` takes what has no scheme for a URL, and cannot ask there.
    if let Some(server) = server.filter(|_| !is_overridden) {
        let setting = "--kubeconfig: clusters[].cluster.server";
        config.cluster_url = parse_address(setting, &server, has_tls(&config))?;
    }
    // Such helpers run a program for each request; client-go has dropped all but that of OpenID Connect.
    if let Some(provider) = config.auth_info.auth_provider.as_ref().filter(|provider| provider.name != "oidc")
    {
        return Err(ConnectError::AuthProvider { path: path.clone(), name: provider.name.clone() });
    }
    Ok((config, proxy))
}

/// Cluster of the current context. Its proxy as `kube` determines it is of no use: that mixes in variables of the
/// environment, and reads `NO_PROXY` differently from client-go.
fn current_cluster(kubeconfig: &Kubeconfig) -> Option<&Cluster> {
    let context = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|named| named.name == *context)?.context.as_ref()?;
    kubeconfig.clusters.iter().find(|named| named.name == context.cluster)?.cluster.as_ref()
}

/// Removes the line breaks in base64, which Go's decoder skips, so that the output of `base64 FILE` is as good; and
/// certificates that are empty, which count as absent in client-go.
fn tidy(kubeconfig: &mut Kubeconfig) {
    let join = |text: &mut String| text.retain(|letter| !matches!(letter, '\r' | '\n'));
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        if let Some(data) = &mut cluster.certificate_authority_data {
            join(data);
        }
        for field in [&mut cluster.certificate_authority_data, &mut cluster.certificate_authority] {
            *field = field.take().filter(|text| !text.is_empty());
        }
    }
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        if let Some(data) = &mut user.client_certificate_data {
            join(data);
        }
        if let Some(key) = &mut user.client_key_data {
            let mut text = key.expose_secret().to_owned();
            join(&mut text);
            *key = text.into();
        }
    }
}

/// Tells whether the configuration is one for TLS.
fn has_tls(config: &Config) -> bool {
    let user = &config.auth_info;
    let has_certificate = user.client_certificate.is_some() || user.client_certificate_data.is_some();
    config.accept_invalid_certs || config.root_cert.is_some() || has_certificate
}

/// Parses an address of the API server. A host alone means https where TLS is configured, else http, as in client-go
/// (`DefaultServerUrlFor` and `DefaultServerURL` in staging/src/k8s.io/client-go/rest/url_utils.go).
fn parse_address(setting: &'static str, url: &str, tls: bool) -> Result<Uri, ConnectError> {
    let wrong = || ConnectError::Address { setting, url: url.to_owned() };
    let scheme = if tls { "https" } else { "http" };
    let full = if url.contains("://") { url.to_owned() } else { format!("{scheme}://{url}") };
    let uri: Uri = full.parse().map_err(|_| wrong())?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (known && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_api_server() {
        for (url, tls, expect) in [
            ("https://10.0.0.1:6443", false, Some("https://10.0.0.1:6443/")),
            ("http://[fd00::1]:8080/prefix", true, Some("http://[fd00::1]:8080/prefix")),
            ("10.0.0.1:8080", false, Some("http://10.0.0.1:8080/")),
            ("10.0.0.1:6443", true, Some("https://10.0.0.1:6443/")),
            ("localhost", true, Some("https://localhost/")),
            ("api.example", false, Some("http://api.example/")),
            ("ftp://10.0.0.1", false, None),
            ("https://", false, None),
            ("/", true, None),
            ("", false, None),
            ("a b", false, None),
        ] {
            let parsed = parse_address("--master", url, tls).ok().map(|uri| uri.to_string());
            assert_eq!(parsed.as_deref(), expect, "{url:?}");
        }
    }
}
