//! Requests, dumps and batches over one socket.

use std::io;

use crate::{
    Batch, BatchOutcome, Buffers, Counters, Error, Message, Messages, Protocol, Request,
    batch::{Execution, Limits},
    encode::{add_flags, set_sequence},
    socket::{RawSocket, Received},
    wire::{flags, kinds},
};

/// Attempts at a dump or request that is interrupted, whose replies are lost, or whose table is busy.
const ATTEMPTS: usize = 10;

/// A socket for requests, in the network namespace of the thread that opened it.
///
/// It has no subscriptions: lost notifications would look like lost replies.
pub struct RequestSocket {
    socket: RawSocket,
    /// Last sequence number that was used.
    sequence: u32,
    limits: Limits,
    /// True if an exchange did not come to its end: the socket may still hold replies to it.
    unfinished: bool,
}

impl RequestSocket {
    /// Opens a socket.
    pub fn open(protocol: Protocol, buffers: &Buffers) -> Result<Self, Error> {
        let socket = RawSocket::open(protocol, buffers)?;
        let limits = Limits::within(socket.granted());
        Ok(RequestSocket { socket, sequence: 0, limits, unfinished: false })
    }

    /// Makes the kernel honour the filters in dump requests (`NETLINK_GET_STRICT_CHK`; routes: table,
    /// protocol).
    pub fn set_strict_check(&self) -> Result<(), Error> {
        self.socket.set_strict_check()
    }

    /// The port that notifications of our own changes carry ([`Message::port_id`]).
    pub fn port_id(&self) -> u32 {
        self.socket.port_id()
    }

    /// Numbers of system calls, messages and bytes of the socket so far.
    pub fn counters(&self) -> Counters {
        self.socket.counters
    }

    /// Executes all messages of a batch, in order, in as few datagrams as the buffers allow.
    ///
    /// A refused message does not stop the others. The call returns when the kernel has executed or refused
    /// everything. An error means that some datagram could not be sent: those before it were executed, those
    /// from it on were not. The batch can be executed again afterwards.
    pub fn execute(&mut self, batch: &mut Batch) -> Result<BatchOutcome, Error> {
        let limits = self.limits;
        self.execute_within(batch, limits)
    }

    /// Tells whether a batch leaves no room for another ordinary message in its first datagram: a good moment
    /// to execute it and go on with the same memory.
    pub fn is_datagram_full(&self, batch: &Batch) -> bool {
        self.limits.are_reached_by(batch)
    }

    pub(crate) fn execute_within(
        &mut self,
        batch: &mut Batch,
        limits: Limits,
    ) -> Result<BatchOutcome, Error> {
        self.begin_exchange()?;
        let (socket, sequence) = (&mut self.socket, &mut self.sequence);
        let result = Execution { socket, sequence, outcome: BatchOutcome::default() }.run(batch, limits);
        // An execution without an error reads replies until there are none.
        self.unfinished = result.is_err();
        result
    }

    /// Sends one request and returns what `parse` reads from each message of the answer.
    ///
    /// It repeats the request when replies are lost, so the request should be a read, or a write that may be
    /// executed twice; use a [`Batch`] for other writes.
    pub fn request<T>(
        &mut self,
        request: &Request,
        parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.exchange(request, flags::ACK, parse)
    }

    /// Dumps a table and returns what `parse` reads from each message.
    ///
    /// It starts again when the kernel says that the table changed meanwhile, when the socket is busy, or
    /// when replies are lost; after ten attempts it returns an error for which [`Error::is_retryable`] holds.
    pub fn dump<T>(
        &mut self,
        request: &Request,
        parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.exchange(request, flags::DUMP, parse)
    }

    fn exchange<T>(
        &mut self,
        request: &Request,
        extra_flags: u16,
        mut parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        if request.malformed {
            return Err(Error::Malformed { index: 0 });
        }
        let mut bytes = request.bytes.clone();
        add_flags(&mut bytes, extra_flags);
        let mut attempt = 1;
        loop {
            let mut items = Vec::new();
            match self.attempt(&mut bytes, &mut |message| items.extend(parse(message))) {
                Ok(()) => return Ok(items),
                Err(e) if e.is_retryable() && attempt < ATTEMPTS => attempt += 1,
                Err(Error::DumpInterrupted { .. }) => {
                    return Err(Error::DumpInterrupted { attempts: attempt });
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends one message and reads until its exchange ends, also when a reply was lost on the way, because an
    /// unfinished dump keeps the socket busy.
    fn attempt(&mut self, bytes: &mut [u8], each: &mut dyn FnMut(&Message<'_>)) -> Result<(), Error> {
        self.begin_exchange()?;
        self.sequence = self.sequence.wrapping_add(1);
        set_sequence(bytes, self.sequence);
        self.socket.send(bytes, 1)?;
        let mut fault = None;
        loop {
            match self.socket.receive()? {
                Received::Datagram => {}
                Received::Truncated { size } => {
                    fault = Some(Error::Truncated { size });
                    continue;
                }
                Received::Overrun => {
                    fault = Some(Error::RepliesLost);
                    continue;
                }
                Received::Nothing => return Err(fault.unwrap_or(Error::RepliesLost)),
            }
            let read = read_datagram(self.socket.datagram(), self.sequence, each);
            self.socket.counters.messages_received += read.messages;
            if read.interrupted {
                fault = Some(Error::DumpInterrupted { attempts: 1 });
            }
            if let Some(end) = read.end {
                self.unfinished = false;
                if matches!(fault, Some(Error::DumpInterrupted { .. })) {
                    self.socket.counters.dumps_interrupted += 1;
                }
                return end.and_then(|()| fault.map_or(Ok(()), Err));
            }
        }
    }

    /// Reads and drops what an earlier exchange has left, if that has not come to its end.
    fn begin_exchange(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.unfinished, true) {
            while self.socket.receive()? != Received::Nothing {}
        }
        Ok(())
    }
}

/// Result of reading one datagram of an exchange.
#[derive(Debug, Default)]
struct Read {
    /// Result of the exchange, if it ends here.
    end: Option<Result<(), Error>>,
    /// True if the table changed during the dump.
    interrupted: bool,
    messages: u64,
}

/// Hands on the messages that belong to the exchange with that sequence number.
fn read_datagram(datagram: &[u8], sequence: u32, each: &mut dyn FnMut(&Message<'_>)) -> Read {
    let mut read = Read::default();
    for message in Messages::new(datagram) {
        read.messages += 1;
        if message.sequence != sequence || read.end.is_some() {
            continue;
        }
        read.interrupted |= message.flags & flags::DUMP_INTR != 0 && message.kind != kinds::ERROR;
        match message.reply() {
            Some(reply) if reply.errno == 0 => read.end = Some(Ok(())),
            Some(reply) => {
                let source = io::Error::from_raw_os_error(reply.errno);
                read.end = Some(Err(Error::Refused { source, text: reply.text }));
            }
            None if message.kind > kinds::OVERRUN => each(&message),
            None => {}
        }
    }
    read
}

#[cfg(test)]
mod tests;
