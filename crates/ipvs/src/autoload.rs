//! Loading of ip_vs on kernels that do not load it for its generic-netlink family (before Linux 5.16).
//!
//! There the family has no alias that modprobe knows. Asking nf_tables for the revision of the iptables match `ipvs`
//! makes the kernel load xt_ipvs under the name `ipt_ipvs`, and with it ip_vs, on which xt_ipvs depends
//! (`nfnl_compat_get_rcu`, net/netfilter/nft_compat.c).

use netlink::{Buffers, Protocol, Request, RequestSocket};

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
