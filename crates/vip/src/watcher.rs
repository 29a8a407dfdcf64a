//! Reports of changes by others to our link or routes, and of changes to addresses of the node.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use dataplane::{ErrorKind, Touched};
use netlink::{Buffers, Protocol, RequestSocket, Subscription};
use netlink_packet_route::AddressFamily;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::{
    VipError,
    dump::{parse_address, parse_link},
    encode::{get_addresses, get_links},
    filter,
    interest::Interest,
};

/// Multicast groups RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_IFADDR,
/// RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE.
const GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];

/// Silence that ends a report. Changes seldom come alone: a deleted link takes its routes along, a new one
/// brings addresses. One report covers all that follow each other within [`QUIET_TIME`].
const QUIET_TIME: Duration = Duration::from_millis(10);

/// Time after the first change at which a report comes at the latest.
const LONGEST_DELAY: Duration = Duration::from_millis(200);

/// Pause before the second look at links and addresses, if others change them too fast for the first; doubled
/// each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Watcher of the network namespace of the thread that opened it. It blocks: give it a thread of its own that
/// forwards what [`VipWatcher::wait`] returns.
///
/// It reports that our link is deleted, renamed or down; that another port than our own, the kernel included,
/// has made, deleted or replaced one of our routes, or deleted one of our rules; and that any address but a loopback or IPv6 link-local
/// one comes or goes on any link. Addresses count not only as facts about the node: an IPv4 route vanishes
/// with its link, or with the last address of that, without a notification of its own (`fib_flush` in
/// net/ipv4/fib_frontend.c), and a route whose source goes keeps it or loses it, equally silently.
///
/// A report says that something may differ, never what: the reader observes and compares. Lost notifications
/// cause one on suspicion.
pub struct VipWatcher {
    subscription: Subscription,
    /// Socket for looking at links and addresses: at the start, and after lost notifications.
    socket: RequestSocket,
    interest: Interest,
    /// Set while `interest` is out of date, because the kernel interrupted every attempt to look: until a
    /// later one succeeds, every notification counts.
    blind: Option<Blind>,
}

/// Wait until the next attempt to look.
#[derive(Clone, Copy, Debug)]
struct Blind {
    next: Instant,
    pause: Duration,
}

impl Blind {
    fn now() -> Self {
        Blind { next: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Pause after one more attempt that failed.
    fn later(self) -> Self {
        Blind { next: Instant::now() + self.pause, pause: (self.pause * 2).min(LONGEST_PAUSE) }
    }
}

impl VipWatcher {
    /// Opens a watcher that listens from now on. `own_port` is [`crate::VipClient::port_id`], whose changes
    /// it leaves out.
    pub fn open(own_port: u32) -> Result<Self, VipError> {
        let mut subscription = Subscription::open(Protocol::ROUTE, &GROUPS)?;
        filter::attach(&subscription, own_port)?;
        subscription.ignore_port(own_port);
        let socket = RequestSocket::open(Protocol::ROUTE, &Buffers::default())?;
        let mut watcher =
            VipWatcher { subscription, socket, interest: Interest::default(), blind: Some(Blind::now()) };
        // Looking after subscribing leaves no gap in which a change could go unnoticed.
        watcher.look_if_due()?;
        Ok(watcher)
    }

    /// Waits until somebody touches something, at most for `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Touched>, VipError> {
        let deadline = Instant::now() + timeout;
        while !self.drain()? {
            if Instant::now() > deadline {
                return Ok(None);
            }
            let look = self.blind.map_or(deadline, |blind| blind.next);
            self.is_readable_until(deadline.min(look))?;
        }
        let latest = Instant::now() + LONGEST_DELAY;
        while Instant::now() < latest && self.is_readable_until(latest.min(Instant::now() + QUIET_TIME))? {
            self.drain()?;
        }
        Ok(Some(Touched::Vips))
    }

    /// Reads the waiting notifications, in a storm only some of them; tells whether any of them counts.
    fn drain(&mut self) -> Result<bool, VipError> {
        let VipWatcher { subscription, interest, blind, .. } = self;
        let mut touched = false;
        let drained = subscription.drain(|message| touched |= interest.judge(message) || blind.is_some())?;
        if drained.lost {
            self.blind = Some(Blind::now());
        }
        Ok(self.look_if_due()? || touched || drained.lost)
    }

    /// Looks at links and addresses if that is due, and tells whether it did: a change may have gone unheard.
    ///
    /// The kernel may interrupt every attempt while a node is busy. That is no failure: a later attempt
    /// follows.
    fn look_if_due(&mut self) -> Result<bool, VipError> {
        let Some(blind) = self.blind.filter(|blind| blind.next <= Instant::now()) else {
            return Ok(false);
        };
        match look(&mut self.socket) {
            Ok(interest) => (self.interest, self.blind) = (interest, None),
            Err(error) if error.kind() == ErrorKind::Transient => self.blind = Some(blind.later()),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn is_readable_until(&self, deadline: Instant) -> Result<bool, VipError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left =
                Timespec { tv_sec: left.as_secs().min(86_400) as i64, tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(&self.subscription, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
        }
    }
}

/// Reads the state against which later notifications are judged.
fn look(socket: &mut RequestSocket) -> Result<Interest, VipError> {
    let mut interest = Interest::default();
    for link in socket.dump(&get_links(None), parse_link)?.iter() {
        interest.note_link(link);
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let addresses = socket.dump(&get_addresses(family), parse_address)?;
        for address in addresses {
            interest.note_address(address);
        }
    }
    Ok(interest)
}

impl AsFd for VipWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.subscription.as_fd()
    }
}
