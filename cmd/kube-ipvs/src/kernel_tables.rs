//! Opening the kernel tables of this node.

use anyhow::Context;
use conntrack::ConntrackClient;
use dataplane::{ErrorKind, FlowTable, IpvsTable, RulesTable, Sysctls as _, Tables, Unopened, VipTable};
use ipvs::IpvsClient;
use kernel::{
    KernelModule, KernelRelease, ModuleFinder, ModulePresence, ProcSysctls, SysctlNeeds, required_sysctls,
};
use packet_rules::{RulesClient, RulesWatcher};
use reconcile::Config;
use telemetry::Metrics;
use tracing::{info, warn};
use vip::VipClient;

use crate::{config::Settings, conn_reuse::ConnReuseChoice};

/// The tables, and what is needed to notice who else changes them.
pub struct Opened {
    /// For the loop.
    pub tables: Tables,
    /// Of the routing tables' socket; its changes are not news to the watcher.
    pub vip_port: u32,
    /// Listens to changes of nftables from before the first dump, so that none falls in between.
    pub rules_watcher: RulesWatcher,
}

/// Opens all tables; an error names the module that is missing and how to load it.
///
/// Nothing is written.
pub fn open() -> anyhow::Result<Opened> {
    let ipvs = IpvsClient::open().context("open the IPVS tables")?;
    let vips = VipClient::open().context("open the routing tables")?;
    let mut rules = RulesClient::open().context("open nftables")?;
    let rules_watcher = rules.watch().context("listen to changes of nftables")?;
    let vip_port = vips.port_id();
    warn_of_missing_modules();
    warn_without_estimation();
    tell_of_legacy_iptables();
    let flows = ConntrackClient::open().context("open the connection tracking")?;
    let tables = Tables {
        ipvs: Box::new(ipvs),
        vips: Box::new(vips),
        rules: Box::new(rules),
        sysctls: Box::new(ProcSysctls::default()),
        flows: Box::new(flows),
    };
    Ok(Opened { tables, vip_port, rules_watcher })
}

/// Opens each table by itself; one that cannot be opened fails whenever it is used.
pub fn open_each() -> Tables {
    let flows: Box<dyn FlowTable> = match ConntrackClient::open() {
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
    Tables { ipvs, vips, rules, sysctls: Box::new(ProcSysctls::default()), flows }
}

/// An error with its causes on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Tells at start what would otherwise show with the first UDP endpoint only. Whether a module that is installed can be
/// loaded shows when it is needed: the kernel loads this one by itself.
fn warn_of_missing_modules() {
    let finder = ModuleFinder::running();
    if finder.presence(KernelModule::NfConntrackNetlink) == ModulePresence::NotInstalled {
        warn!("{}", finder.missing(KernelModule::NfConntrackNetlink));
    }
}

/// Chains of iptables-legacy are not among those of nftables: they can only be pointed at.
fn tell_of_legacy_iptables() {
    // Lists what the kernel has for iptables-legacy in this network namespace.
    let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    if tables.lines().any(|table| table == "filter") {
        info!(
            "this node has rules of iptables-legacy, which cannot be judged from here: if iptables-legacy -S FORWARD shows \
             the policy DROP, it must accept RELATED,ESTABLISHED, or answers of pods are lost"
        );
    }
}

/// Drains go by traffic where counts of connections say too little.
fn warn_without_estimation() {
    // What cannot be read cannot be judged; that it cannot shows with the parameters that are written.
    let value = ProcSysctls::default().read(kernel::RUN_ESTIMATION).unwrap_or_default();
    if let Some(text) = kernel::without_estimation(value) {
        warn!("{text}");
    }
}

/// Writes the timeouts of connections that are configured; others stay as they are.
pub fn set_timeouts(settings: &Settings) -> anyhow::Result<()> {
    if settings.timeouts.iter().all(|timeout| timeout.is_zero()) {
        return Ok(());
    }
    let [tcp, tcp_fin, udp] =
        settings.timeouts.map(|timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX));
    let mut ipvs = IpvsClient::open().context("open the IPVS tables")?;
    ipvs.set_timeouts(&ipvs::codec::Timeouts { tcp, tcp_fin, udp }).context("set IPVS timeouts")
}

/// What to do about `conn_reuse_mode` on this kernel; it is logged, and counted.
pub fn choose_conn_reuse(settings: &Settings, metrics: Option<&Metrics>) -> ConnReuseChoice {
    let kernel = KernelRelease::running();
    let choice = ConnReuseChoice::make(settings.conn_reuse, &kernel);
    info!(%kernel, "{choice}");
    let mode = choice.decision.mode.map_or_else(|| "none".to_owned(), |mode| mode.to_string());
    let reason = choice.decision.reason.to_string();
    if let Some(metrics) = metrics {
        metrics.conn_reuse_mode(&mode, &reason, choice.probed(), &kernel.to_string());
    }
    choice
}

/// The loop's configuration with what depends on the kernel: its parameters, and the schedulers that it has loaded.
pub fn for_this_kernel(settings: &Settings, choice: &ConnReuseChoice) -> Config {
    let needs = SysctlNeeds {
        conn_reuse_mode: choice.decision.mode,
        ipv4: true,
        ipv6: true,
        strict_arp: settings.strict_arp,
        cores: Some(kernel::cores()),
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
