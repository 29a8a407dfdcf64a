//! Who else touches our table.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    time::{Duration, Instant},
};

use netlink::{Protocol, Subscription};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::{RulesError, filter, nft, observed};

/// Reports changes of the table `inet kube-ipvs` that are not our own, including its deletion (`nft flush ruleset`).
///
/// Meant for a thread that calls [`RulesWatcher::wait`] in a loop, or for a loop that polls the descriptor and calls
/// [`RulesWatcher::poll`].
pub struct RulesWatcher {
    subscription: Subscription,
}

impl RulesWatcher {
    /// Subscribes, in the network namespace of the calling thread. `own_port` is [`crate::RulesClient::port_id`].
    pub fn open(own_port: u32) -> Result<Self, RulesError> {
        let mut subscription = Subscription::open(Protocol::NETFILTER, &[nft::GROUP])?;
        subscription.ignore_port(own_port);
        // Our own transactions can be larger than the buffer: they must not even get there.
        filter::drop_port(subscription.as_fd(), own_port).map_err(RulesError::Wait)?;
        Ok(RulesWatcher { subscription })
    }

    /// Waits until somebody else touches the table, at most for `timeout`. Returns whether that happened.
    ///
    /// However many changes were waiting, they are one report.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, RulesError> {
        let start = Instant::now();
        loop {
            if self.poll()? {
                return Ok(true);
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            self.wait_readable(left)?;
        }
    }

    /// Whether somebody else has touched the table since the last call; never blocks.
    ///
    /// Also true if notifications were lost.
    pub fn poll(&mut self) -> Result<bool, RulesError> {
        let mut touched = false;
        loop {
            let drained = self.subscription.drain(|message| touched |= observed::is_ours(message))?;
            touched |= drained.lost;
            if !drained.more {
                return Ok(touched);
            }
        }
    }

    fn wait_readable(&self, timeout: Duration) -> Result<(), RulesError> {
        // Longer than anybody waits, where the duration does not fit.
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1 << 30, tv_nsec: 0 });
        let mut fds = [PollFd::new(&self.subscription, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(RulesError::Wait(io::Error::from(e))),
        }
    }
}

impl AsFd for RulesWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.subscription.as_fd()
    }
}

impl AsRawFd for RulesWatcher {
    fn as_raw_fd(&self) -> RawFd {
        self.subscription.as_raw_fd()
    }
}
