//! Thousands of writes in a few datagrams.
//!
//! `netlink_rcv_skb` (net/netlink/af_netlink.c) executes the messages of a datagram one after another inside
//! `send`, does not stop at one that fails, and queues a reply for each that failed, whether it asked for one
//! or not. So no message asks for an acknowledgement except the last one of a datagram, whose reply proves
//! that the kernel dropped none before it.

use crate::{
    Batch, Error, Messages,
    encode::{add_flags, clear_ack, set_sequence},
    socket::{Buffers, RawSocket, Received},
    wire::flags,
};

/// A message of a batch that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Position in the batch.
    pub index: usize,
    /// Error number.
    pub errno: i32,
    /// The kernel's own words (extended acknowledgement).
    pub text: Option<String>,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::Refused { source: std::io::Error::from_raw_os_error(failure.errno), text: failure.text }
    }
}

/// Result of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchOutcome {
    /// Refused messages, in order; all others were executed.
    pub failures: Vec<Failure>,
    /// True if replies were dropped: every message was executed or refused, but more may have been refused
    /// than `failures` lists. Dump and compare.
    pub replies_lost: bool,
}

/// Bounds of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) bytes: usize,
    pub(crate) messages: usize,
}

impl Limits {
    const MAX: Limits = Limits { bytes: 128 << 10, messages: 2000 };
    /// Part of the send buffer that a datagram cannot use; `netlink_sendmsg` refuses more than the buffer
    /// less 32 bytes.
    const SEND_OVERHEAD: usize = 64;
    /// Charge of the kernel for an error reply with a short text, in bytes (`skb->truesize`); 770 to 900
    /// without a text.
    const REPLY_COST: usize = 1280;
    /// Size of a message in bytes that none exceeds of which thousands are sent.
    const ORDINARY_MESSAGE: usize = 512;

    /// Limits of a datagram that fits the send buffer and whose messages may all fail without losing a reply.
    pub(crate) fn within(granted: Buffers) -> Self {
        Limits {
            bytes: granted.send.saturating_sub(Limits::SEND_OVERHEAD).min(Limits::MAX.bytes),
            messages: (granted.receive / Limits::REPLY_COST).clamp(1, Limits::MAX.messages),
        }
    }

    /// Tells whether one more message of up to [`Limits::ORDINARY_MESSAGE`] bytes might be too much.
    pub(crate) fn are_reached_by(self, batch: &Batch) -> bool {
        batch.len() >= self.messages || batch.as_bytes().len() + Limits::ORDINARY_MESSAGE > self.bytes
    }

    /// End of the datagram that starts with message `first`, which is in it whatever its size.
    fn end(self, batch: &Batch, first: usize) -> usize {
        let start = batch.offset(first);
        let mut end = first + 1;
        while end < batch.len()
            && end - first < self.messages
            && batch.offset(end + 1).saturating_sub(start) <= self.bytes
        {
            end += 1;
        }
        end
    }

    /// Half of the messages that were too many.
    fn halved(self, messages: usize) -> Self {
        Limits { messages: (messages / 2).max(1), ..self }
    }
}

/// One batch on its way through a socket.
pub(crate) struct Execution<'a> {
    pub(crate) socket: &'a mut RawSocket,
    /// Last sequence number that was used.
    pub(crate) sequence: &'a mut u32,
    pub(crate) outcome: BatchOutcome,
}

impl Execution<'_> {
    pub(crate) fn run(mut self, batch: &mut Batch, mut limits: Limits) -> Result<BatchOutcome, Error> {
        if let Some(index) = batch.first_malformed() {
            return Err(Error::Malformed { index });
        }
        let mut first = 0;
        while first < batch.len() {
            let end = limits.end(batch, first);
            match self.send_chunk(batch, first, end) {
                Ok(()) => first = end,
                Err(e) if is_too_large(&e) && end - first > 1 => limits = limits.halved(end - first),
                Err(e) => return Err(e),
            }
        }
        self.outcome.failures.sort_by_key(|failure| failure.index);
        Ok(self.outcome)
    }

    fn send_chunk(&mut self, batch: &mut Batch, first: usize, end: usize) -> Result<(), Error> {
        let first_sequence = self.sequence.wrapping_add(1);
        for index in first..end {
            *self.sequence = self.sequence.wrapping_add(1);
            let message = batch.slice_mut(index, index + 1);
            set_sequence(message, *self.sequence);
            clear_ack(message);
        }
        add_flags(batch.slice_mut(end - 1, end), flags::ACK);
        self.socket.send(batch.slice_mut(first, end), end - first)?;
        self.collect(first, end - first, first_sequence)
    }

    /// Reads all replies to the chunk of `count` messages that begins with message `first`.
    fn collect(&mut self, first: usize, count: usize, first_sequence: u32) -> Result<(), Error> {
        let mut acknowledged = false;
        loop {
            match self.socket.receive()? {
                Received::Datagram => {}
                Received::Truncated { .. } | Received::Overrun => {
                    self.outcome.replies_lost = true;
                    continue;
                }
                Received::Nothing => break,
            }
            let mut received = 0;
            for message in Messages::new(self.socket.datagram()) {
                received += 1;
                let at = message.sequence.wrapping_sub(first_sequence) as usize;
                let Some(reply) = message.reply().filter(|_| at < count) else { continue };
                acknowledged |= at == count - 1;
                if reply.errno != 0 {
                    let failure = Failure { index: first + at, errno: reply.errno, text: reply.text };
                    self.outcome.failures.push(failure);
                }
            }
            self.socket.counters.messages_received += received;
        }
        self.outcome.replies_lost |= !acknowledged;
        Ok(())
    }
}

/// Tells whether the kernel had no memory for a datagram of this size, or the datagram exceeds the send
/// buffer; in both cases it executed nothing.
fn is_too_large(error: &Error) -> bool {
    matches!(error, Error::Send { source, .. }
        if matches!(source.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOBUFS | libc::ENOMEM)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(messages: usize) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..messages {
            batch.push(16, 0, |m| m.put(&[0; 84])); // 100 bytes with the header
        }
        batch
    }

    fn chunks(batch: &Batch, limits: Limits) -> Vec<usize> {
        let mut ends = vec![];
        while ends.last().copied().unwrap_or(0) < batch.len() {
            ends.push(limits.end(batch, ends.last().copied().unwrap_or(0)));
        }
        ends
    }

    #[test]
    fn chunks_respect_both_bounds_and_make_progress() {
        let batch = batch(10);
        assert_eq!(chunks(&batch, Limits { bytes: 450, messages: 100 }), [4, 8, 10]);
        assert_eq!(chunks(&batch, Limits { bytes: 400, messages: 100 }), [4, 8, 10]);
        assert_eq!(chunks(&batch, Limits { bytes: 10_000, messages: 3 }), [3, 6, 9, 10]);
        assert_eq!(chunks(&batch, Limits { bytes: 1, messages: 100 }).len(), 10);
    }

    #[test]
    fn what_is_not_full_goes_in_one_datagram() {
        let limits = Limits { bytes: 2000, messages: 100 };
        assert!(!limits.are_reached_by(&batch(14)) && limits.are_reached_by(&batch(15)));
        assert_eq!(chunks(&batch(15), limits), [15]);
        assert!(Limits { messages: 3, ..limits }.are_reached_by(&batch(3)));
    }

    #[test]
    fn limits_follow_the_granted_buffers() {
        let forced = Limits::within(Buffers { send: 2 << 20, receive: 8 << 20 });
        assert_eq!(forced, Limits { bytes: 128 << 10, messages: 2000 });
        let default = Limits::within(Buffers { send: 212_992, receive: 212_992 });
        assert_eq!(default, Limits { bytes: 128 << 10, messages: 166 });
        assert_eq!(Limits::within(Buffers { send: 0, receive: 0 }), Limits { bytes: 0, messages: 1 });
    }
}
