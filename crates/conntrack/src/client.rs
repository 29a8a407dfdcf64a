//! The client, which dumps, compares and deletes.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::{ConntrackTable, TableError};
use lb_types::{ConntrackFilter, IpFamily, Protocol};
use netlink::{Batch, BatchOutcome, Buffers, Counters, Protocol as Netlink, RequestSocket};

use crate::{
    Error,
    codec::{self, Key, Narrowing, Tracked},
};

/// Client of the connection tracking of the network namespace in which it was opened.
///
/// A dump walks the whole table inside a system call: give it a thread that may be busy for some
/// milliseconds.
pub struct ConntrackClient {
    socket: RequestSocket,
    /// Encoded messages; kept between calls for the memory.
    batch: Batch,
    /// True while the kernel is not known to refuse filters in dumps.
    narrows: bool,
}

impl ConntrackClient {
    /// Opens the table of the network namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        let socket = RequestSocket::open(Netlink::NETFILTER, &Buffers::default()).map_err(Error::Open)?;
        Ok(ConntrackClient { socket, batch: Batch::new(), narrows: true })
    }

    /// Numbers of system calls, messages and bytes of the socket so far.
    pub fn counters(&self) -> Counters {
        self.socket.counters()
    }

    fn delete(&mut self, filters: &[ConntrackFilter]) -> Result<usize, Error> {
        let mut groups: BTreeMap<(IpFamily, Protocol), BTreeSet<Key>> = BTreeMap::new();
        for filter in filters {
            let service = filter.front.port;
            let family = IpFamily::of(service.addr);
            groups.entry((family, service.protocol)).or_default().insert(Key::of(filter));
        }
        let mut deleted = 0;
        for ((family, protocol), wanted) in groups {
            let tracked = self.find(family, protocol, &wanted)?;
            deleted += self.delete_tracked(family, &tracked)?;
        }
        Ok(deleted)
    }

    /// Finds the tracked connections that are wanted. The kernel's filter only saves work: each is compared
    /// here.
    fn find(
        &mut self,
        family: IpFamily,
        protocol: Protocol,
        wanted: &BTreeSet<Key>,
    ) -> Result<Vec<Tracked>, Error> {
        let dump = |socket: &mut RequestSocket, narrowing: Option<&Narrowing>| {
            let request = codec::dump_request(family, narrowing);
            socket.dump(&request, |message| codec::parse_tracked(message, protocol, wanted))
        };
        let is_refused = |e: &netlink::Error| matches!(e.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP));
        if self.narrows {
            match dump(&mut self.socket, Some(&Narrowing::to(protocol, wanted))) {
                Err(error) if is_refused(&error) => self.narrows = false,
                result => return result.map_err(Error::Dump),
            }
        }
        // A refusal also without a filter is the answer of nfnetlink_rcv_msg (net/netfilter/nfnetlink.c)
        // where the subsystem's module is missing.
        dump(&mut self.socket, None)
            .map_err(|error| if is_refused(&error) { Error::Missing(error) } else { Error::Dump(error) })
    }

    /// Deletes tracked connections and counts them; those that have ended meanwhile do not count.
    fn delete_tracked(&mut self, family: IpFamily, tracked: &[Tracked]) -> Result<usize, Error> {
        if tracked.is_empty() {
            return Ok(0);
        }
        self.batch.clear();
        for one in tracked {
            codec::push_delete(&mut self.batch, family, one);
        }
        let outcome = self.socket.execute(&mut self.batch).map_err(Error::Delete)?;
        count_deleted(tracked.len(), outcome)
    }
}

/// Counts the deleted ones among the tracked connections that a batch named; fails if answers of the kernel
/// were lost, because it may have refused any of them.
fn count_deleted(named: usize, outcome: BatchOutcome) -> Result<usize, Error> {
    let gone = outcome.failures.len();
    match outcome.failures.into_iter().find(|failure| failure.errno != libc::ENOENT) {
        Some(failure) => Err(Error::Delete(failure.into())),
        None if outcome.replies_lost => Err(Error::Delete(netlink::Error::RepliesLost)),
        None => Ok(named - gone),
    }
}

impl ConntrackTable for ConntrackClient {
    fn dumps_interrupted(&self) -> u64 {
        self.counters().dumps_interrupted
    }

    fn delete_flows(&mut self, filters: &[ConntrackFilter]) -> Result<usize, TableError> {
        Ok(self.delete(filters)?)
    }
}

#[cfg(test)]
mod tests {
    use dataplane::ErrorKind;
    use netlink::Failure;

    use super::*;

    fn check(errnos: &[i32], replies_lost: bool, expect: Result<usize, ErrorKind>) {
        let failure = |(index, errno): (usize, &i32)| Failure { index, errno: *errno, text: None };
        let failures = errnos.iter().enumerate().map(failure).collect();
        let result = count_deleted(3, BatchOutcome { failures, replies_lost });
        let result = result.map_err(|error| TableError::from(error).kind);
        assert_eq!(result, expect, "{errnos:?}, replies lost: {replies_lost}");
    }

    #[test]
    fn only_what_was_certainly_deleted_is_counted() {
        check(&[], false, Ok(3));
        check(&[libc::ENOENT], false, Ok(2));
        check(&[libc::ENOENT, libc::EPERM], false, Err(ErrorKind::PermissionDenied));
        // Any other failure may have been among the answers.
        check(&[], true, Err(ErrorKind::Transient));
        check(&[libc::ENOENT], true, Err(ErrorKind::Transient));
        check(&[libc::EPERM], true, Err(ErrorKind::PermissionDenied));
    }
}
