//! Transactions over the wire: one datagram each, all or nothing.
//!
//! `nfnetlink_rcv_batch` (net/netfilter/nfnetlink.c) tries every message between begin and end, queues an
//! error for each that fails, and commits if there was none. The kernel drops a batch spread over several
//! datagrams without a word. Only the last message asks for an acknowledgement, which proves that silence
//! about the others is success.

use std::io;

use netlink::{Counters, Message, Messages, Request, flags};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;

use crate::{
    RulesError, nft,
    transaction::{Refusal, Transaction},
};

/// Size of the receive buffer: room for about 10,000 error replies, more than any transaction of ours has.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Largest reply that matters: an error with text.
const DATAGRAM: usize = 64 << 10;
/// Part of the send buffer that a datagram cannot use; `netlink_sendmsg` refuses more than the buffer less 32
/// bytes.
const SEND_OVERHEAD: usize = 64;
/// Offsets in `struct nlmsghdr`.
const FLAGS: usize = 6;
const SEQUENCE: usize = 8;

/// Result of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The kernel executed it.
    Committed,
    /// The kernel did not execute it, because of these messages; it may have refused more if replies were
    /// lost.
    Refused { refusals: Vec<Refusal>, replies_lost: bool },
    /// The kernel did not execute it: the ruleset is not of the given generation any more.
    Outdated,
    /// The result is unknown: no reply came through.
    Unknown,
}

/// A socket for transactions, in the network namespace of the thread that opened it.
pub(crate) struct BatchSocket {
    socket: Socket,
    port_id: u32,
    /// Last sequence number that was used.
    sequence: u32,
    /// Granted size of the send buffer.
    send_buffer: usize,
    buffer: Vec<u8>,
    pub(crate) counters: Counters,
}

impl BatchSocket {
    pub(crate) fn open() -> Result<Self, RulesError> {
        let open = || -> io::Result<(Socket, u32)> {
            let mut socket = Socket::new(libc::NETLINK_NETFILTER as isize)?;
            let port_id = socket.bind_auto()?.port_number();
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok((socket, port_id))
        };
        let (socket, port_id) = open()
            .map_err(|source| netlink::Error::Open { protocol: netlink::Protocol::NETFILTER, source })?;
        // These give texts of errors, and error replies without a copy of the request; everything works
        // without them.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        // Where the privilege is missing, the size is what net.core.rmem_max allows.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER));
        let send_buffer = sockopt::socket_send_buffer_size(&socket).unwrap_or(0);
        let (buffer, counters) = (Vec::with_capacity(DATAGRAM), Counters::default());
        Ok(BatchSocket { socket, port_id, sequence: 0, send_buffer, buffer, counters })
    }

    /// Port that notifications of our own transactions carry.
    pub(crate) fn port_id(&self) -> u32 {
        self.port_id
    }

    /// Executes a transaction, if the ruleset is still of the given generation (`None`: of any).
    pub(crate) fn commit(
        &mut self,
        transaction: &Transaction,
        generation: Option<u32>,
    ) -> Result<Outcome, RulesError> {
        let (datagram, first) = self.assemble(transaction, generation);
        // The messages that begin and end it count, too.
        self.exchange(transaction, &datagram, (first, transaction.messages.len() + 2))
    }

    /// Waits until every transaction that has begun is over and the kernel has notified listeners of it: a
    /// transaction without messages waits for the others (`commit_mutex`, net/netfilter/nf_tables_api.c),
    /// changes nothing and gets no answer.
    pub(crate) fn settle(&mut self) -> Result<(), RulesError> {
        self.commit(&Transaction::default(), None).map(drop)
    }

    /// Has the kernel try a transaction that it drops in the end, because its end is missing: nothing changes. What
    /// nobody has refused counts as committed.
    pub(crate) fn try_out(&mut self, transaction: &Transaction) -> Result<Outcome, RulesError> {
        let (mut datagram, first) = self.assemble(transaction, None);
        datagram.truncate(datagram.len() - envelope(nft::BATCH_END, None).len());
        self.exchange(transaction, &datagram, (first, transaction.messages.len() + 1))
    }

    /// Sends the datagram of a transaction, of which the sequence number of its begin message and the number of its
    /// messages are given, and reads the answers.
    fn exchange(
        &mut self,
        transaction: &Transaction,
        datagram: &[u8],
        (first, messages): (u32, usize),
    ) -> Result<Outcome, RulesError> {
        self.discard_pending()?;
        self.reserve(datagram.len());
        self.counters.sends += 1;
        self.socket.send(datagram, 0).map_err(|source| RulesError::Send { bytes: datagram.len(), source })?;
        self.counters.messages_sent += messages as u64;
        self.counters.bytes_sent += datagram.len() as u64;
        self.collect(transaction, first)
    }

    /// Builds the whole datagram; returns it with the sequence number of its begin message.
    fn assemble(&mut self, transaction: &Transaction, generation: Option<u32>) -> (Vec<u8>, u32) {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = envelope(nft::BATCH_BEGIN, generation);
        let offset = datagram.len();
        datagram.extend_from_slice(&transaction.bytes);
        let end = datagram.len();
        datagram.extend(envelope(nft::BATCH_END, None));
        let inner = transaction.messages.iter().map(|message| offset + message.start);
        for at in std::iter::once(0).chain(inner).chain([end]) {
            self.sequence = self.sequence.wrapping_add(1);
            put(&mut datagram, at + SEQUENCE, self.sequence.to_ne_bytes());
            set_ack(&mut datagram, at, false);
        }
        if let Some(last) = transaction.messages.last() {
            set_ack(&mut datagram, offset + last.start, true);
        }
        (datagram, first)
    }

    /// Makes the send buffer large enough; if that is not possible, sending fails with EMSGSIZE.
    fn reserve(&mut self, bytes: usize) {
        let needed = bytes + SEND_OVERHEAD;
        if self.send_buffer < needed {
            let _ = sockopt::set_socket_send_buffer_size_force(&self.socket, needed)
                .or_else(|_| sockopt::set_socket_send_buffer_size(&self.socket, needed));
            self.send_buffer = sockopt::socket_send_buffer_size(&self.socket).unwrap_or(0);
        }
    }

    /// Reads all replies, which wait in the socket when sending returns.
    fn collect(&mut self, transaction: &Transaction, first: u32) -> Result<Outcome, RulesError> {
        let count = transaction.messages.len();
        let mut replies = Replies::default();
        while let Some(datagram) = self.receive(&mut replies.lost)? {
            let mut received = 0;
            for message in Messages::new(datagram) {
                received += 1;
                replies.take(&message, first, count);
            }
            self.counters.messages_received += received;
        }
        replies.outcome()
    }

    fn discard_pending(&mut self) -> Result<(), RulesError> {
        while self.receive(&mut false)?.is_some() {}
        Ok(())
    }

    /// Reads the next waiting datagram; sets `lost` if the kernel dropped some.
    fn receive(&mut self, lost: &mut bool) -> Result<Option<&[u8]>, RulesError> {
        loop {
            self.buffer.clear();
            self.counters.receives += 1;
            match self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => return Ok(Some(&self.buffer)),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => *lost = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(source) => return Err(netlink::Error::Receive { source }.into()),
            }
        }
    }
}

/// Answers of the kernel to a transaction.
#[derive(Default)]
pub(crate) struct Replies {
    acknowledged: bool,
    refusals: Vec<Refusal>,
    /// Error of the transaction as a whole: it answers the begin message.
    whole: Option<(i32, Option<String>)>,
    lost: bool,
}

impl Replies {
    pub(crate) fn take(&mut self, message: &Message<'_>, first: u32, count: usize) {
        let Some(reply) = message.reply() else { return };
        let offset = message.sequence.wrapping_sub(first) as usize;
        match (offset, reply.errno) {
            (0, 0) => {}
            (0, errno) => self.whole = Some((errno, reply.text)),
            (_, _) if offset > count => {}
            (_, 0) => self.acknowledged |= offset == count,
            (_, errno) => self.refusals.push(Refusal { message: offset - 1, errno, text: reply.text }),
        }
    }

    pub(crate) fn outcome(mut self) -> Result<Outcome, RulesError> {
        match self.whole {
            Some((libc::ERESTART, _)) => return Ok(Outcome::Outdated),
            Some((errno, text)) => {
                return Err(RulesError::Refused { source: io::Error::from_raw_os_error(errno), text });
            }
            None => {}
        }
        Ok(if !self.refusals.is_empty() {
            self.refusals.sort_by_key(|refusal| refusal.message);
            Outcome::Refused { refusals: self.refusals, replies_lost: self.lost }
        } else if self.lost || !self.acknowledged {
            Outcome::Unknown
        } else {
            Outcome::Committed
        })
    }
}

/// Builds a begin or end message.
fn envelope(kind: u16, generation: Option<u32>) -> Vec<u8> {
    let request = Request::new(kind, |buffer| {
        // This is struct nfgenmsg with the subsystem as its resource.
        buffer.put(&[nft::NFPROTO_UNSPEC, 0, 0, nft::SUBSYSTEM]);
        if let Some(generation) = generation {
            buffer.attribute_u32_be(nft::BATCH_GENERATION, generation);
        }
    });
    request.as_bytes().to_vec()
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(at..at + N) {
        field.copy_from_slice(&value);
    }
}

fn set_ack(bytes: &mut [u8], at: usize, ack: bool) {
    let Some(field) = bytes.get(at + FLAGS..).and_then(<[u8]>::first_chunk) else { return };
    let without = u16::from_ne_bytes(*field) & !flags::ACK;
    let value = if ack { without | flags::ACK } else { without };
    put(bytes, at + FLAGS, value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use netlink::kinds;

    use super::*;

    const FIRST: u32 = u32::MAX - 1;

    /// Result of a transaction of three messages when the kernel answers some of them; 0 is the begin
    /// message.
    fn outcome(answers: &[(u32, i32)], lost: bool) -> Result<Outcome, RulesError> {
        let mut replies = Replies { lost, ..Replies::default() };
        for (offset, errno) in answers {
            let payload = [(-errno).to_ne_bytes(), [0; 4]].concat();
            let sequence = FIRST.wrapping_add(*offset);
            let message = Message { kind: kinds::ERROR, flags: 0, sequence, port_id: 0, payload: &payload };
            replies.take(&message, FIRST, 3);
        }
        replies.outcome()
    }

    fn refused(messages: &[usize], replies_lost: bool) -> Outcome {
        let refusal = |message: &usize| Refusal { message: *message, errno: libc::ENOENT, text: None };
        Outcome::Refused { refusals: messages.iter().map(refusal).collect(), replies_lost }
    }

    #[test]
    fn only_an_acknowledged_transaction_is_committed() {
        assert_eq!(outcome(&[(3, 0)], false).unwrap(), Outcome::Committed);
        assert_eq!(outcome(&[(0, 0), (3, 0), (4, 0)], false).unwrap(), Outcome::Committed, "newer kernels");
        assert_eq!(outcome(&[], false).unwrap(), Outcome::Unknown);
        assert_eq!(outcome(&[(0, 0), (4, 0)], false).unwrap(), Outcome::Unknown);
        assert_eq!(outcome(&[(3, 0)], true).unwrap(), Outcome::Unknown);
    }

    #[test]
    fn refusals_are_found_by_sequence_number() {
        assert_eq!(outcome(&[(2, 2), (1, 2), (3, 0)], false).unwrap(), refused(&[0, 1], false));
        assert_eq!(outcome(&[(3, 2)], true).unwrap(), refused(&[2], true));
        assert_eq!(outcome(&[(5, 2), (77, 2), (3, 0)], false).unwrap(), Outcome::Committed, "not ours");
    }

    #[test]
    fn an_error_of_the_begin_message_concerns_everything() {
        assert_eq!(outcome(&[(0, libc::ERESTART)], false).unwrap(), Outcome::Outdated);
        let error = outcome(&[(0, libc::EPERM)], false).unwrap_err();
        assert!(error.is_permission_denied() && !error.is_retryable());
        assert!(outcome(&[(0, libc::EOPNOTSUPP)], false).unwrap_err().is_not_supported());
        assert!(
            outcome(&[(0, libc::ENOMEM), (3, 0)], false).unwrap_err().is_retryable(),
            "the commit failed"
        );
    }

    #[test]
    fn envelopes_are_exact() {
        let header = |len: u8, kind: u8| [len, 0, 0, 0, kind, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];
        assert_eq!(envelope(nft::BATCH_END, None), header(20, 17));
        let generation = [8, 0, 1, 0, 0, 0, 1, 2];
        assert_eq!(envelope(nft::BATCH_BEGIN, Some(0x102)), [&header(28, 16)[..], &generation].concat());
    }
}
