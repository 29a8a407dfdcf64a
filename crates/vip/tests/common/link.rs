//! What the link looks like to others.

use dataplane::contract::vips::VipsWorld as _;
use lb_types::VipOp;
use serde_json::Value;
use testkit::in_new_netns;

use super::world::{World, ip};

/// It has no address, asks and answers no neighbour, and comes back so when somebody has set it down.
pub fn the_link_is_quiet(kind: &str) {
    in_new_netns(|| {
        let mut world = World::new(kind);
        for _ in 0..2 {
            world.apply(&[VipOp::EnsureLink]);
            let read = |words| serde_json::from_str::<Vec<Value>>(&ip(words)).expect("JSON").remove(0);
            let addresses = read("-j addr show dev kube-ipvs0");
            assert_eq!(addresses["addr_info"].as_array().map(Vec::len), Some(0), "{addresses}");
            let link = read("-j -d link show dev kube-ipvs0");
            assert_eq!(link["inet6_addr_gen_mode"], "none", "{link}");
            let flags = link["flags"].as_array().expect("flags");
            assert!(flags.iter().any(|flag| flag == "NOARP"), "{link}");
            world.set_link_down();
        }
    });
}
