//! Writing netlink messages.

use crate::wire::{ATTRIBUTE_HEADER, HEADER, NESTED, aligned, flags};

/// Buffer into which one message after another is encoded; every value is padded to 4 bytes.
#[derive(Clone, Debug, Default)]
pub struct MessageBuffer {
    bytes: Vec<u8>,
    /// True if something did not fit its length field since the last [`MessageBuffer::take_malformed`].
    malformed: bool,
}

impl MessageBuffer {
    /// Appends a fixed header of the family, or anything else that is not an attribute.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, payload: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(payload);
        self.close(start);
    }

    /// Appends a byte.
    #[inline]
    pub fn attribute_u8(&mut self, kind: u16, value: u8) {
        self.fixed::<8>(kind, &[value]);
    }

    /// Appends a number in host order.
    #[inline]
    pub fn attribute_u16(&mut self, kind: u16, value: u16) {
        self.fixed::<8>(kind, &value.to_ne_bytes());
    }

    /// Appends a number in network order.
    #[inline]
    pub fn attribute_u16_be(&mut self, kind: u16, value: u16) {
        self.fixed::<8>(kind, &value.to_be_bytes());
    }

    /// Appends a number in host order.
    #[inline]
    pub fn attribute_u32(&mut self, kind: u16, value: u32) {
        self.fixed::<8>(kind, &value.to_ne_bytes());
    }

    /// Appends a number in network order.
    #[inline]
    pub fn attribute_u32_be(&mut self, kind: u16, value: u32) {
        self.fixed::<8>(kind, &value.to_be_bytes());
    }

    /// Appends 16 bytes: an IPv6 address, or a union that has room for one.
    #[inline]
    pub fn attribute_16_bytes(&mut self, kind: u16, value: &[u8; 16]) {
        self.fixed::<20>(kind, value);
    }

    /// Appends an attribute that takes `TOTAL` bytes with header and padding.
    ///
    /// Numbers are most of what is sent. As one piece whose size the compiler knows, a number takes a tenth
    /// of the instructions of [`MessageBuffer::attribute`].
    #[inline]
    fn fixed<const TOTAL: usize>(&mut self, kind: u16, value: &[u8]) {
        let len = ATTRIBUTE_HEADER + value.len();
        debug_assert_eq!(aligned(len), TOTAL, "the size does not fit the value");
        let mut attribute = [0; TOTAL];
        attribute[..2].copy_from_slice(&(len as u16).to_ne_bytes());
        attribute[2..ATTRIBUTE_HEADER].copy_from_slice(&kind.to_ne_bytes());
        attribute[ATTRIBUTE_HEADER..len].copy_from_slice(value);
        self.bytes.extend_from_slice(&attribute);
    }

    /// Appends a string with its NUL.
    pub fn attribute_str(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    /// Appends a nest (flag NLA_F_NESTED) with what `build` appends.
    #[inline]
    pub fn nested(&mut self, kind: u16, build: impl FnOnce(&mut Self)) {
        let start = self.open(kind | NESTED);
        build(self);
        self.close(start);
    }

    /// Appends a nest whose content was read from the kernel, byte for byte.
    pub fn nested_bytes(&mut self, kind: u16, content: &[u8]) {
        self.attribute(kind | NESTED, content);
    }

    /// All bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[inline]
    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        let mut header = [0; ATTRIBUTE_HEADER];
        header[2..].copy_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&header);
        start
    }

    #[inline]
    fn close(&mut self, start: usize) {
        let len = self.bytes.len() - start;
        debug_assert!(len >= ATTRIBUTE_HEADER, "an attribute begins with its header");
        match u16::try_from(len) {
            Ok(len) => self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.malformed = true,
        }
        self.pad();
    }

    fn begin_message(&mut self, kind: u16, flags: u16) -> usize {
        let start = self.bytes.len();
        let mut header = [0; HEADER];
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(flags | flags::REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&header);
        start
    }

    fn end_message(&mut self, start: usize) {
        match u32::try_from(self.bytes.len() - start) {
            Ok(len) => self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.malformed = true,
        }
        self.pad();
    }

    #[inline]
    fn pad(&mut self) {
        let len = self.bytes.len();
        if len != aligned(len) {
            self.bytes.resize(aligned(len), 0);
        }
    }

    fn take_malformed(&mut self) -> bool {
        std::mem::take(&mut self.malformed)
    }
}

/// Sets `nlmsg_seq`.
pub(crate) fn set_sequence(message: &mut [u8], sequence: u32) {
    if let Some(field) = message.get_mut(8..12) {
        field.copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// Adds to `nlmsg_flags`.
pub(crate) fn add_flags(message: &mut [u8], flags: u16) {
    if let Some([low, high]) = message.get_mut(6..8) {
        let [l, h] = flags.to_ne_bytes();
        *low |= l;
        *high |= h;
    }
}

/// Removes `NLM_F_ACK`.
pub(crate) fn clear_ack(message: &mut [u8]) {
    if let Some([low, high]) = message.get_mut(6..8) {
        let [l, h] = (!flags::ACK).to_ne_bytes();
        *low &= l;
        *high &= h;
    }
}

/// One encoded request, for [`crate::RequestSocket::request`] and [`crate::RequestSocket::dump`].
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) bytes: Vec<u8>,
    pub(crate) malformed: bool,
}

impl Request {
    /// Encodes a message of type `kind`; `build` appends the family's header and the attributes.
    pub fn new(kind: u16, build: impl FnOnce(&mut MessageBuffer)) -> Self {
        let mut buffer = MessageBuffer::default();
        let start = buffer.begin_message(kind, 0);
        build(&mut buffer);
        buffer.end_message(start);
        Request { malformed: buffer.take_malformed(), bytes: buffer.bytes }
    }

    /// Bytes of the message, with sequence number and port 0.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Encoded writes, for [`crate::RequestSocket::execute`].
///
/// It is not for dumps: a socket runs one dump at a time.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    buffer: MessageBuffer,
    /// Offset of each message in the buffer.
    starts: Vec<usize>,
    /// Index of the first message that cannot be sent.
    malformed: Option<usize>,
}

impl Batch {
    /// A batch without messages.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Appends a message of type `kind`; `build` appends the family's header and the attributes.
    ///
    /// The engine adds `NLM_F_REQUEST` and sets the sequence number.
    pub fn push(&mut self, kind: u16, flags: u16, build: impl FnOnce(&mut MessageBuffer)) {
        let start = self.buffer.begin_message(kind, flags & !flags::ACK);
        build(&mut self.buffer);
        self.buffer.end_message(start);
        self.note_message(start);
    }

    fn note_message(&mut self, start: usize) {
        if self.buffer.take_malformed() && self.malformed.is_none() {
            self.malformed = Some(self.starts.len());
        }
        self.starts.push(start);
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Tells whether there are no messages.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Removes all messages and keeps the memory.
    pub fn clear(&mut self) {
        self.buffer.bytes.clear();
        self.starts.clear();
        self.malformed = None;
    }

    /// Bytes of all messages, one behind the other.
    pub fn as_bytes(&self) -> &[u8] {
        self.buffer.as_bytes()
    }

    pub(crate) fn first_malformed(&self) -> Option<usize> {
        self.malformed
    }

    /// Offset of a message, or of the end for the index after the last one.
    pub(crate) fn offset(&self, index: usize) -> usize {
        self.starts.get(index).copied().unwrap_or(self.buffer.bytes.len())
    }

    /// Bytes of the messages `first..end`.
    pub(crate) fn slice_mut(&mut self, first: usize, end: usize) -> &mut [u8] {
        let range = self.offset(first)..self.offset(end);
        &mut self.buffer.bytes[range]
    }
}
