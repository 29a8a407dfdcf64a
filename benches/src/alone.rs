//! The product's loop with IPVS as its only real table, for comparison with `ipvsadm -R`, which knows nothing
//! of routes and packet rules.

use std::{
    cell::Cell,
    collections::BTreeSet,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use dataplane::{
    BatchReport, ForwardDrop, IpvsTable, ObservedLink, ObservedRealServer, ObservedRules, ObservedVips,
    RulesTable, TableError, Tables, VipTable, VirtualServerDump,
    fake::{FakeConntrack, FakeSysctls},
};
use ipvs::IpvsClient;
use lb_types::{IpvsOp, RulesLayout, RulesOp, Scheduler, VipOp, VipPort, VirtualServerId};
use reconcile::{Config, Event, Reconciler};

use crate::{
    node::Node,
    objects::{self, Size},
};

/// Durations of the loop.
#[derive(Debug, Clone, Copy)]
pub struct Alone {
    /// Time from the first step to the last: planning, encoding, writing, taking note.
    pub all: Duration,
    /// Time inside the IPVS client: encoding and writing.
    pub apply: Duration,
}

/// Programs IPVS of a fresh node; the events have arrived before the clock starts.
pub fn program(node: &Node, size: Size) -> Result<Alone> {
    node.ns.enter(|| {
        let time_in_writes = Rc::new(Cell::new(Duration::ZERO));
        let ipvs = Timed { client: IpvsClient::open()?, time_in_writes: Rc::clone(&time_in_writes) };
        let tables = Tables { ipvs: Box::new(ipvs), ..Absent::tables() };
        let mut reconciler = Reconciler::new(Config::default(), tables);
        for event in objects::events(size) {
            reconciler.handle(Event::Model(event));
        }
        let start = Instant::now();
        let mut failed = 0;
        while !reconciler.is_running() {
            failed += reconciler.step(start.elapsed()).failed;
        }
        let all = start.elapsed();
        ensure!(failed == 0, "the kernel refused {failed} writes");
        Ok(Alone { all, apply: time_in_writes.get() })
    })
}

/// The IPVS client, with the time that its writes have taken.
struct Timed {
    client: IpvsClient,
    time_in_writes: Rc<Cell<Duration>>,
}

impl IpvsTable for Timed {
    fn dump_virtual_servers(&mut self) -> Result<VirtualServerDump, TableError> {
        self.client.dump_virtual_servers()
    }

    fn dump_real_servers(&mut self, vs: VirtualServerId) -> Result<Vec<ObservedRealServer>, TableError> {
        self.client.dump_real_servers(vs)
    }

    fn has_scheduler(&mut self, scheduler: Scheduler) -> Result<bool, TableError> {
        IpvsTable::has_scheduler(&mut self.client, scheduler)
    }

    fn apply(&mut self, ops: &[IpvsOp]) -> Result<BatchReport, TableError> {
        let start = Instant::now();
        let report = self.client.apply(ops);
        self.time_in_writes.set(self.time_in_writes.get() + start.elapsed());
        report
    }
}

/// Tables that are empty at the start and to which every write succeeds at no cost.
#[derive(Debug, Clone, Copy)]
pub struct Absent;

impl Absent {
    /// Tables in the place of a kernel's.
    pub fn tables() -> Tables {
        Tables {
            ipvs: Box::new(Absent),
            vips: Box::new(Absent),
            rules: Box::new(Absent),
            sysctls: Box::new(FakeSysctls::default()),
            conntrack: Box::new(FakeConntrack::default()),
        }
    }
}

impl IpvsTable for Absent {
    fn dump_virtual_servers(&mut self) -> Result<VirtualServerDump, TableError> {
        Ok(VirtualServerDump::default())
    }

    fn dump_real_servers(&mut self, _vs: VirtualServerId) -> Result<Vec<ObservedRealServer>, TableError> {
        Ok(Vec::new())
    }

    fn has_scheduler(&mut self, _scheduler: Scheduler) -> Result<bool, TableError> {
        Ok(true)
    }

    fn apply(&mut self, _ops: &[IpvsOp]) -> Result<BatchReport, TableError> {
        Ok(BatchReport::default())
    }
}

impl VipTable for Absent {
    fn observe(&mut self) -> Result<ObservedVips, TableError> {
        Ok(ObservedVips { link: Some(ObservedLink { dummy: true, up: true }), ..ObservedVips::default() })
    }

    fn mark_rules(&mut self) -> Result<Vec<lb_types::MarkRule>, TableError> {
        Ok(Vec::new())
    }

    fn advertised_links(&mut self) -> Result<BTreeSet<String>, TableError> {
        Ok(BTreeSet::new())
    }

    fn apply(&mut self, _ops: &[VipOp]) -> Result<BatchReport, TableError> {
        Ok(BatchReport::default())
    }

    fn listeners(&mut self, _ports: &[VipPort]) -> Result<BTreeSet<VipPort>, TableError> {
        Ok(BTreeSet::new())
    }
}

impl RulesTable for Absent {
    fn observe(&mut self, _wanted: &RulesLayout) -> Result<ObservedRules, TableError> {
        Ok(ObservedRules { table: true, layout_current: true, ..ObservedRules::default() })
    }

    fn forward_drops(&mut self) -> Result<Vec<ForwardDrop>, TableError> {
        Ok(Vec::new())
    }

    fn apply(&mut self, _ops: &[RulesOp]) -> Result<BatchReport, TableError> {
        Ok(BatchReport::default())
    }
}
