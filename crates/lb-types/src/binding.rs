//! Ways by which packets to a VIP come to IPVS, as configuration names them.

use crate::words;

words! {
    /// Way by which packets to a VIP come to IPVS on this node, in the order of reach.
    #[derive(Default)]
    VipBinding {
        /// They do not: nothing is served at the VIP, and packets go where routing leads.
        None = "none",
        /// Those to a port of a Service alone; the VIP is no address of this node.
        Steer = "steer",
        /// A local route leads there: all packets to the VIP are for this node.
        #[default]
        Route = "route",
        /// The VIP is an address of `kube-ipvs0`.
        Address = "address",
    }
    /// Text that names no binding.
    UnknownBinding = "unknown binding {0:?}: expected steer, route, address or none"
}
