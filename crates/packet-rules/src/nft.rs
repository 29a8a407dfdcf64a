//! Numbers of the nf_tables interface (include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h).

use std::ffi::{CStr, CString};

use crate::spec::{Hook, TableFamily};

/// NFNL_SUBSYS_NFTABLES
pub(crate) const SUBSYSTEM: u8 = 10;
/// NFNLGRP_NFTABLES
pub(crate) const GROUP: u32 = 7;
/// NFNL_MSG_BATCH_BEGIN
pub(crate) const BATCH_BEGIN: u16 = 16;
/// NFNL_MSG_BATCH_END
pub(crate) const BATCH_END: u16 = 17;
/// NFNL_BATCH_GENID
pub(crate) const BATCH_GENERATION: u16 = 1;
/// Length of `struct nfgenmsg`.
pub(crate) const HEADER: usize = 4;

pub(crate) const NFPROTO_UNSPEC: u8 = 0;
pub(crate) const NFPROTO_INET: u8 = 1;
pub(crate) const NFPROTO_ARP: u8 = 3;
pub(crate) const NFPROTO_IPV4: u8 = 2;
pub(crate) const NFPROTO_IPV6: u8 = 10;
pub(crate) const NF_ACCEPT: u32 = 1;
/// NFT_SET_ANONYMOUS
pub(crate) const SET_ANONYMOUS: u32 = 1;
/// NFT_SET_INTERVAL: elements have two ends.
pub(crate) const SET_INTERVAL: u32 = 4;
/// NFT_SET_CONCAT: the fields of a key have intervals of their own (Linux 5.6).
pub(crate) const SET_CONCAT: u32 = 0x80;
/// NFT_SET_MAP: elements have data.
pub(crate) const SET_MAP: u32 = 8;
/// NFT_SET_TIMEOUT: elements go by themselves.
pub(crate) const SET_TIMEOUT: u32 = 0x10;
/// NFT_SET_EVAL: packets add elements.
pub(crate) const SET_EVAL: u32 = 0x20;
/// Bytes of a packet mark.
pub(crate) const MARK_LEN: u32 = 4;
/// Number of the nft tool's datatype of packet marks (TYPE_MARK in its datatype.h); the kernel only stores it.
pub(crate) const MARK_TYPE: u32 = 19;
/// NFTNL_UDATA_RULE_COMMENT
pub(crate) const USERDATA_COMMENT: u8 = 0;

// NFT_MSG_*
pub(crate) const GETTABLE: u16 = 1;
pub(crate) const DELTABLE: u16 = 2;
pub(crate) const GETCHAIN: u16 = 4;
pub(crate) const DELCHAIN: u16 = 5;
pub(crate) const GETRULE: u16 = 7;
pub(crate) const DELRULE: u16 = 8;
pub(crate) const GETSET: u16 = 10;
pub(crate) const GETSETELEM: u16 = 13;
pub(crate) const NEWGEN: u16 = 15;
pub(crate) const GETGEN: u16 = 16;

/// Attributes, without their NFTA prefix.
pub(crate) mod attr {
    /// Name of the table, in messages of all kinds but those about generations.
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const TABLE_FLAGS: u16 = 2;
    pub(crate) const GEN_ID: u16 = 1;
    pub(crate) const CHAIN_NAME: u16 = 3;
    pub(crate) const CHAIN_HOOK: u16 = 4;
    pub(crate) const CHAIN_POLICY: u16 = 5;
    pub(crate) const CHAIN_TYPE: u16 = 7;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    pub(crate) const RULE_CHAIN: u16 = 2;
    pub(crate) const RULE_HANDLE: u16 = 3;
    pub(crate) const RULE_EXPRESSIONS: u16 = 4;
    pub(crate) const EXPRESSION_NAME: u16 = 1;
    pub(crate) const EXPRESSION_DATA: u16 = 2;
    pub(crate) const IMMEDIATE_DATA: u16 = 2;
    pub(crate) const DATA_VERDICT: u16 = 2;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
    pub(crate) const RULE_USERDATA: u16 = 7;
    /// Name of the set, in messages about sets and about lists of elements.
    pub(crate) const SET_NAME: u16 = 2;
    pub(crate) const SET_FLAGS: u16 = 3;
    pub(crate) const SET_KEY_TYPE: u16 = 4;
    pub(crate) const SET_KEY_LEN: u16 = 5;
    pub(crate) const SET_DATA_LEN: u16 = 7;
    pub(crate) const SET_DESC: u16 = 9;
    pub(crate) const SET_DESC_SIZE: u16 = 1;
    pub(crate) const ELEMENTS: u16 = 3;
    pub(crate) const ELEMENT_KEY: u16 = 1;
    pub(crate) const ELEMENT_DATA: u16 = 2;
    pub(crate) const ELEMENT_KEY_END: u16 = 10;
    pub(crate) const DATA_VALUE: u16 = 1;
}

/// Netlink message type of an nf_tables message.
pub(crate) const fn kind(number: u16) -> u16 {
    (SUBSYSTEM as u16) << 8 | number
}

/// Inverse of [`kind`].
pub(crate) const fn number(kind: u16) -> u16 {
    kind & 0xff
}

/// Netfilter subsystem of a message.
pub(crate) const fn subsystem(kind: u16) -> u8 {
    (kind >> 8) as u8
}

/// `struct nfgenmsg`: family, version 0, resource 0.
pub(crate) const fn header(family: u8) -> [u8; HEADER] {
    [family, 0, 0, 0]
}

/// Number of a family in the header of a message.
pub(crate) const fn family_number(family: TableFamily) -> u8 {
    match family {
        TableFamily::Inet => NFPROTO_INET,
        TableFamily::Arp => NFPROTO_ARP,
    }
}

/// NF_INET_*, NF_ARP_*
pub(crate) const fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting | Hook::ArpInput => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

/// For our own names, none of which contains a NUL; anything from the first one on would be dropped.
pub(crate) fn c_string(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().take_while(|b| *b != 0).chain([0]).collect();
    CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_owned()
}
