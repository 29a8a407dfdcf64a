//! Clients that send and get no answer.
//!
//! Readings are snapshots of the past: counters of traffic are up to [`STALE`] old, and polls may be far
//! apart. So a packet that one reading shows without its answer is as good as answered; only a later reading
//! tells, at least [`SETTLED`] later. Silence therefore counts from the first reading that shows something
//! unanswered, and never from the last one that did not.
//!
//! For the same reason nothing that is compared with a reading of the first [`STALE`] is judged: a client
//! that had sent something and reset its connection just before the first one would look like one that waits.

use lb_types::IpFamily;

use crate::{Time, drain::Reading};

/// Counters are up to so old: the kernel sums them up every 2 s (`IP_VS_EST_TICK`,
/// net/netfilter/ipvs/ip_vs_est.c).
pub(crate) const STALE: Time = Time::from_secs(2);

/// Time after which a reading shows every answer to what an earlier one has shown: a living host takes a
/// second at most.
const SETTLED: Time = STALE.saturating_add(Time::from_secs(1));

/// Readings with packets that nobody has to answer after which somebody should have: clients of a dead pod
/// repeat theirs.
const REPEATED: u8 = 3;

/// Such packets further apart have nothing to do with each other; clients repeat theirs after 0.2, 0.4, ...
/// 6.4 s.
const APART: Time = Time::from_secs(10);

/// Packets that a client may have sent without an answer before it reset its connection, the reset included:
/// the initial window of TCP (RFC 6928) and one.
const LAST_WORDS: u64 = 11;

/// Clients of one real server that may wait for an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Silence {
    /// Times of the first reading and of the last.
    readings: Option<(Time, Time)>,
    waiting: Waiting,
    /// Packets of clients since the last answer.
    packets: u64,
    /// Readings that showed fewer active connections than the one before, and how many fewer. Those whose
    /// last packets the counters had shown at the last answer are left out.
    ended: Vec<(Time, u64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waiting {
    /// They have sent nothing that must be answered.
    #[default]
    No,
    /// They have sent something that nobody has to answer, such as a last ACK or a window update.
    Perhaps {
        /// Readings that have shown it, each so much later than the one before that they show different
        /// packets.
        repeats: u8,
        /// The last of those readings.
        last: Time,
    },
    /// They have sent data, which a living host acknowledges within a fraction of a second, or something
    /// again and again.
    Surely {
        /// The first reading that has shown it.
        since: Time,
    },
}

impl Silence {
    /// Compares a reading with the one before it, if there is one.
    ///
    /// An ICMP error that IPVS passes on to the client counts as a packet to it (`handle_response_icmp`,
    /// net/netfilter/ipvs/ip_vs_core.c). Routers report the address of a vanished pod as unreachable; our
    /// packet rules keep that from IPVS.
    pub(crate) fn observe(
        &mut self,
        now: Time,
        before: Option<&Reading>,
        reading: &Reading,
        family: IpFamily,
    ) {
        let (first, last) = self.readings.unwrap_or((now, now));
        self.readings = Some((first, now));
        let Some(before) = before else { return };
        let ended = u64::from(before.0.active.saturating_sub(reading.0.active));
        self.ended.extend((ended > 0).then_some((now, ended)));
        if reading.0.active == 0 || reading.1.packets_out != before.1.packets_out {
            return self.answered(now);
        }
        let packets = reading.1.packets_in.saturating_sub(before.1.packets_in);
        let bytes = reading.1.bytes_in.saturating_sub(before.1.bytes_in);
        if last < first + STALE {
            if packets > 0 && self.waiting == Waiting::No {
                self.waiting = repeated(0, now);
            }
            return;
        }
        let data = packets > 0 && bytes > packets * longest_without_data(family);
        self.packets += packets;
        self.waiting = match self.waiting {
            _ if self.is_explained() => Waiting::No,
            Waiting::Surely { since } => Waiting::Surely { since },
            _ if data => Waiting::Surely { since: now },
            waiting if packets == 0 => waiting,
            waiting @ Waiting::Perhaps { last, .. } if now.saturating_sub(last) < SETTLED => waiting,
            Waiting::Perhaps { repeats, last } if now.saturating_sub(last) <= APART => {
                repeated(repeats + 1, now)
            }
            Waiting::No | Waiting::Perhaps { .. } => repeated(1, now),
        };
    }

    /// Something came back, or nobody waits. What ended just before may still be counted after that.
    fn answered(&mut self, now: Time) {
        self.ended.retain(|(at, _)| now.saturating_sub(*at) < STALE);
        (self.waiting, self.packets) = (Waiting::No, 0);
    }

    /// Tells whether clients that have reset their connections may have sent all of it: nobody answers that.
    fn is_explained(&self) -> bool {
        let ended: u64 = self.ended.iter().map(|(_, ended)| ended).sum();
        self.packets <= LAST_WORDS.saturating_mul(ended)
    }

    /// Time at which clients will have waited for so long; `None` unless they wait for certain.
    pub(crate) fn lasts_until(&self, limit: Time) -> Option<Time> {
        match self.waiting {
            Waiting::Surely { since } => Some(since.saturating_add(limit.max(SETTLED))),
            Waiting::No | Waiting::Perhaps { .. } => None,
        }
    }

    /// Time at which the next reading could tell.
    pub(crate) fn decided_at(&self, now: Time, limit: Time) -> Option<Time> {
        match self.waiting {
            // The second of them may come late without being too late.
            Waiting::Perhaps { last, .. } => {
                [last + SETTLED, last + APART - STALE].into_iter().find(|decision| *decision > now)
            }
            Waiting::No | Waiting::Surely { .. } => self.lasts_until(limit),
        }
    }
}

fn repeated(repeats: u8, now: Time) -> Waiting {
    if repeats >= REPEATED { Waiting::Surely { since: now } } else { Waiting::Perhaps { repeats, last: now } }
}

/// No packet without data is longer: 20 bytes of IPv4 or 40 of IPv6, 20 of TCP, 40 of its options.
const fn longest_without_data(family: IpFamily) -> u64 {
    match family {
        IpFamily::V4 => 80,
        IpFamily::V6 => 100,
    }
}
