//! The contract suite against the kernel, each case in a network namespace of its own, seen through ipvsadm.
//!
//! Needs root and ip_vs: `cargo xtask guest test -p ipvs`.

mod ipvsadm;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use dataplane::contract::ipvs::{CASES, snapshot};
use ipvs::IpvsClient;

#[test]
fn the_kernel_meets_every_demand() {
    testkit::run(&["modprobe", "ip_vs"]);
    let mut failed = Vec::new();
    for case in CASES {
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            testkit::in_new_netns(|| {
                let mut client = IpvsClient::open().expect("open IPVS");
                (case.run)(&mut client);
                ipvsadm::check(&snapshot(&mut client));
            });
        }));
        let verdict = if result.is_ok() { "ok    " } else { "FAILED" };
        eprintln!("{verdict} {:6.2} s {}", start.elapsed().as_secs_f64(), case.name);
        if result.is_err() {
            failed.push(case.name);
        }
    }
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), CASES.len());
}
