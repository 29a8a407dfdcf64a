//! Ways by which packets to a VIP come to IPVS, as configuration names them.

use std::{fmt, str::FromStr};

/// Way by which packets to a VIP come to IPVS on this node, in the order of reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VipBinding {
    /// They do not: nothing is served at the VIP, and packets go where routing leads.
    None,
    /// Those to a port of a Service alone; the VIP is no address of this node.
    Steer,
    #[default]
    /// A local route leads there: all packets to the VIP are for this node.
    Route,
    /// The VIP is an address of `kube-ipvs0`.
    Address,
}

impl VipBinding {
    /// All of them, in the order of reach.
    pub const ALL: [VipBinding; 4] =
        [VipBinding::None, VipBinding::Steer, VipBinding::Route, VipBinding::Address];

    /// Spelling in flags and annotations.
    pub const fn as_str(self) -> &'static str {
        match self {
            VipBinding::None => "none",
            VipBinding::Steer => "steer",
            VipBinding::Route => "route",
            VipBinding::Address => "address",
        }
    }
}

impl fmt::Display for VipBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that names no binding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown binding {0:?}: expected steer, route, address or none")]
pub struct UnknownBinding(pub String);

impl FromStr for VipBinding {
    type Err = UnknownBinding;

    fn from_str(s: &str) -> Result<Self, UnknownBinding> {
        VipBinding::ALL
            .into_iter()
            .find(|binding| binding.as_str() == s)
            .ok_or_else(|| UnknownBinding(s.to_owned()))
    }
}
