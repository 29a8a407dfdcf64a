//! The contract suite against the kernel, each case in a network namespace of its own.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use conntrack::ConntrackClient;
use dataplane::{
    ConntrackTable,
    contract::conntrack::{CASES, Flow, FlowsWorld},
};

use crate::tool;

struct ConntrackWorld(ConntrackClient);

impl FlowsWorld for ConntrackWorld {
    fn table(&mut self) -> &mut dyn ConntrackTable {
        &mut self.0
    }

    fn add(&mut self, flows: &[Flow]) {
        tool::insert(flows);
    }

    fn flows(&mut self) -> BTreeSet<Flow> {
        tool::flows()
    }
}

#[test]
fn the_kernel_meets_every_demand() {
    testkit::run(&["modprobe", "nf_conntrack_netlink"]);
    let mut failed = Vec::new();
    for case in CASES {
        eprintln!("{}", case.name);
        let run = || {
            testkit::in_new_netns(|| (case.run)(&mut ConntrackWorld(ConntrackClient::open().expect("open"))))
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            failed.push(case.name);
        }
    }
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), CASES.len());
}
