//! Reading netlink messages (include/uapi/linux/netlink.h). Total: any bytes give a result, never a panic.

/// Kinds of control messages.
pub mod kinds {
    /// NLMSG_NOOP
    pub const NOOP: u16 = 1;
    /// NLMSG_ERROR: a failure, or an acknowledgement if its number is 0.
    pub const ERROR: u16 = 2;
    /// NLMSG_DONE: the end of a dump.
    pub const DONE: u16 = 3;
    /// NLMSG_OVERRUN, the last kind of control messages.
    pub const OVERRUN: u16 = 4;
}

/// Message flags.
pub mod flags {
    /// NLM_F_REQUEST; the engine sets it on everything it sends.
    pub const REQUEST: u16 = 0x1;
    /// NLM_F_ACK; the engine sets it where it needs one, callers never do.
    pub const ACK: u16 = 0x4;
    /// NLM_F_DUMP_INTR: the table changed during the dump.
    pub const DUMP_INTR: u16 = 0x10;
    /// NLM_F_REPLACE
    pub const REPLACE: u16 = 0x100;
    /// NLM_F_EXCL
    pub const EXCL: u16 = 0x200;
    /// NLM_F_CREATE
    pub const CREATE: u16 = 0x400;
    /// NLM_F_APPEND
    pub const APPEND: u16 = 0x800;
    /// NLM_F_ROOT | NLM_F_MATCH
    pub const DUMP: u16 = 0x300;
    /// NLM_F_CAPPED: an error reply without the request's payload.
    pub const CAPPED: u16 = 0x100;
    /// NLM_F_ACK_TLVS: an error reply with attributes.
    pub const ACK_TLVS: u16 = 0x200;
}

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Length of `struct nlattr`.
pub(crate) const ATTRIBUTE_HEADER: usize = 4;
/// NLA_F_NESTED
pub(crate) const NESTED: u16 = 0x8000;
/// NLA_TYPE_MASK
const KIND_MASK: u16 = 0x3fff;
/// NLMSGERR_ATTR_MSG
const ERROR_TEXT: u16 = 1;

/// Next multiple of 4 (NLMSG_ALIGN, NLA_ALIGN).
pub(crate) const fn aligned(len: usize) -> usize {
    len.saturating_add(3) & !3
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// One received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Type of the message (`nlmsg_type`).
    pub kind: u16,
    /// Flags (`nlmsg_flags`).
    pub flags: u16,
    /// Sequence number of the request (`nlmsg_seq`).
    pub sequence: u32,
    /// Port of the socket whose request caused the message, also in notifications; 0 for none (`nlmsg_pid`).
    pub port_id: u32,
    /// Bytes after the header: the family's own header, then attributes.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Attributes after a fixed header of `header` bytes.
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes::new(self.payload.get(aligned(header)..).unwrap_or_default())
    }

    /// Reads the message as the end of an exchange, if it is one.
    pub fn reply(&self) -> Option<Reply> {
        let errno_at = |at| u32_at(self.payload, at).map(|n| (n as i32).saturating_neg());
        match self.kind {
            kinds::ERROR => {
                let text_at = if self.flags & flags::CAPPED != 0 {
                    4 + HEADER
                } else {
                    4usize.saturating_add(aligned(u32_at(self.payload, 4)? as usize))
                };
                Some(Reply { errno: errno_at(0)?, text: self.text(text_at) })
            }
            // The kernel puts an error that ended the dump here (netlink_dump_done); old kernels left it out.
            kinds::DONE => Some(Reply { errno: errno_at(0).unwrap_or(0), text: self.text(4) }),
            _ => None,
        }
    }

    /// Reads the kernel's words in the attributes of an error reply.
    fn text(&self, at: usize) -> Option<String> {
        if self.flags & flags::ACK_TLVS == 0 {
            return None;
        }
        let text = Attributes::new(self.payload.get(at..)?).find(|a| a.kind == ERROR_TEXT)?;
        Some(String::from_utf8_lossy(text.string()).into_owned())
    }
}

/// End of an exchange: an acknowledgement, an error, or the end of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Error number; 0 for success.
    pub errno: i32,
    /// The kernel's own words (extended acknowledgement).
    pub text: Option<String>,
}

/// Messages of a datagram, up to the first one that is cut off.
#[derive(Clone, Debug)]
pub struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    /// Reads a received datagram.
    pub const fn new(datagram: &'a [u8]) -> Self {
        Messages(datagram)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let bytes = self.0;
        let len = u32_at(bytes, 0)? as usize;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            port_id: u32_at(bytes, 12)?,
            payload: bytes.get(HEADER..len)?,
        };
        self.0 = bytes.get(aligned(len)..).unwrap_or_default();
        Some(message)
    }
}

/// Attributes in order, up to the first one that is cut off.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Reads the bytes after a fixed header, or inside a nest.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Attributes(bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let bytes = self.0;
        let len = usize::from(u16_at(bytes, 0)?);
        let attribute =
            Attribute { kind: u16_at(bytes, 2)? & KIND_MASK, payload: bytes.get(ATTRIBUTE_HEADER..len)? };
        self.0 = bytes.get(aligned(len)..).unwrap_or_default();
        Some(attribute)
    }
}

/// One attribute. The readers of numbers return `None` if the payload is shorter than the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Type without the flag bits (`nla_type`).
    pub kind: u16,
    /// Bytes of the value.
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// Reads a byte.
    pub fn u8(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// Reads a number in host order.
    pub fn u16(&self) -> Option<u16> {
        u16_at(self.payload, 0)
    }

    /// Reads a number in network order.
    pub fn u16_be(&self) -> Option<u16> {
        self.u16().map(u16::from_be)
    }

    /// Reads a number in host order.
    pub fn u32(&self) -> Option<u32> {
        u32_at(self.payload, 0)
    }

    /// Reads a number in network order.
    pub fn u32_be(&self) -> Option<u32> {
        self.u32().map(u32::from_be)
    }

    /// Reads a number in host order.
    pub fn u64(&self) -> Option<u64> {
        Some(u64::from_ne_bytes(*self.payload.first_chunk()?))
    }

    /// Reads the bytes before the first NUL.
    pub fn string(&self) -> &'a [u8] {
        self.payload.split(|b| *b == 0).next().unwrap_or_default()
    }

    /// Reads the attributes inside.
    pub const fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.payload)
    }
}
