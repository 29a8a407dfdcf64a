//! Meanings of the kernel's error numbers for writes to links, addresses and routes.

use std::net::IpAddr;

use lb_types::VipOp;

use crate::errno_name;

/// Explains a refused write to links, addresses or routes in one line: operation, error, its meaning there
/// and the remedy.
///
/// The meanings are those of `fib_create_info` (net/ipv4/fib_semantics.c), `ip6_route_info_create`
/// (net/ipv6/route.c), `rtnl_newlink` (net/core/rtnetlink.c) and of the address families' `RTM_DELADDR`.
pub fn explain_vip(op: &VipOp, errno: i32) -> String {
    let meaning = match op {
        VipOp::EnsureLink => link_meaning(errno),
        VipOp::EnsureRoute { source, .. } => route_meaning(*source, errno),
        VipOp::DeleteLink if errno == libc::EEXIST => {
            Some("the link is not of type dummy, so it is somebody else's and stays".to_owned())
        }
        VipOp::EnsureRule { .. } => rule_meaning(errno),
        VipOp::EnsureAddress { .. } => route_meaning(None, errno),
        VipOp::DeleteRoute { .. }
        | VipOp::DeleteRule { .. }
        | VipOp::DeleteAddress { .. }
        | VipOp::DeleteLink => None,
    };
    let meaning = meaning.unwrap_or_else(|| general_meaning(errno));
    format!("{op}: {} ({errno}): {meaning}", errno_name(errno))
}

fn link_meaning(errno: i32) -> Option<String> {
    match errno {
        libc::EEXIST => Some(
            "a link of that name is not of type dummy, so it is somebody else's: \
             rename it or remove it (ip link delete kube-ipvs0)"
                .to_owned(),
        ),
        libc::EOPNOTSUPP => {
            Some("the kernel has no dummy links: load the module (modprobe dummy)".to_owned())
        }
        _ => None,
    }
}

fn route_meaning(source: Option<IpAddr>, errno: i32) -> Option<String> {
    match (errno, source) {
        (libc::EINVAL, Some(source)) => {
            Some(format!("the source {source} is not (or not yet) an address of this node"))
        }
        (libc::ENODEV, _) => Some("there is no link kube-ipvs0 of type dummy".to_owned()),
        (libc::ENETDOWN, _) => Some("link kube-ipvs0 is down".to_owned()),
        (libc::EEXIST, _) => {
            Some("a route of somebody else for the same address is in the way and stays".to_owned())
        }
        (libc::EACCES, _) => {
            Some("IPv6 is disabled on kube-ipvs0 (net/ipv6/conf/kube-ipvs0/disable_ipv6)".to_owned())
        }
        (libc::EAFNOSUPPORT | libc::EOPNOTSUPP, _) => {
            Some("the kernel does not route this address family".to_owned())
        }
        _ => None,
    }
}

fn rule_meaning(errno: i32) -> Option<String> {
    let is_missing = matches!(errno, libc::EAFNOSUPPORT | libc::EOPNOTSUPP);
    is_missing.then(|| {
        "the kernel has no routing policy (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES): use the binding \
         route instead of steer"
            .to_owned()
    })
}

fn general_meaning(errno: i32) -> String {
    match errno {
        libc::EPERM => "CAP_NET_ADMIN is missing".to_owned(),
        libc::ENOMEM => "the kernel is out of memory".to_owned(),
        _ => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use lb_types::RouteTable;

    use super::*;

    #[test]
    fn the_same_number_means_different_things() {
        let source = Some("192.0.2.1".parse().unwrap());
        let route =
            VipOp::EnsureRoute { vip: "10.96.0.1".parse().unwrap(), table: RouteTable::Local, source };
        let cases = [
            (VipOp::EnsureLink, libc::EEXIST, "rename it or remove it"),
            (VipOp::EnsureLink, libc::EOPNOTSUPP, "modprobe dummy"),
            (VipOp::EnsureLink, libc::EPERM, "CAP_NET_ADMIN"),
            (route, libc::EEXIST, "route of somebody else"),
            (route, libc::EINVAL, "192.0.2.1 is not (or not yet) an address"),
            (VipOp::DeleteLink, libc::EEXIST, "stays"),
            (VipOp::DeleteLink, libc::EXDEV, "Invalid cross-device link"),
        ];
        for (op, errno, part) in cases {
            let text = explain_vip(&op, errno);
            assert!(text.starts_with(&op.to_string()) && text.contains(part), "{text}");
        }
    }
}
