//! Meanings of the kernel's error numbers, per operation: the number alone is ambiguous.

use lb_types::{IpvsOp, VirtualServer};

/// Symbolic name of an error number, such as `ENOENT`; `errno` for those that no table of ours reports.
pub const fn errno_name(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENOSPC => "ENOSPC",
        libc::ERANGE => "ERANGE",
        libc::EMSGSIZE => "EMSGSIZE",
        libc::ENOPROTOOPT => "ENOPROTOOPT",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::ENETDOWN => "ENETDOWN",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ENOBUFS => "ENOBUFS",
        _ => "errno",
    }
}

/// Explains a refused IPVS write in one line: operation, key, error, its meaning for this operation and the
/// remedy.
///
/// The meanings are those of `ip_vs_genl_set_cmd` and of the functions that it calls in
/// net/netfilter/ipvs/ip_vs_ctl.c.
pub fn explain_ipvs(op: &IpvsOp, errno: i32) -> String {
    let meaning = ipvs_meaning(op, errno).unwrap_or_else(|| general_meaning(errno));
    format!("{op}: {} ({errno}): {meaning}", errno_name(errno))
}

/// Meanings that depend on the operation.
fn ipvs_meaning(op: &IpvsOp, errno: i32) -> Option<String> {
    let vs = op.virtual_server();
    match (op, errno) {
        (IpvsOp::AddVirtualServer { .. }, libc::EEXIST) => {
            Some("the virtual server exists already".to_owned())
        }
        (IpvsOp::AddRealServer { rs, .. }, libc::EEXIST) => {
            Some(format!("the virtual server has a real server {rs} already"))
        }
        (_, libc::ESRCH) => Some(format!("there is no virtual server {vs}")),
        (
            IpvsOp::AddVirtualServer { settings, .. } | IpvsOp::SetVirtualServer { settings, .. },
            libc::ENOENT,
        ) => Some(missing_scheduler(settings)),
        (IpvsOp::SetRealServer { rs, .. } | IpvsOp::DeleteRealServer { rs, .. }, libc::ENOENT) => {
            Some(format!("the virtual server has no real server {rs}"))
        }
        (
            IpvsOp::AddVirtualServer { settings, .. } | IpvsOp::SetVirtualServer { settings, .. },
            libc::EINVAL,
        ) => Some(match settings.persistence {
            Some(p) => format!("the persistence prefix length {} is not valid here", p.prefix_length),
            None => "the settings are not valid".to_owned(),
        }),
        (IpvsOp::AddRealServer { rs, .. } | IpvsOp::SetRealServer { rs, .. }, libc::EINVAL) => {
            Some(invalid_real_server(rs.addr.is_ipv4() == vs.family().unspecified().is_ipv4()))
        }
        (IpvsOp::AddRealServer { .. } | IpvsOp::SetRealServer { .. }, libc::ERANGE) => {
            Some("the weight exceeds 2147483647, or the lower threshold exceeds the upper one".to_owned())
        }
        (_, libc::EAFNOSUPPORT) => Some(format!("the kernel has no {} support", vs.family())),
        _ => None,
    }
}

fn missing_scheduler(settings: &VirtualServer) -> String {
    let name = settings.scheduler;
    format!("scheduler {name} is not available: load its module (modprobe ip_vs_{name})")
}

fn invalid_real_server(same_family: bool) -> String {
    let meaning = if same_family {
        "the address is not a unicast address, or it is a broadcast address of this node, or an IPv6 link-local \
         one"
    } else {
        "a real server of the other family needs the tunnel forwarding method"
    };
    meaning.to_owned()
}

/// Meanings that are the same for every operation.
fn general_meaning(errno: i32) -> String {
    match errno {
        libc::EPERM => "CAP_NET_ADMIN in the initial user namespace is missing",
        libc::ENOMEM => "the kernel is out of memory",
        libc::EBUSY => "the table is busy",
        libc::ENOPROTOOPT => "module ip_vs is being unloaded",
        libc::EOPNOTSUPP => "this kernel does not know the command",
        libc::EINVAL => "the request is not valid",
        _ => return std::io::Error::from_raw_os_error(errno).to_string(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use lb_types::{IpFamily, RealServer, RealServerId, Scheduler, VirtualServerId};

    use super::*;

    fn vs() -> VirtualServerId {
        let mark = NonZeroU32::new(7).unwrap();
        VirtualServerId::FwMark { family: IpFamily::V4, mark }
    }

    #[test]
    fn enoent_depends_on_the_operation() {
        let settings = VirtualServer::new(Scheduler::MH);
        let add = IpvsOp::AddVirtualServer { vs: vs(), settings };
        assert_eq!(
            explain_ipvs(&add, libc::ENOENT),
            "add virtual server fwmark 0x7 IPv4 mh: ENOENT (2): scheduler mh is not available: load its \
             module (modprobe ip_vs_mh)"
        );
        let rs = RealServerId { addr: "10.0.0.1".parse().unwrap(), port: 80.try_into().unwrap() };
        let set = IpvsOp::SetRealServer { vs: vs(), rs, settings: RealServer::SERVING };
        assert_eq!(
            explain_ipvs(&set, libc::ENOENT),
            "set real server 10.0.0.1:80 of fwmark 0x7 IPv4 Masq weight 1: ENOENT (2): the virtual server \
             has no real server 10.0.0.1:80"
        );
    }

    #[test]
    fn unknown_numbers_keep_the_systems_text() {
        let op = IpvsOp::DeleteVirtualServer { vs: vs() };
        assert!(explain_ipvs(&op, libc::EXDEV).contains("errno (18): Invalid cross-device link"));
    }
}
