//! The link in the eyes of others.

use dataplane::contract::vips::VipsWorld as _;
use lb_types::VipOp;
use serde_json::Value;
use testkit::in_new_netns;

use super::namespace::{NodeNamespace, ip};

/// The link has no address, neither asks nor answers neighbours, and stays like that when it comes up again.
pub fn the_link_is_quiet(kind: &str) {
    in_new_netns(|| {
        let mut namespace = NodeNamespace::new(kind);
        for _ in 0..2 {
            namespace.apply(&[VipOp::EnsureLink]);
            let read = |words| serde_json::from_str::<Vec<Value>>(&ip(words)).expect("JSON").remove(0);
            let addresses = read("-j addr show dev kube-ipvs0");
            assert_eq!(addresses["addr_info"].as_array().map(Vec::len), Some(0), "{addresses}");
            let link = read("-j -d link show dev kube-ipvs0");
            assert_eq!(link["inet6_addr_gen_mode"], "none", "{link}");
            let flags = link["flags"].as_array().expect("flags");
            assert!(flags.iter().any(|flag| flag == "NOARP"), "{link}");
            namespace.set_link_down();
        }
    });
}
