//! Proxies on the way to the API server, found as client-go finds them: `proxy-url` of the kubeconfig takes
//! precedence over the environment (`ProxyFromEnvironment` in Go's net/http).

use std::{env, fmt, net::IpAddr};

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::ConnectError;

/// Proxy variables of the environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyVariables {
    /// `HTTPS_PROXY`
    pub https: String,
    /// `HTTP_PROXY`, for API servers without TLS.
    pub http: String,
    /// `NO_PROXY`: hosts, domains, addresses and prefixes that are reached without a proxy.
    pub no: String,
}

impl fmt::Debug for ProxyVariables {
    /// Shows no URL of a proxy, since it may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyVariables").field("no", &self.no).finish_non_exhaustive()
    }
}

impl ProxyVariables {
    /// Reads the environment of this process; a name in lower case counts if that in upper case is empty.
    pub fn from_env() -> Self {
        let one = |upper: &str, lower: &str| {
            [upper, lower].into_iter().filter_map(|name| env::var(name).ok()).find(|v| !v.is_empty())
        };
        ProxyVariables {
            https: one("HTTPS_PROXY", "https_proxy").unwrap_or_default(),
            http: one("HTTP_PROXY", "http_proxy").unwrap_or_default(),
            no: one("NO_PROXY", "no_proxy").unwrap_or_default(),
        }
    }

    /// The proxy on the way to `server`, if there is one.
    pub(super) fn on_the_way_to(&self, server: &Uri) -> Result<Option<Intercept>, ConnectError> {
        let (name, value) = match server.scheme_str() {
            Some("https") => ("HTTPS_PROXY", &self.https),
            _ => ("HTTP_PROXY", &self.http),
        };
        if value.is_empty() || self.exempts(server) {
            return Ok(None);
        }
        parse(name, value).map(Some)
    }

    fn exempts(&self, server: &Uri) -> bool {
        let Some(host) = server.host() else { return true };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        // Like Go, never reaches a loopback address over a proxy.
        let loopback = bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let everywhere = self.no.split(',').any(|entry| entry.trim() == "*");
        if everywhere || loopback || bare == "localhost" {
            return true;
        }
        let port = server.port_u16().unwrap_or(if server.scheme_str() == Some("http") { 80 } else { 443 });
        let no: Vec<_> = self.no.split(',').filter_map(|entry| without_port(entry.trim(), port)).collect();
        let matcher = Matcher::builder().all("http://any").no(no.join(",")).build();
        matcher.intercept(server).is_none()
    }
}

/// An entry of `NO_PROXY` as the matcher expects it: without a port, and without `*` before a domain. `None`
/// if the entry is for another port.
fn without_port(entry: &str, port: u16) -> Option<&str> {
    let entry = entry.strip_prefix('*').filter(|domain| domain.starts_with('.')).unwrap_or(entry);
    let is_address = entry.parse::<IpAddr>().is_ok();
    match entry.rsplit_once(':') {
        Some((host, number)) if !is_address && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            (number.parse() == Ok(port)).then_some(host.trim_start_matches('[').trim_end_matches(']'))
        }
        _ => Some(entry),
    }
}

/// Parses the URL of a proxy, the value of `setting`; without a scheme, the proxy speaks HTTP.
pub(super) fn parse(setting: &'static str, url: &str) -> Result<Intercept, ConnectError> {
    // The matcher parses the URL, but shows the result only for a request that it intercepts.
    let target = Uri::from_static("https://any");
    let proxy = Matcher::builder().all(url.trim()).build().intercept(&target);
    let known = |proxy: &Intercept| {
        let scheme = proxy.uri().scheme_str().unwrap_or_default();
        matches!(scheme, "http" | "https" | "socks5" | "socks5h")
            && proxy.uri().host().is_some_and(|host| !host.is_empty())
    };
    proxy.filter(known).ok_or(ConnectError::Proxy { setting })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_of_the_environment() {
        let check =
            |(https, http, no): (&str, &str, &str), server: &str, expect: Result<Option<&str>, ()>| {
                let variables = ProxyVariables { https: https.into(), http: http.into(), no: no.into() };
                let found = variables.on_the_way_to(&server.parse().unwrap()).map_err(drop);
                let found = found.map(|proxy| proxy.map(|proxy| proxy.uri().to_string()));
                assert_eq!(
                    found.as_ref().map(|found| found.as_deref()).map_err(drop),
                    expect,
                    "{https} {http} {no}: {server}"
                );
            };
        let [api, plain] = ["https://10.0.0.1:6443", "http://10.0.0.1:8080"];
        let both = |no| ("http://p:1", "q:2", no);
        check(("", "", ""), api, Ok(None));
        check(both(""), api, Ok(Some("http://p:1/")));
        check(both(""), plain, Ok(Some("http://q:2/")));
        check(("socks5://user:secret@p:1", "", ""), api, Ok(Some("socks5://p:1/")));
        check(("https://p", "", ""), api, Ok(Some("https://p/")));
        for wrong in ["ftp://p:1", "socks4://p:1", "http://", "a b"] {
            check((wrong, "", ""), api, Err(()));
        }
        check(("ftp://p:1", "", "10.0.0.1"), api, Ok(None));
        check(both(""), "https://localhost:6443", Ok(None));
        check(both(""), "https://127.0.0.2:6443", Ok(None));
        check(both(""), "https://[::1]:6443", Ok(None));
        for no in ["*", "10.0.0.1", "10.0.0.0/8", "a.example, 10.0.0.1:6443", "10.96.0.0/12,10.0.0.1"] {
            check(both(no), api, Ok(None));
        }
        for no in ["10.0.0.2", "11.0.0.0/8", "10.0.0.1:443", "example"] {
            check(both(no), api, Ok(Some("http://p:1/")));
        }
        for no in ["example.com", ".example.com", "*.example.com", ".com", "api.example.com:443"] {
            check(both(no), "https://api.example.com", Ok(None));
        }
        check(both("example.com"), "https://notexample.com", Ok(Some("http://p:1/")));
        check(both("fd00::1"), "https://[fd00::1]:6443", Ok(None));
        check(both("[fd00::1]:6443"), "https://[fd00::1]:6443", Ok(None));
    }
}
