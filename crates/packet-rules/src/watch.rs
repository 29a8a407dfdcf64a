//! Watcher of changes that others make to our table.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use dataplane::Touched;
use netlink::{Membership, Protocol, Subscription};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{RulesError, filter, nft, observed};

/// Silence that ends a report. Changes seldom come alone: a deleted table has a notification for everything
/// in it. One report covers all that follow each other within [`QUIET`].
const QUIET: Duration = Duration::from_millis(10);

/// Time after the first change at which a report comes at the latest.
const AT_LATEST: Duration = Duration::from_millis(200);

/// Watcher of the network namespace of the thread that opened it. It blocks: give it a thread of its own that
/// forwards what [`RulesWatcher::wait`] returns.
///
/// It reports every change of a table `kube-ipvs` by another port than our own, its deletion by `nft
/// flush ruleset` included. A report says that something may differ, never what. Lost notifications cause one
/// on suspicion.
pub struct RulesWatcher {
    subscription: Subscription,
    /// Set by a [`Silencer`]: others may have changed something while the watcher heard nothing.
    missed: Arc<AtomicBool>,
}

/// Keeps the kernel from notifying a watcher of our own large transactions.
///
/// If anybody listens, the kernel builds a notification for every element, only for the watcher's filter to
/// drop it: several times the work of adding the element.
#[derive(Clone)]
pub(crate) struct Silencer {
    membership: Membership,
    missed: Arc<AtomicBool>,
}

impl Silencer {
    /// Makes the watcher hear nothing from now on.
    pub(crate) fn begin(&self) -> Result<(), RulesError> {
        Ok(self.membership.leave()?)
    }

    /// Makes the watcher hear everything again.
    pub(crate) fn end(&self) -> Result<(), RulesError> {
        Ok(self.membership.join()?)
    }

    /// Notes that the watcher missed something; it reports that at the latest when it is asked the next time.
    pub(crate) fn missed(&self) {
        self.missed.store(true, Ordering::Release);
    }
}

impl RulesWatcher {
    /// Opens a watcher that listens from now on. `own_port` is [`crate::RulesClient::port_id`], whose changes
    /// it leaves out.
    pub fn open(own_port: u32) -> Result<Self, RulesError> {
        let mut subscription = Subscription::open(Protocol::NETFILTER, &[nft::GROUP])?;
        subscription.ignore_port(own_port);
        filter::drop_port(&subscription, own_port).map_err(RulesError::Watch)?;
        Ok(RulesWatcher { subscription, missed: Arc::default() })
    }

    pub(crate) fn silencer(&self) -> Silencer {
        let membership = self.subscription.membership(Protocol::NETFILTER, nft::GROUP);
        Silencer { membership, missed: Arc::clone(&self.missed) }
    }

    /// Waits until somebody else touches the table, at most for `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Touched>, RulesError> {
        let deadline = Instant::now() + timeout;
        while !self.drain()? {
            if Instant::now() > deadline || !self.is_readable_until(deadline)? {
                return Ok(None);
            }
        }
        let latest = Instant::now() + AT_LATEST;
        while Instant::now() < latest && self.is_readable_until(latest.min(Instant::now() + QUIET))? {
            self.drain()?;
        }
        Ok(Some(Touched::Rules))
    }

    /// Reads the waiting notifications, in a storm only some of them; tells whether any of them counts.
    fn drain(&mut self) -> Result<bool, RulesError> {
        let mut touched = false;
        let drained = self.subscription.drain(|message| touched |= observed::is_ours(message))?;
        Ok(touched || drained.lost || self.missed.swap(false, Ordering::Acquire))
    }

    fn is_readable_until(&self, deadline: Instant) -> Result<bool, RulesError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left =
                Timespec { tv_sec: left.as_secs().min(86_400) as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.subscription, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(RulesError::Watch(io::Error::from(e))),
            }
        }
    }
}

impl AsFd for RulesWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.subscription.as_fd()
    }
}
