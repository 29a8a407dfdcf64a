//! Identities as they are printed, read back.

use std::{net::SocketAddr, num::NonZeroU16, str::FromStr};

use crate::{RealServerId, VipPort};

/// A text that names no virtual or real server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address with a port, such as 10.96.0.1:443/TCP for a VIP or [fd00::1]:8443 for a real server"
)]
pub struct InvalidId(pub String);

impl FromStr for RealServerId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts = text.parse().ok().and_then(parts);
        parts.map(|(addr, port)| RealServerId { addr, port }).ok_or_else(|| InvalidId(text.to_owned()))
    }
}

impl FromStr for VipPort {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parse = || {
            let (socket, protocol) = text.rsplit_once('/')?;
            let (addr, port) = parts(socket.parse().ok()?)?;
            Some(VipPort { addr, protocol: protocol.parse().ok()?, port })
        };
        parse().ok_or_else(|| InvalidId(text.to_owned()))
    }
}

fn parts(socket: SocketAddr) -> Option<(std::net::IpAddr, NonZeroU16)> {
    Some((socket.ip(), NonZeroU16::new(socket.port())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Front;

    fn check<T: FromStr<Err = InvalidId> + ToString>(good: &[&str], bad: &[&str]) {
        for text in good {
            let id: T = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(id.to_string(), *text);
        }
        for text in bad {
            let error = text.parse::<T>().err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        check::<RealServerId>(&["10.0.0.1:80", "[fd00::1]:65535"], &["", "10.0.0.1", "10.0.0.1:0", "a:80"]);
        check::<Front>(&["10.0.0.1:80/TCP", "0.0.0.0:30080/TCP (external clients)"], &["10.0.0.1:80/TCP ()"]);
        check::<VipPort>(
            &["10.0.0.1:80/TCP", "[fd00::1]:53/UDP", "10.0.0.1:9/SCTP"],
            &["", "10.0.0.1:80", "10.0.0.1:80/ICMP", "10.0.0.1:0/TCP", "/TCP"],
        );
    }
}
