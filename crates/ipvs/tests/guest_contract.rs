//! The contract suite against the kernel, each case in a network namespace of its own, seen with ipvsadm's eyes.
//!
//! Needs root and ip_vs: `cargo xtask guest test -p ipvs`.

mod ipvsadm;

use std::panic::{AssertUnwindSafe, catch_unwind};

use dataplane::contract::ipvs::{CASES, snapshot};
use ipvs::IpvsClient;

#[test]
fn the_kernel_meets_every_demand() {
    testkit::run(&["modprobe", "ip_vs"]);
    let mut failed = Vec::new();
    for case in CASES {
        let result = catch_unwind(AssertUnwindSafe(|| {
            testkit::in_new_netns(|| {
                let mut client = IpvsClient::open().expect("open IPVS");
                (case.run)(&mut client);
                ipvsadm::check(&snapshot(&mut client));
            });
        }));
        eprintln!("{} {}", if result.is_ok() { "ok    " } else { "FAILED" }, case.name);
        if result.is_err() {
            failed.push(case.name);
        }
    }
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), CASES.len());
}
