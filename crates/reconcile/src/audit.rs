//! The audit: it dumps the kernel and compares it with the mirror, a part at a time, so that events never
//! wait long, and with a budget, so that it stays cheap however large the tables are.
//!
//! Every [`Part`] has a round of its own, which begins every sync period. After a slice the part rests until
//! the slice is no more than its share of a core ([`Part::share`]). So large tables are compared as often as
//! half a percent of a core allows. Small ones ([`SLICES_OF_SMALL`]) are compared completely every sync
//! period, however slow the machine or short the period. Routes and packet rules get the smaller shares,
//! because netlink reports when others change them; nothing reports changes of IPVS.
//!
//! A part that is requested ([`Audit::request`]) is due at once and does not rest: something has failed, and
//! the mirror is not to be trusted.

use std::{ops::Bound, time::Duration};

use dataplane::TableError;
use drain::{Backoff, Share, Time};
use lb_types::VirtualServerId;
use planner::{Dirty, Mirror, Subject};
use tracing::warn;

use crate::{
    Report,
    kernel::{Findings, Ours},
    problems::chain,
    syncer::Syncer,
};

/// Virtual servers whose real servers are dumped in one slice; the bound on how long an event may have to
/// wait.
const SERVERS_PER_SLICE: usize = 4;

/// Slices of real servers up to which a table is small.
const SLICES_OF_SMALL: u32 = 8;

/// Delays of a part after a failed dump.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(30) };

/// Part of the kernel that is compared in one go; parts that are due together have their turns in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// List of virtual servers with their settings.
    Servers,
    /// Link, routes, addresses; and the kernel parameters, which cost next to nothing.
    Vips,
    /// The nftables table with all elements.
    Rules,
    /// The real servers of some virtual servers.
    RealServers,
}

impl Part {
    const ALL: [Part; 4] = [Part::Servers, Part::Vips, Part::Rules, Part::RealServers];

    /// Share of a core. All shares together are half a percent.
    const fn share(self) -> Share {
        match self {
            Part::Servers | Part::RealServers => Share::one_of(500),
            Part::Vips | Part::Rules => Share::one_of(2000),
        }
    }
}

/// Schedule of a part.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// Begin of its next round.
    round: Time,
    /// End of the rest that pays off its last slice.
    rest: Time,
    /// True if its round begins, or goes on, at once.
    requested: bool,
    /// Failures since its last success; each requests the part again, but not at once.
    failures: u32,
    /// Earliest time for another try after a failure.
    wait: Time,
}

/// Progress of the audit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit {
    /// Time between the beginnings of two rounds of a part.
    period: Duration,
    turns: [Turn; Part::ALL.len()],
    /// The virtual server whose real servers were compared last in this round; `None` between rounds.
    reached: Option<VirtualServerId>,
}

impl Audit {
    /// Begins all rounds a period from now; requested parts stay requested.
    pub(crate) fn schedule(&mut self, now: Time, period: Duration) {
        self.period = period;
        for turn in &mut self.turns {
            turn.round = now + period;
        }
    }

    /// Begins all rounds as soon as possible: the mirror is not to be trusted.
    pub(crate) fn request(&mut self) {
        for turn in &mut self.turns {
            turn.requested = true;
        }
        self.reached = None;
    }

    /// Time at which the next part is due; it may lie in the past.
    pub(crate) fn next_due(&self) -> Time {
        self.next().1
    }

    fn next(&self) -> (Part, Time) {
        let due = |part: Part| (part, self.due(part));
        Part::ALL.into_iter().map(due).min_by_key(|(_, due)| *due).unwrap_or((Part::Servers, Time::MAX))
    }

    fn due(&self, part: Part) -> Time {
        let turn = self.turns[part as usize];
        match part {
            _ if turn.failures > 0 => turn.wait.max(turn.rest),
            _ if turn.requested => Time::ZERO,
            Part::RealServers if self.reached.is_some() => turn.rest,
            _ => turn.round.max(turn.rest),
        }
    }

    fn turn(&mut self, part: Part) -> &mut Turn {
        &mut self.turns[part as usize]
    }

    /// Notes that a dump was interrupted or refused: the part is still necessary.
    fn failed(&mut self, part: Part, now: Time) {
        let turn = self.turn(part);
        turn.failures = turn.failures.saturating_add(1);
        turn.wait = now + BACKOFF.delay(turn.failures);
        turn.requested = true;
    }

    /// Accounts for the processor time of a slice, which ended at `now`.
    pub(crate) fn charge(&mut self, part: Part, took: Duration, now: Time, mirror: &Mirror) {
        let rest = part.share().pause(took).min(self.longest_rest(mirror));
        self.turn(part).rest = now.saturating_add(rest);
    }

    /// Longest rest of a part.
    fn longest_rest(&self, mirror: &Mirror) -> Duration {
        let slices = mirror.servers.len().div_ceil(SERVERS_PER_SLICE);
        let is_small = u32::try_from(slices).is_ok_and(|slices| slices <= SLICES_OF_SMALL);
        if is_small { self.period / SLICES_OF_SMALL } else { Duration::MAX }
    }

    /// Compares the part that is due next. The next step repairs what this one finds, so that the cost of
    /// this step is the cost of the audit.
    pub(crate) fn compare_next(&mut self, syncer: &mut Syncer, now: Time, report: &mut Report) -> Part {
        let (part, _) = self.next();
        let mut findings = Findings::default();
        let reached = self.reached;
        match self.compare(part, syncer, now, (&mut findings, report)) {
            Ok(()) => self.turn(part).failures = 0,
            Err(error) => {
                warn!("audit: {}; will be tried again", chain(&error));
                self.failed(part, now);
                self.reached = reached;
            }
        }
        syncer.keep(findings, now);
        part
    }

    fn compare(
        &mut self,
        part: Part,
        syncer: &mut Syncer,
        now: Time,
        (findings, report): (&mut Findings, &mut Report),
    ) -> Result<(), TableError> {
        if part == Part::RealServers {
            return self.compare_real_servers(syncer, now, findings);
        }
        let round = now + self.period;
        let turn = self.turn(part);
        (turn.round, turn.requested) = (round, false);
        match part {
            Part::Vips => syncer.observe_vips(findings, report),
            Part::Rules => {
                let Syncer { node_findings, kernel, intents, .. } = syncer;
                report.findings |= node_findings.check_forwarding(kernel, intents);
                kernel.observe_rules(&intents.config.layout, findings).map(drop)
            }
            Part::Servers | Part::RealServers => {
                syncer.intents.look_for_schedulers(&mut syncer.kernel, now);
                syncer.kernel.observe_servers(syncer.intents.ours(), findings)?;
                findings.dirty.extend(unwanted(syncer));
                syncer.observe_traffic()
            }
        }
    }

    /// Compares the real servers of the next few virtual servers: those behind the one that was reached, or
    /// the first ones of a new round.
    fn compare_real_servers(
        &mut self,
        syncer: &mut Syncer,
        now: Time,
        findings: &mut Findings,
    ) -> Result<(), TableError> {
        if self.reached.is_none() {
            self.turn(Part::RealServers).round = now + self.period;
            syncer.full.forget_unwanted(&syncer.intents.desired);
        }
        let (ours, mirror) = (syncer.intents.ours(), &syncer.kernel.mirror);
        let from = self.reached.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = mirror.servers.range((from, Bound::Unbounded)).map(|(vs, _)| *vs);
        let slice: Vec<_> = behind.filter(|vs| ours.has(vs, mirror)).take(SERVERS_PER_SLICE).collect();
        self.reached = slice.last().copied().filter(|_| slice.len() == SERVERS_PER_SLICE);
        if self.reached.is_none() {
            self.turn(Part::RealServers).requested = false;
        }
        let mut result = Ok(());
        for vs in slice {
            // A virtual server that cannot be dumped does not keep those behind it from being compared.
            match syncer.kernel.observe_real_servers(vs, syncer.intents.ours(), findings) {
                Ok(observed) => syncer.note_full(vs, &observed),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}

/// Fronts of ours that no Service wants: their virtual servers may have become ours, or empty, without a
/// write.
fn unwanted(syncer: &Syncer) -> Dirty {
    let Ours { desired, ownership } = syncer.intents.ours();
    let mirror = &syncer.kernel.mirror;
    let ours = mirror.servers.keys().filter(|vs| ownership.owns(vs, mirror));
    let unwanted = ours.filter_map(|vs| mirror.front(vs)).filter(|front| desired.front(front).is_none());
    unwanted.map(Subject::Front).collect()
}
