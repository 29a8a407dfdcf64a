//! VIPs alone: binding many of them, and releasing them, in each of the ways in which a VIP may be bound.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use dataplane::VipTable as _;
use lb_types::{IpFamily, RouteTable, VipOp};
use serde::Serialize;
use testkit::NetNs;
use vip::VipClient;

use crate::{node::millis, report::Run};

/// Numbers of VIPs.
const COUNTS: [u16; 3] = [1_000, 5_000, 10_000];
/// Most addresses of a link: the kernel goes through those that there are for each one more, so that 10,000 take minutes
/// in a guest.
const MOST_ADDRESSES: u16 = 5_000;

/// Everything about one run.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// Machine and time of the run.
    pub run: Run,
    /// Measured cases.
    pub cases: Vec<Case>,
}

/// Way of binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Routes in table local.
    Route,
    /// Routes in the table of steered packets.
    Steer,
    /// Addresses of the link.
    Address,
    /// Addresses of the link, by the tool `ip -batch`.
    IpBatch,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Case {
    /// Way of binding.
    pub way: Way,
    /// True for IPv6.
    pub ipv6: bool,
    /// Number of VIPs.
    pub vips: u16,
    /// Time for all of them.
    pub bind_ms: f64,
    /// Time for releasing them.
    pub release_ms: f64,
}

impl Case {
    /// Renders the case as a line of the table.
    pub fn line(&self) -> String {
        let Case { way, ipv6, vips, bind_ms, release_ms } = self;
        let family = if *ipv6 { "IPv6" } else { "IPv4" };
        let each = |time: f64| time * 1e3 / f64::from(*vips);
        format!(
            "| {way:?} | {family} | {vips} | {bind_ms:.0} ms | {:.1} µs | {release_ms:.0} ms | {:.1} µs |\n",
            each(*bind_ms),
            each(*release_ms)
        )
    }
}

impl Results {
    /// Renders the table, in Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| | family | VIPs | bind | each | release | each |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for case in &self.cases {
            text += &case.line();
        }
        text
    }

    /// Writes JSON; returns its path.
    pub fn store(&self, directory: &Path) -> Result<PathBuf> {
        fs::create_dir_all(directory)?;
        let path = directory.join(format!("{}-vips.json", self.run.stem()));
        let json = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, json).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

/// Measures every way, family and number, each in a network namespace of its own.
pub fn measure(directory: &Path, mut each: impl FnMut(&Case)) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for way in [Way::Route, Way::Steer, Way::Address, Way::IpBatch] {
        let is_linear = matches!(way, Way::Route | Way::Steer);
        let counts = || COUNTS.into_iter().filter(move |vips| is_linear || *vips <= MOST_ADDRESSES);
        for (family, vips) in
            IpFamily::ALL.into_iter().flat_map(|family| counts().map(move |vips| (family, vips)))
        {
            let case = measure_one(way, family, vips, directory)
                .with_context(|| format!("{vips} VIPs of {family} by {way:?}"))?;
            each(&case);
            cases.push(case);
        }
    }
    Ok(cases)
}

fn measure_one(way: Way, family: IpFamily, vips: u16, directory: &Path) -> Result<Case> {
    let addresses: Vec<_> = (0..vips).map(|number| address(family, number)).collect();
    let ns = NetNs::create();
    let (bind_ms, release_ms) = match way {
        Way::IpBatch => by_tool(&ns, &addresses, directory)?,
        _ => ns.enter(|| by_client(way, &addresses))?,
    };
    Ok(Case { way, ipv6: family == IpFamily::V6, vips, bind_ms, release_ms })
}

fn address(family: IpFamily, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match family {
        IpFamily::V4 => Ipv4Addr::new(198, 18, high, low).into(),
        IpFamily::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number).into(),
    }
}

fn by_client(way: Way, addresses: &[IpAddr]) -> Result<(f64, f64)> {
    let mut client = VipClient::open()?;
    let mut timed = |ops: &[VipOp]| -> Result<f64> {
        let start = Instant::now();
        let report = client.apply(ops)?;
        let took = millis(start.elapsed());
        ensure!(report.is_clean(), "{report:?}");
        Ok(took)
    };
    timed(&[VipOp::EnsureLink])?;
    let table = if way == Way::Route { RouteTable::Local } else { RouteTable::Steering };
    let bind = |addr: &IpAddr| match way {
        Way::Address => VipOp::EnsureAddress { addr: *addr },
        _ => VipOp::EnsureRoute { vip: *addr, table, source: None },
    };
    let release = |addr: &IpAddr| match way {
        Way::Address => VipOp::DeleteAddress { addr: *addr },
        _ => VipOp::DeleteRoute { vip: *addr, table },
    };
    let binds: Vec<_> = addresses.iter().map(bind).collect();
    let releases: Vec<_> = addresses.iter().map(release).collect();
    Ok((timed(&binds)?, timed(&releases)?))
}

fn by_tool(ns: &NetNs, addresses: &[IpAddr], directory: &Path) -> Result<(f64, f64)> {
    ns.try_run(&["ip", "link", "add", vip::LINK_NAME, "type", "dummy"])?;
    ns.try_run(&["ip", "link", "set", vip::LINK_NAME, "up"])?;
    let file = directory.join("addresses");
    let timed = |verb: &str| -> Result<f64> {
        let mut text = String::new();
        for addr in addresses {
            let _infallible = writeln!(text, "address {verb} {addr} dev {}", vip::LINK_NAME);
        }
        fs::write(&file, text)?;
        let start = Instant::now();
        ns.try_run(&["ip", "-batch", &file.display().to_string()])?;
        Ok(millis(start.elapsed()))
    };
    Ok((timed("add")?, timed("delete")?))
}
