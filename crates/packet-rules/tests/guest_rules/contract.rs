//! The demands on every table, made on the kernel's.

use dataplane::contract::rules::{CASES, Case, LARGE_CASES};
use testkit::in_new_netns;

fn check(case: &Case) {
    let start = std::time::Instant::now();
    in_new_netns(|| (case.run)(&mut crate::support::client()));
    println!("{:6} ms  {}", start.elapsed().as_millis(), case.name);
}

#[test]
fn contract() {
    CASES.iter().for_each(check);
}

/// One test for each, so that none runs into the time limit of a slow guest.
macro_rules! large {
    ($($name:ident = $index:literal),*) => {
        $(#[test] fn $name() { check(&LARGE_CASES[$index]); })*

        #[test]
        fn no_large_case_is_forgotten() {
            assert_eq!([$($index),*].len(), LARGE_CASES.len());
        }
    };
}

large!(large_0 = 0, large_1 = 1, large_2 = 2, large_3 = 3, large_4 = 4);
