//! A node of its own for every measurement: a fresh network namespace.
//!
//! It is never the same one twice: destinations that were deleted stay in a list of the kernel for minutes
//! and slow down every later addition of their namespace.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{CommandError, NetNs};

use crate::objects::{NODE_ADDRESS, Size};

/// Link that a recording needs; see [`crate::tap`].
pub const TAP: &str = "tap0";

/// A node without services.
#[derive(Debug, Clone)]
pub struct Node {
    /// Network namespace of the node.
    pub ns: NetNs,
}

impl Node {
    /// A node whose every message to the kernel can be recorded.
    pub fn with_tap() -> Result<Node> {
        Node::create("nlmon")
    }

    /// A node without a tap. The link in its place keeps the numbers of later links the same.
    pub fn new() -> Result<Node> {
        Node::create("dummy")
    }

    fn create(tap: &str) -> Result<Node> {
        let ns = NetNs::create();
        ns.try_run(&["ip", "link", "add", "node0", "type", "dummy"])?;
        ns.try_run(&["ip", "address", "add", &format!("{NODE_ADDRESS}/24"), "dev", "node0"])?;
        ns.try_run(&["ip", "link", "set", "node0", "up"])?;
        let node = Node { ns };
        node.add_link(tap)?;
        Ok(node)
    }

    /// Replaces the link in the tap's place by a tap.
    pub fn add_tap(&self) -> Result<()> {
        self.ns.try_run(&["ip", "link", "delete", TAP])?;
        self.add_link("nlmon")
    }

    fn add_link(&self, kind: &str) -> Result<()> {
        self.ns
            .try_run(&["ip", "link", "add", TAP, "type", kind])
            .with_context(|| format!("no link of type {kind}: its module is missing"))?;
        self.ns.try_run(&["ip", "link", "set", TAP, "up"])?;
        Ok(())
    }

    /// Checks with tools that are not ours that the kernel has exactly the virtual servers, real servers in
    /// service and, if asked, VIPs of a cluster.
    pub fn check(&self, size: Size, vips: bool) -> Result<()> {
        let found = self.count()?;
        let expected = Counts { vips: if vips { size.services } else { found.vips }, ..Counts::of(size) };
        ensure!(found == expected, "the kernel has {found:?} and should have {expected:?}");
        Ok(())
    }

    /// Counts the kernel's objects.
    pub fn count(&self) -> Result<Counts> {
        let rules = self.rules()?;
        let lines = |start: &str| rules.lines().filter(|line| line.starts_with(start)).count();
        let serving =
            rules.lines().filter(|line| line.starts_with("-a") && !line.trim_end().ends_with("-w 0"));
        let routes = self.ns.try_run(&["ip", "route", "show", "table", "local", "dev", "kube-ipvs0"]);
        let vips =
            routes.map_or(0, |routes| routes.lines().filter(|line| line.starts_with("local ")).count());
        Ok(Counts { virtual_servers: lines("-A"), real_servers: serving.count(), vips })
    }

    /// The IPVS tables as `ipvsadm -R` takes them.
    pub fn rules(&self) -> Result<String, CommandError> {
        self.ns.try_run(&["ipvsadm", "-Sn"])
    }
}

/// Numbers of the kernel's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Virtual servers.
    pub virtual_servers: usize,
    /// Real servers that take new connections.
    pub real_servers: usize,
    /// Local routes of VIPs.
    pub vips: usize,
}

impl Counts {
    fn of(size: Size) -> Counts {
        Counts { virtual_servers: size.services, real_servers: size.real_servers(), vips: size.services }
    }
}

/// Converts a duration to milliseconds, for reports.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
