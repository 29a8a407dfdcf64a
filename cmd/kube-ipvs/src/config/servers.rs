//! Addresses at which the process answers requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Check;
use crate::flags::Flags;

/// Address of `--bind-address`, if it is one.
pub fn bind_ip(flags: &Flags) -> Result<Option<IpAddr>, String> {
    match flags.bind_address.trim() {
        "" => Ok(None),
        text => {
            let address: Result<IpAddr, _> = text.parse();
            // An IPv4 address in the form of IPv6 is one of IPv4, as in Go.
            let address = address.map(|ip| Some(ip.to_canonical()));
            address.map_err(|_| format!("{text:?} is no address, such as 0.0.0.0 or ::"))
        }
    }
}

/// Addresses of the servers of health and metrics.
pub fn of(flags: &Flags, bind: IpAddr, check: &mut Check<'_>) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let (everywhere, here): (IpAddr, IpAddr) = match bind {
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
        // Both families, unlike in kube-proxy.
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => (Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
    };
    let mut server = |flag: &str, given: Option<&str>, default: IpAddr, port: u16| {
        let address =
            given.map_or_else(|| Ok(Some((default, port).into())), |text| server_address(text, port));
        check.take(flag, address).filter(|_| port > 0)
    };
    let healthz = flags.healthz_bind_address.as_deref();
    let metrics = flags.metrics_bind_address.as_deref();
    (
        server("healthz-bind-address", healthz, everywhere, flags.healthz_port),
        server("metrics-bind-address", metrics, here, flags.metrics_port),
    )
}

/// An address with a port, or with this port where it has none; `None` for an empty text.
fn server_address(text: &str, port: u16) -> Result<Option<SocketAddr>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let without_port = || text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if text.parse().is_ok_and(|address: SocketAddr| address.port() == 0) {
        return Err(format!("{text:?} has no port that anybody could ask; give one from 1 to 65535"));
    }
    let address = text.parse().or_else(|_| without_port().map(|ip| SocketAddr::new(ip, port)));
    address.map(Some).map_err(|_| format!("{text:?} is not an address with a port, such as 0.0.0.0:10256"))
}
