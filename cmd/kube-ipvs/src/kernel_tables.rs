//! The kernel tables of this node: opens them, and adapts the configuration to the kernel.

use std::time::Duration;

use anyhow::Context;
use conntrack::ConntrackClient;
use dataplane::{ConntrackTable, ErrorKind, IpvsTable, RulesTable, Sysctls as _, Tables, Unopened, VipTable};
use ipvs::{IpvsClient, codec::Timeouts};
use kernel::{
    KernelModule, KernelRelease, ModuleFinder, ModulePresence, ProcSysctls, SysctlNeeds, required_sysctls,
};
use packet_rules::{RulesClient, RulesWatcher};
use reconcile::Config;
use tracing::{info, warn};
use vip::VipClient;

use crate::{
    config::{IdleTimeouts, Settings},
    conn_reuse::ConnReuseChoice,
};

/// Open tables, and the means to notice changes that others make.
pub struct Opened {
    /// Tables for the loop.
    pub tables: Tables,
    /// Port of the routing tables' socket; the watcher ignores changes that come from it.
    pub vip_port: u32,
    /// Watcher of nftables, which listens from before the first dump, so that no change falls in between.
    pub rules_watcher: RulesWatcher,
}

/// Opens all tables, and writes nothing; an error names the module that is missing and how to load it.
pub fn open() -> anyhow::Result<Opened> {
    let ipvs = IpvsClient::open().context("open the IPVS tables")?;
    let vips = VipClient::open().context("open the routing tables")?;
    let mut rules = RulesClient::open().context("open nftables")?;
    let rules_watcher = rules.watch().context("listen to changes of nftables")?;
    let vip_port = vips.port_id();
    warn_of_missing_modules();
    warn_without_estimation();
    mention_legacy_iptables();
    let conntrack = ConntrackClient::open().context("open the connection tracking")?;
    let tables = Tables {
        ipvs: Box::new(ipvs),
        vips: Box::new(vips),
        rules: Box::new(rules),
        sysctls: Box::new(ProcSysctls::default()),
        conntrack: Box::new(conntrack),
    };
    Ok(Opened { tables, vip_port, rules_watcher })
}

/// Opens each table by itself; one that cannot be opened fails with each use.
pub fn open_each() -> Tables {
    let conntrack: Box<dyn ConntrackTable> = match ConntrackClient::open() {
        Ok(client) => Box::new(client),
        Err(error) => {
            Box::new(Unopened::new("open the connection tracking", ErrorKind::Other, chain(&error)))
        }
    };
    let ipvs: Box<dyn IpvsTable> = match IpvsClient::open() {
        Ok(client) => Box::new(client),
        Err(error) => Box::new(Unopened::new("open the IPVS tables", error.kind(), chain(&error))),
    };
    let vips: Box<dyn VipTable> = match VipClient::open() {
        Ok(client) => Box::new(client),
        Err(error) => Box::new(Unopened::new("open the routing tables", error.kind(), chain(&error))),
    };
    let rules: Box<dyn RulesTable> = match RulesClient::open() {
        Ok(client) => Box::new(client),
        Err(error) => Box::new(Unopened::new("open nftables", error.kind(), chain(&error))),
    };
    Tables { ipvs, vips, rules, sysctls: Box::new(ProcSysctls::default()), conntrack }
}

/// Error and its causes on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Warns at start of a missing module that would otherwise show with the first UDP endpoint only. The kernel loads an
/// installed one by itself, so only its use shows whether that works.
fn warn_of_missing_modules() {
    let finder = ModuleFinder::running();
    if finder.presence(KernelModule::NfConntrackNetlink) == ModulePresence::NotInstalled {
        warn!("{}", finder.missing(KernelModule::NfConntrackNetlink));
    }
}

/// Mentions chains of iptables-legacy, which nftables does not list, so that nobody here can judge them.
fn mention_legacy_iptables() {
    // Lists the tables of iptables-legacy in this network namespace.
    let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    if tables.lines().any(|table| table == "filter") {
        info!(
            "this node has rules of iptables-legacy, which kube-ipvs cannot see: if iptables-legacy -S FORWARD shows the \
             policy DROP, it must accept RELATED,ESTABLISHED, or answers of pods are lost"
        );
    }
}

/// Warns of a kernel that counts no traffic, by which drains go where counts of connections say too little.
fn warn_without_estimation() {
    // A parameter that cannot be read is no reason to warn: the writes of other parameters show why.
    let value = ProcSysctls::default().read(kernel::RUN_ESTIMATION).unwrap_or_default();
    if let Some(text) = kernel::without_estimation(value) {
        warn!("{text}");
    }
}

/// Timeout of idle TCP connections in IPVS unless one is configured: that of connection tracking, as kube-proxy
/// sets it. The kernel's own is 900 s, after which clients that are idle for longer would be reset.
const TCP_TIMEOUT: u32 = 24 * 60 * 60;

/// Writes the timeouts of connections that are configured, and raises the one of idle TCP connections otherwise. What
/// somebody has raised further stays.
pub fn set_timeouts(settings: &Settings) -> anyhow::Result<()> {
    let mut ipvs = IpvsClient::open().context("open the IPVS tables")?;
    let present = ipvs.timeouts().context("read IPVS timeouts")?;
    let wanted = timeouts(settings.timeouts, present);
    if wanted == present {
        return Ok(());
    }
    info!(
        "IPVS forgets idle connections after {} s (TCP), {} s (TCP after a FIN) and {} s (UDP); before: {}, {} and {} s",
        wanted.tcp, wanted.tcp_fin, wanted.udp, present.tcp, present.tcp_fin, present.udp
    );
    if let Err(error) = ipvs.set_timeouts(&wanted) {
        warn!("IPVS timeouts stay as they are: {}", chain(&error));
    }
    Ok(())
}

/// `INT_MAX / HZ` with 1000 ticks a second, in seconds: more than three weeks (`ip_vs_set_timeout`,
/// net/netfilter/ipvs/ip_vs_ctl.c).
const LONGEST_TIMEOUT: u32 = 2_147_483;

fn timeouts(configured: IdleTimeouts, present: Timeouts) -> Timeouts {
    // The kernel takes whole seconds, and no more than fit into an `int` of its clock's ticks.
    let seconds = |timeout: Duration| {
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        u32::try_from(seconds).unwrap_or(u32::MAX).min(LONGEST_TIMEOUT)
    };
    let or = |timeout: Duration, other: u32| if timeout.is_zero() { other } else { seconds(timeout) };
    Timeouts {
        tcp: or(configured.tcp, present.tcp.max(TCP_TIMEOUT)),
        tcp_fin: or(configured.tcp_fin, present.tcp_fin),
        udp: or(configured.udp, present.udp),
    }
}

/// Makes the kernel load IPVS, whose parameters say more about the kernel than its version, and those configured
/// schedulers that it must not load by itself. [`open`] and the loop report failures.
pub fn load_ipvs(settings: &Settings) {
    let _reported_later = IpvsClient::open();
    let planner = &settings.reconcile.planner;
    for scheduler in planner.allowed_schedulers.iter().copied().chain([planner.scheduler]) {
        ipvs::load_scheduler(scheduler);
    }
}

/// Chooses `conn_reuse_mode` for this kernel and logs the choice. IPVS must be loaded by then.
pub fn choose_conn_reuse(settings: &Settings) -> ConnReuseChoice {
    let kernel = KernelRelease::running();
    let choice = ConnReuseChoice::make(settings.conn_reuse, &kernel);
    info!(%kernel, "{choice}");
    choice
}

/// Configuration of the loop, with the parameters for this kernel and the schedulers that it has loaded.
pub fn for_this_kernel(settings: &Settings, choice: &ConnReuseChoice) -> Config {
    let needs = SysctlNeeds {
        conn_reuse_mode: choice.decision.mode,
        ipv4: true,
        ipv6: true,
        strict_arp: settings.strict_arp,
        tracking: Some(settings.tracking),
    };
    let sysctls = required_sysctls(&needs).into_iter().map(|required| required.need).collect();
    let mut config = settings.reconcile.clone();
    config.planner.sysctls = sysctls;
    if settings.allow_loaded_schedulers {
        config.planner.allowed_schedulers.extend(ModuleFinder::running().loaded_schedulers());
    }
    let scheduler = config.planner.scheduler;
    if planner::refuses_while_draining(scheduler) {
        warn!(
            "--ipvs-scheduler={scheduler} gives all connections to a VIP to one endpoint, and refuses them while that \
             one drains; choose another if clients must not be refused"
        );
    }
    config
}

#[cfg(test)]
mod tests;
