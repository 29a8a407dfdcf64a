//! Loading of modules that the kernel itself does not load, or not safely.
//!
//! ip_vs: before Linux 5.16 the generic-netlink family has no alias that modprobe knows. Asking nf_tables for the
//! revision of the iptables match `ipvs` makes the kernel load xt_ipvs under the name `ipt_ipvs`, and with it ip_vs, on which xt_ipvs depends
//! (`nfnl_compat_get_rcu`, net/netfilter/nft_compat.c).
//!
//! ip_vs_lblc and ip_vs_lblcr: the kernel loads a scheduler under the lock of IPVS (`ip_vs_add_service`). These two
//! register operations with the network namespaces, which waits for a namespace that is being cleaned up; the clean-up
//! waits for the lock of IPVS (`ip_vs_service_nets_cleanup`). From then on nobody on the node creates or deletes a
//! network namespace or writes to IPVS until it is rebooted. So they are loaded without that lock, by asking for a
//! network interface of the module's name (`dev_load`, net/core/dev_ioctl.c), for which the kernel demands
//! `CAP_SYS_MODULE`.

use std::{fs, path::Path};

use lb_types::Scheduler;
use netlink::{Buffers, Protocol, Request, RequestSocket};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index};

/// Type of `NFNL_MSG_COMPAT_GET`: subsystem `NFNL_SUBSYS_NFT_COMPAT`, message 0.
const COMPAT_GET: u16 = 11 << 8;
const ATTR_NAME: u16 = 1;
const ATTR_REVISION: u16 = 2;
const ATTR_TYPE: u16 = 3;
/// Extensions that compare packets, as opposed to targets.
const TYPE_MATCH: u32 = 0;

/// Makes the kernel load ip_vs. Whether that worked shows when its family is resolved again.
pub fn load_ip_vs() -> Result<(), netlink::Error> {
    let mut socket = RequestSocket::open(Protocol::NETFILTER, &Buffers::default())?;
    let request = Request::new(COMPAT_GET, |message| {
        // struct nfgenmsg: IPv4, whose extensions have names that begin with "ipt_".
        message.put(&[libc::AF_INET as u8, 0, 0, 0]);
        message.attribute_str(ATTR_NAME, "ipvs");
        message.attribute_u32_be(ATTR_REVISION, 0);
        message.attribute_u32_be(ATTR_TYPE, TYPE_MATCH);
    });
    socket.request(&request, |_| Some(())).map(drop)
}

/// Loads the module of a scheduler that the kernel must not load by itself; does nothing about others.
///
/// Without `CAP_SYS_MODULE` it fails, which [`must_be_loaded`] shows.
pub fn load_scheduler(scheduler: Scheduler) {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None);
    if let (true, Ok(socket)) = (must_be_loaded(scheduler), socket) {
        // Never the name of an interface: it is the question that matters.
        let _no_such_interface = name_to_index(socket, &format!("ip_vs_{scheduler}"));
    }
}

/// Tells whether a scheduler has to be loaded before the kernel may be asked about it.
pub fn must_be_loaded(scheduler: Scheduler) -> bool {
    if !matches!(scheduler.as_str(), "lblc" | "lblcr") {
        return false;
    }
    // Present in every network namespace once the scheduler is registered, be it a module or a part of the
    // kernel.
    let parameter = format!("/proc/sys/net/ipv4/vs/{scheduler}_expiration");
    // A module that is only being loaded may wait for the namespaces.
    let state = fs::read_to_string(format!("/sys/module/ip_vs_{scheduler}/initstate"));
    !Path::new(&parameter).exists() && state.map_or(true, |state| state.trim() != "live")
}
