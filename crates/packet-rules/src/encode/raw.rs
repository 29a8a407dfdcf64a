//! The part of libnftnl that has no safe wrapper.
#![expect(unsafe_code, reason = "libnftnl is a C library")]

use std::{
    ffi::{CStr, c_void},
    ptr::NonNull,
    time::Duration,
};

use nftnl::{MsgType, NlMsg, ProtoFamily, Rule, expr::Expression, nft_nlmsg_maxsize};
use nftnl_sys::{self as sys, libc};

use super::proto_family;
use crate::{
    expr::{Expr, nfproto},
    nft::{self, c_string},
    spec::{SetId, TABLE_NAME},
};

/// NFTNL_UDATA_SET_KEYBYTEORDER: how the nft tool shall print keys (BYTEORDER_BIG_ENDIAN).
const NETWORK_BYTE_ORDER: u32 = 2;
/// NFTNL_UDATA_SET_DATABYTEORDER of marks (BYTEORDER_HOST_ENDIAN).
const HOST_BYTE_ORDER: u32 = 1;
/// Room for the attributes of user data.
const USER_DATA: u32 = 32;

/// Buffer into which libnftnl writes a message.
pub(super) struct Scratch {
    /// Words, not bytes, because libnftnl writes headers through pointers to structures.
    words: Vec<u64>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Scratch { words: vec![0; (nft_nlmsg_maxsize() as usize).div_ceil(size_of::<u64>())] }
    }

    /// The bytes of one message.
    pub(super) fn encode(&mut self, object: &impl NlMsg, kind: MsgType) -> Vec<u8> {
        // SAFETY: `words` is aligned for the header and has the size that `NlMsg::write` demands.
        unsafe { object.write(self.words.as_mut_ptr().cast(), 0, kind) };
        // SAFETY: the words are initialised, and any byte is a valid u8.
        let bytes: &[u8] = unsafe {
            std::slice::from_raw_parts(self.words.as_ptr().cast(), self.words.len() * size_of::<u64>())
        };
        let len = bytes.first_chunk().map_or(0, |len| u32::from_ne_bytes(*len) as usize);
        bytes.get(..len).unwrap_or_default().to_vec()
    }
}

/// Memory is short when libnftnl cannot allocate some hundred bytes; the standard library gives up there,
/// too.
fn allocated<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).unwrap_or_else(|| std::process::abort())
}

/// An expression that [`Rule::add_expr`] takes.
pub(super) struct RawExpr(pub(super) Expr);

impl Expression for RawExpr {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        let name = match &self.0 {
            Expr::Meta { .. } | Expr::SetMeta { .. } => c"meta",
            Expr::Ct { .. } => c"ct",
            Expr::Payload { .. } => c"payload",
            Expr::Bitwise { .. } => c"bitwise",
            Expr::Compare { .. } => c"cmp",
            Expr::Lookup { .. } | Expr::MapLookup { .. } => c"lookup",
            Expr::Verdict { .. } | Expr::Load { .. } => c"immediate",
            Expr::Reject { .. } => c"reject",
            Expr::Masquerade { .. } => c"masq",
            Expr::DestinationNat { .. } => c"nat",
            Expr::Remember { .. } => c"dynset",
        };
        // SAFETY: the name is a C string; libnftnl copies nothing of it.
        let mut expr = Attributes(allocated(unsafe { sys::nftnl_expr_alloc(name.as_ptr()) }));
        expr.fill(&self.0);
        expr.0
    }
}

/// Attributes of an expression under construction.
struct Attributes(NonNull<sys::nftnl_expr>);

impl Attributes {
    fn fill(&mut self, expr: &Expr) {
        match expr {
            Expr::Meta { key, into } => {
                self.number(sys::NFTNL_EXPR_META_KEY, *key as u32);
                self.number(sys::NFTNL_EXPR_META_DREG, *into);
            }
            Expr::SetMeta { key } => {
                self.number(sys::NFTNL_EXPR_META_KEY, *key as u32);
                self.number(sys::NFTNL_EXPR_META_SREG, libc::NFT_REG_1 as u32);
            }
            Expr::Ct { key, direction, into } => {
                self.number(sys::NFTNL_EXPR_CT_KEY, *key as u32);
                self.number(sys::NFTNL_EXPR_CT_DREG, *into);
                if let Some(direction) = direction {
                    self.byte(sys::NFTNL_EXPR_CT_DIR, *direction);
                }
            }
            Expr::Payload { base, offset, len, into } => {
                self.number(sys::NFTNL_EXPR_PAYLOAD_BASE, *base as u32);
                self.number(sys::NFTNL_EXPR_PAYLOAD_OFFSET, *offset);
                self.number(sys::NFTNL_EXPR_PAYLOAD_LEN, *len);
                self.number(sys::NFTNL_EXPR_PAYLOAD_DREG, *into);
            }
            Expr::Bitwise { mask, xor } => {
                self.number(sys::NFTNL_EXPR_BITWISE_SREG, libc::NFT_REG_1 as u32);
                self.number(sys::NFTNL_EXPR_BITWISE_DREG, libc::NFT_REG_1 as u32);
                self.number(sys::NFTNL_EXPR_BITWISE_LEN, mask.len() as u32);
                self.data(sys::NFTNL_EXPR_BITWISE_MASK, mask);
                self.data(sys::NFTNL_EXPR_BITWISE_XOR, xor);
            }
            Expr::Compare { op, data } => {
                self.number(sys::NFTNL_EXPR_CMP_SREG, libc::NFT_REG_1 as u32);
                self.number(sys::NFTNL_EXPR_CMP_OP, *op as u32);
                self.data(sys::NFTNL_EXPR_CMP_DATA, data);
            }
            Expr::Load { data, into } => {
                self.number(sys::NFTNL_EXPR_IMM_DREG, *into);
                self.data(sys::NFTNL_EXPR_IMM_DATA, data);
            }
            Expr::Lookup { .. }
            | Expr::MapLookup { .. }
            | Expr::Verdict { .. }
            | Expr::Reject { .. }
            | Expr::Masquerade { .. }
            | Expr::DestinationNat { .. }
            | Expr::Remember { .. } => self.fill_effect(expr),
        }
    }

    fn fill_effect(&mut self, expr: &Expr) {
        match expr {
            Expr::Lookup { set, inverted } => {
                self.number(sys::NFTNL_EXPR_LOOKUP_SREG, libc::NFT_REG_1 as u32);
                self.string(sys::NFTNL_EXPR_LOOKUP_SET, &c_string(&set.name()));
                if *inverted {
                    self.number(sys::NFTNL_EXPR_LOOKUP_FLAGS, libc::NFT_LOOKUP_F_INV as u32);
                }
            }
            Expr::MapLookup { map } => {
                self.number(sys::NFTNL_EXPR_LOOKUP_SREG, libc::NFT_REG_1 as u32);
                self.number(sys::NFTNL_EXPR_LOOKUP_DREG, libc::NFT_REG_1 as u32);
                self.string(sys::NFTNL_EXPR_LOOKUP_SET, &c_string(&map.name()));
            }
            Expr::Verdict { code, chain } => {
                self.number(sys::NFTNL_EXPR_IMM_DREG, libc::NFT_REG_VERDICT as u32);
                self.number(sys::NFTNL_EXPR_IMM_VERDICT, *code as u32);
                if let Some(chain) = chain {
                    self.string(sys::NFTNL_EXPR_IMM_CHAIN, &c_string(chain));
                }
            }
            Expr::Reject { kind, code } => {
                self.number(sys::NFTNL_EXPR_REJECT_TYPE, *kind as u32);
                self.byte(sys::NFTNL_EXPR_REJECT_CODE, *code);
            }
            Expr::Masquerade { flags } => self.number(sys::NFTNL_EXPR_MASQ_FLAGS, *flags),
            Expr::DestinationNat { family } => {
                self.number(sys::NFTNL_EXPR_NAT_TYPE, libc::NFT_NAT_DNAT as u32);
                self.number(sys::NFTNL_EXPR_NAT_FAMILY, nfproto(*family).into());
                self.number(sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, libc::NFT_REG_1 as u32);
            }
            Expr::Remember { set } => {
                self.number(sys::NFTNL_EXPR_DYNSET_SREG_KEY, libc::NFT_REG_1 as u32);
                self.number(sys::NFTNL_EXPR_DYNSET_OP, libc::NFT_DYNSET_OP_UPDATE as u32);
                self.string(sys::NFTNL_EXPR_DYNSET_SET_NAME, &c_string(&set.name()));
            }
            _ => {}
        }
    }

    fn number(&mut self, attribute: u32, value: u32) {
        // SAFETY: the expression is alive and this attribute of it is a u32.
        unsafe { sys::nftnl_expr_set_u32(self.0.as_ptr(), attribute as u16, value) };
    }

    fn byte(&mut self, attribute: u32, value: u8) {
        // SAFETY: the expression is alive and this attribute of it is a u8.
        unsafe { sys::nftnl_expr_set_u8(self.0.as_ptr(), attribute as u16, value) };
    }

    fn data(&mut self, attribute: u32, value: &[u8]) {
        let (data, len) = (value.as_ptr().cast::<c_void>(), value.len() as u32);
        // SAFETY: the expression is alive, this attribute of it is register data (64 bytes), and the longest
        // of ours is an address of 16; libnftnl copies it.
        unsafe { sys::nftnl_expr_set(self.0.as_ptr(), attribute as u16, data, len) };
    }

    fn string(&mut self, attribute: u32, value: &CStr) {
        // SAFETY: the expression is alive, this attribute of it is a string, and libnftnl copies it.
        unsafe { sys::nftnl_expr_set_str(self.0.as_ptr(), attribute as u16, value.as_ptr()) };
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A set, with or without description and elements.
pub(super) struct RawSet {
    set: NonNull<sys::nftnl_set>,
    /// Family of its table.
    family: ProtoFamily,
}

impl RawSet {
    /// One of our sets.
    pub(super) fn of(id: SetId) -> Self {
        RawSet::named(&c_string(&id.name()), proto_family(id.table()))
    }

    /// The set of a name in our table of a family.
    pub(super) fn named(name: &CStr, family: ProtoFamily) -> Self {
        // SAFETY: no preconditions.
        let set = RawSet { set: allocated(unsafe { sys::nftnl_set_alloc() }), family };
        set.number(sys::NFTNL_SET_FAMILY, family as u32);
        set.string(sys::NFTNL_SET_TABLE, &c_string(TABLE_NAME));
        set.string(sys::NFTNL_SET_NAME, name);
        set
    }

    /// Adds what the kernel needs to create the set, or a map to marks. No size: it grows without bound.
    pub(super) fn describe(&mut self, key_type: u32, key_len: u32, id: u32, is_map: bool) {
        self.number(sys::NFTNL_SET_FLAGS, if is_map { nft::SET_MAP } else { 0 });
        if is_map {
            self.number(sys::NFTNL_SET_DATA_TYPE, nft::MARK_TYPE);
            self.number(sys::NFTNL_SET_DATA_LEN, nft::MARK_LEN);
        }
        self.number(sys::NFTNL_SET_KEY_TYPE, key_type);
        self.number(sys::NFTNL_SET_KEY_LEN, key_len);
        self.number(sys::NFTNL_SET_ID, id);
        // SAFETY: the buffer is alive until it is freed, has room for two numbers, and the set copies its
        // contents.
        unsafe {
            let buffer = allocated(sys::nftnl_udata_buf_alloc(USER_DATA)).as_ptr();
            let key = sys::NFTNL_UDATA_SET_KEYBYTEORDER as u8;
            sys::nftnl_udata_put_u32(buffer, key, NETWORK_BYTE_ORDER);
            if is_map {
                let data = sys::NFTNL_UDATA_SET_DATABYTEORDER as u8;
                sys::nftnl_udata_put_u32(buffer, data, HOST_BYTE_ORDER);
            }
            let (data, len) = (sys::nftnl_udata_buf_data(buffer), sys::nftnl_udata_buf_len(buffer));
            sys::nftnl_set_set_data(self.set.as_ptr(), sys::NFTNL_SET_USERDATA as u16, data, len);
            sys::nftnl_udata_buf_free(buffer);
        }
    }

    /// Adds what the kernel also needs where packets add the elements, at most `size` of them: their timeout,
    /// and the interval at which it looks for expired ones.
    pub(super) fn filled_by_packets(&mut self, size: u32, (memory, sweep): (Duration, Duration)) {
        self.number(sys::NFTNL_SET_FLAGS, nft::SET_TIMEOUT | nft::SET_EVAL);
        self.number(sys::NFTNL_SET_DESC_SIZE, size);
        self.number(sys::NFTNL_SET_GC_INTERVAL, milliseconds(sweep) as u32);
        // SAFETY: the set is alive and this attribute of it is a u64.
        unsafe {
            sys::nftnl_set_set_u64(self.set.as_ptr(), sys::NFTNL_SET_TIMEOUT as u16, milliseconds(memory));
        };
    }

    /// Adds what the kernel also needs where elements are intervals: the length of each field of the key.
    pub(super) fn of_intervals(&mut self, lengths: &[u8]) {
        self.number(sys::NFTNL_SET_FLAGS, nft::SET_INTERVAL | nft::SET_CONCAT);
        let (data, len) = (lengths.as_ptr().cast::<c_void>(), lengths.len() as u32);
        // SAFETY: the set is alive, and copies the lengths, of which it has room for 16.
        unsafe {
            sys::nftnl_set_set_data(self.set.as_ptr(), sys::NFTNL_SET_DESC_CONCAT as u16, data, len);
        }
    }

    /// Appends an element, with the key of its other end if it is an interval, and its data if it is one of a map.
    pub(super) fn add(&mut self, key: &[u8], key_end: &[u8], data: &[u8]) {
        let parts = [
            (sys::NFTNL_SET_ELEM_KEY, key),
            (sys::NFTNL_SET_ELEM_KEY_END, key_end),
            (sys::NFTNL_SET_ELEM_DATA, data),
        ];
        // SAFETY: all objects are alive; keys are at most 40 bytes and data 4, less than the 64 of an element;
        // libnftnl copies them, and the set takes ownership of the element.
        unsafe {
            let element = allocated(sys::nftnl_set_elem_alloc()).as_ptr();
            for (attribute, bytes) in parts.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
                let (start, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len() as u32);
                sys::nftnl_set_elem_set(element, attribute as u16, start, len);
            }
            sys::nftnl_set_elem_add(self.set.as_ptr(), element);
        }
    }

    fn number(&self, attribute: u32, value: u32) {
        // SAFETY: the set is alive and this attribute of it is a u32.
        unsafe { sys::nftnl_set_set_u32(self.set.as_ptr(), attribute as u16, value) };
    }

    fn string(&self, attribute: u32, value: &CStr) {
        // SAFETY: the set is alive, this attribute of it is a string, and libnftnl copies it. It fails only
        // without memory; the kernel then refuses the message.
        let _ = unsafe { sys::nftnl_set_set_str(self.set.as_ptr(), attribute as u16, value.as_ptr()) };
    }
}

impl Drop for RawSet {
    fn drop(&mut self) {
        // SAFETY: nobody else has the pointer; the elements belong to the set.
        unsafe { sys::nftnl_set_free(self.set.as_ptr()) };
    }
}

// SAFETY: a set without elements is a few hundred bytes, far below `nft_nlmsg_maxsize`.
unsafe impl NlMsg for RawSet {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, kind: MsgType) {
        let (message, flags) = match kind {
            MsgType::Add => (libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE),
            MsgType::Del => (libc::NFT_MSG_DELSET, 0),
        };
        // SAFETY: the caller's buffer has room for the largest message.
        let header = unsafe { build_header(buf, message, flags, (self.family, seq)) };
        // SAFETY: the header starts that buffer, and the set is alive.
        unsafe { sys::nftnl_set_nlmsg_build_payload(header, self.set.as_ptr()) };
    }
}

/// The elements of a set. Without NLM_F_EXCL: adding one that exists succeeds.
pub(super) struct RawElements<'s>(pub(super) &'s RawSet);

// SAFETY: callers keep to `ELEMENTS_PER_MESSAGE`, with which the attribute stays below 64 KiB.
unsafe impl NlMsg for RawElements<'_> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, kind: MsgType) {
        let (message, flags) = match kind {
            MsgType::Add => (libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE),
            MsgType::Del => (libc::NFT_MSG_DELSETELEM, 0),
        };
        // SAFETY: the caller's buffer has room for the largest message.
        let header = unsafe { build_header(buf, message, flags, (self.0.family, seq)) };
        // SAFETY: the header starts that buffer, and the set is alive.
        unsafe { sys::nftnl_set_elems_nlmsg_build_payload(header, self.0.set.as_ptr()) };
    }
}

/// # Safety
/// `buf` must be aligned for, and have room for, the largest message.
unsafe fn build_header(
    buf: *mut c_void,
    message: i32,
    flags: i32,
    (family, seq): (ProtoFamily, u32),
) -> *mut libc::nlmsghdr {
    // SAFETY: as demanded of the caller.
    unsafe { sys::nftnl_nlmsg_build_hdr(buf.cast(), message as u16, family as u16, flags as u16, seq) }
}
