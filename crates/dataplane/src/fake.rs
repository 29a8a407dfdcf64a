//! In-memory tables with the kernel's rules, for tests of everything above them.
//!
//! Each fake is a cheap handle: clone it, give one clone to the code under test and keep the other to look
//! inside, count requests, or make the n-th operation fail.

mod conntrack;
mod faults;
mod ipvs;
mod rules;
mod sysctls;
mod vips;

pub use conntrack::FakeConntrack;
pub use ipvs::{FakeIpvs, IpvsSnapshot};
pub use rules::FakeRules;
pub use sysctls::FakeSysctls;
pub use vips::FakeVips;
