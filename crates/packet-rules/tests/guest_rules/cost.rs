//! What a plan costs in system calls.

use std::net::Ipv4Addr;

use lb_types::{RuleElement, RulesLayout};
use testkit::in_new_netns;

use crate::support::{add, client, install};

#[test]
fn a_plan_is_one_send_however_many_elements_it_has() {
    in_new_netns(|| {
        let mut client = client();
        install(&mut client, &RulesLayout::default());
        for (first, count) in [(0x0a60_0000, 1), (0x0a61_0000, 3000)] {
            let elements: Vec<_> =
                (0..count).map(|n| RuleElement::Vip(Ipv4Addr::from(first + n).into())).collect();
            let before = client.counters();
            add(&mut client, &elements);
            let after = client.counters();
            assert_eq!(after.sends - before.sends, 1);
            assert!(after.receives - before.receives <= 3, "nothing before, the answer, nothing after");
        }
    });
}
