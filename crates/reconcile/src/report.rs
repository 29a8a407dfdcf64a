//! Report of a step.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::AddAssign,
};

use drain::{Outcome, Time};
use lb_types::{IpFamily, Scheduler, words};
use service_model::Trigger;

use crate::Part;

words! {
    /// Table of the kernel, as metrics name it.
    TableName {
        /// Virtual servers and real servers.
        Ipvs = "ipvs",
        /// Link, routes and addresses.
        Vips = "vips",
        /// The nftables table.
        Rules = "rules",
        /// Kernel parameters.
        Sysctls = "sysctls",
        /// Tracked connections.
        Conntrack = "conntrack",
    }
}

/// Numbers of objects that somebody else has changed, by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// Virtual servers, each with its real servers.
    pub ipvs: usize,
    /// Link, routes and rules of the routing policy.
    pub vips: usize,
    /// Elements and chains of nftables.
    pub rules: usize,
}

impl Drift {
    /// Number over all tables.
    pub const fn total(self) -> usize {
        self.ipvs + self.vips + self.rules
    }

    /// Number of each table.
    pub const fn by_table(self) -> [(TableName, usize); 3] {
        [(TableName::Ipvs, self.ipvs), (TableName::Vips, self.vips), (TableName::Rules, self.rules)]
    }
}

impl AddAssign for Drift {
    fn add_assign(&mut self, other: Drift) {
        self.ipvs += other.ipvs;
        self.vips += other.vips;
        self.rules += other.rules;
    }
}

/// Kind of a step, by the account that its processor time goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// Nothing was due.
    #[default]
    Idle,
    /// A slice of the audit.
    Audit(Part),
    /// Polls of the drains of this many fronts.
    Polls(usize),
    /// Everything else.
    Changes {
        /// True if tables were dumped that somebody else had touched.
        dumped: bool,
        /// True if the table of tracked connections was walked.
        walked: bool,
    },
}

/// Report of one step; all zero when there was nothing to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Kind of step.
    pub step: Step,
    /// Services whose intent was computed anew.
    pub services: usize,
    /// Families of those Services.
    pub families: BTreeSet<IpFamily>,
    /// Triggers of changes of endpoints that this step has programmed. Those of Services with a refused write are left
    /// out.
    pub programmed: Vec<Trigger>,
    /// Writes that were planned; some may have had to wait.
    pub planned: usize,
    /// Writes that the kernel executed.
    pub written: usize,
    /// Writes that the kernel refused; they are tried again.
    pub failed: usize,
    /// Those by table and error number; without one, a whole call failed. Never more entries than the kernel has error
    /// numbers.
    pub refusals: BTreeMap<(TableName, Option<i32>), usize>,
    /// Objects that an audit found different from the mirror, because somebody else wrote.
    pub drift: Drift,
    /// Drains that began.
    pub drains_begun: usize,
    /// Drains that ended.
    pub ended: Vec<Ended>,
    /// Tracked connections that were deleted.
    pub flows: usize,
    /// Families whose tracked connections were walked, with the number of deleted ones.
    pub walked: BTreeMap<IpFamily, usize>,
    /// True if what is found about the node has changed.
    pub findings: bool,
    /// True if this step completed the first programming of everything.
    pub completed_start: bool,
}

impl Report {
    /// Tells whether nothing happened that an operator would want a line for.
    pub fn is_quiet(&self) -> bool {
        let Report { written, failed, drift, drains_begun, flows, completed_start, .. } = *self;
        let counts = [written, failed, drift.total(), drains_begun, self.ended.len(), flows];
        counts == [0; 6] && !completed_start
    }

    /// Counts refused writes of a table.
    pub(crate) fn refuse(&mut self, table: TableName, errno: Option<i32>, count: usize) {
        if count > 0 {
            self.failed += count;
            *self.refusals.entry((table, errno)).or_default() += count;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { services, written, failed, drift, drains_begun, ended, flows, completed_start, .. } =
            self;
        write!(f, "{written} writes for {services} changed services")?;
        for (count, what) in [
            (failed, "refused"),
            (&drift.total(), "found changed by others"),
            (drains_begun, "drains begun"),
            (&ended.len(), "drains ended"),
            (flows, "tracked connections deleted"),
        ] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        if *completed_start {
            f.write_str("; everything is programmed")?;
        }
        Ok(())
    }
}

/// A drain that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Way in which it ended.
    pub outcome: Outcome,
    /// Duration of the drain.
    pub after: Time,
    /// Connections that were still active when its real server was removed.
    pub cut: u32,
}

/// Numbers of programmed objects, for metrics and status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Services with an intent.
    pub services: usize,
    /// Virtual servers in the mirror, foreign ones included.
    pub virtual_servers: usize,
    /// Real servers in the mirror.
    pub real_servers: usize,
    /// Subjects that wait for another try.
    pub retrying: usize,
}

/// Shortfalls of the kernel: what it cannot or will not do at the moment, for readiness and metrics. Details
/// are in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortfalls {
    /// Schedulers that it lacks, of those that the configuration or a Service names; others are used instead.
    pub schedulers: Vec<Scheduler>,
    /// True if it also lacks every scheduler that could be used instead, so that no Service works.
    pub no_scheduler: bool,
    /// VIPs that it refuses.
    pub vips: usize,
    /// Virtual servers of which it refuses a write.
    pub virtual_servers: usize,
}
