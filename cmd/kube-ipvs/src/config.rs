//! The configuration that flags and file make: one valid value, or a list of all mistakes in them.

mod gates;
mod media;
mod servers;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use ipnetwork::IpNetwork;
use kernel::{ConnReuseFlag, ConnectionTracking};
use kube_source::MediaType;
use lb_types::{IpFamily, RulesLayout, Scheduler, VipBinding, canonical_prefix};
use planner::{Bindings, NodePortAddresses, Ownership, PlannerConfig};
use reconcile::{Config, LocalMode};
use telemetry::{BindFailure, LogFormat};

use crate::{
    flags::{Command, ConntrackFlags, Flags, Task},
    invocation::{Invocation, Names},
    leftovers::KubeProxyRules,
};

/// Configuration of the process; valid by construction.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this node.
    pub node_name: String,
    /// Origin of the objects.
    pub source: Source,
    /// Media type of objects from an API server.
    pub media: MediaType,
    /// Address that answers health checks.
    pub healthz: Option<SocketAddr>,
    /// Address that answers metrics.
    pub metrics: Option<SocketAddr>,
    /// Reaction to an address of these that cannot be bound.
    pub bind_failure: BindFailure,
    /// Configuration of the loop, but for the kernel parameters.
    pub reconcile: Config,
    /// Lets annotations also name the schedulers that the kernel has loaded, besides those in `reconcile`.
    pub allow_loaded_schedulers: bool,
    /// Timeouts of idle connections.
    pub timeouts: IdleTimeouts,
    /// Rule for `conn_reuse_mode`.
    pub conn_reuse: ConnReuseFlag,
    /// Sets the ARP parameters.
    pub strict_arp: bool,
    /// Fate of the packet rules that kube-proxy has left.
    pub kube_proxy_rules: KubeProxyRules,
    /// Limits and timeouts of connection tracking.
    pub tracking: ConnectionTracking,
    /// Rank of the process when memory is short.
    pub oom_score_adj: i32,
    /// Directory for state that must survive a restart.
    pub state_dir: PathBuf,
    /// Lines for the log at start: settings that give way to another value, or have no effect.
    pub warnings: Vec<String>,
    /// True if no proxy mode is configured, which means ipvs here and iptables in kube-proxy.
    pub mode_is_default: bool,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Verbosity of the log.
    pub verbosity: u8,
}

/// Timeouts of connections in IPVS; zero leaves the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleTimeouts {
    /// TCP connections.
    pub tcp: Duration,
    /// TCP connections after a FIN.
    pub tcp_fin: Duration,
    /// UDP flows.
    pub udp: Duration,
}

/// Origin of the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An API server.
    Api {
        /// File with its address and credentials; without one, the Pod's service account.
        kubeconfig: Option<PathBuf>,
        /// Address that overrides the file's.
        master: Option<String>,
    },
    /// A directory of manifests.
    Manifests(PathBuf),
}

/// Schedulers that annotations may name unless `--allowed-schedulers` says otherwise, besides loaded ones.
const USUAL_SCHEDULERS: [Scheduler; 6] =
    [Scheduler::RR, Scheduler::WRR, Scheduler::LC, Scheduler::WLC, Scheduler::SH, Scheduler::MH];

/// All mistakes in the configuration.
#[derive(Debug, thiserror::Error)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid configuration")?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

/// Collects mistakes while it takes values.
struct Check<'a> {
    names: &'a Names,
    errors: Vec<String>,
}

impl Check<'_> {
    fn add(&mut self, flag: &str, error: impl fmt::Display) {
        self.errors.push(format!("{}: {error}", self.names.of(flag)));
    }

    fn take<T: Default, E: fmt::Display>(&mut self, flag: &str, result: Result<T, E>) -> T {
        result.unwrap_or_else(|error| {
            self.add(flag, error);
            T::default()
        })
    }

    fn parse<T: FromStr<Err: fmt::Display> + Default>(&mut self, flag: &str, text: &str) -> T {
        self.take(flag, text.parse::<T>())
    }

    fn cidrs(&mut self, flag: &str, texts: &[String]) -> Vec<IpNetwork> {
        let given = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        given.filter_map(|text| self.take(flag, cidr(text).map(Some))).collect()
    }

    /// Ranges, each of which may be a single address.
    fn prefixes(&mut self, flag: &str, texts: &[String]) -> Vec<IpNetwork> {
        let given = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let prefix = |text: &str| match text.parse::<IpAddr>() {
            Ok(addr) => Ok(canonical_prefix(IpNetwork::from(addr))),
            Err(_) => cidr(text),
        };
        given.filter_map(|text| self.take(flag, prefix(text).map(Some))).collect()
    }

    fn ensure(&mut self, condition: bool, flag: &str, error: impl FnOnce(&Names) -> String) {
        if !condition {
            let error = error(self.names);
            self.add(flag, error);
        }
    }

    fn not_negative(&mut self, flag: &str, value: i32) -> u32 {
        self.take(flag, u32::try_from(value).map_err(|_| format!("{value} is negative")))
    }
}

impl Settings {
    /// Checks all flags and fields.
    pub fn new(invocation: &Invocation) -> Result<Self, ConfigErrors> {
        let flags = &invocation.cli.flags;
        let mut check = Check { names: &invocation.names, errors: invocation.errors.clone() };
        check_without_effect(invocation, &mut check);
        // On the way back to kube-proxy its mode is in the file already.
        if !matches!(invocation.cli.task(), Task::Command(Command::Cleanup)) {
            check_mode(flags, &mut check);
        }
        let node_name = check.take("hostname-override", node_name(flags));
        let bind =
            check.take("bind-address", servers::bind_ip(flags)).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let (healthz, metrics) = servers::of(flags, bind, &mut check);
        let enabled = &invocation.config.proxy.feature_gates;
        let mut reconcile = reconcile(flags, &node_name, &mut check);
        reconcile.planner.node_ip = Some(bind).filter(|ip| !ip.is_unspecified());
        reconcile.planner.serve_external_ips = gates::serve_external_ips(enabled);
        let settings = Settings {
            node_name,
            source: source(flags, &mut check),
            media: media::of(invocation),
            healthz,
            metrics,
            bind_failure: if flags.bind_address_hard_fail {
                BindFailure::Fails
            } else {
                BindFailure::Retries
            },
            reconcile,
            allow_loaded_schedulers: listed_schedulers(flags).next().is_none(),
            timeouts: IdleTimeouts {
                tcp: flags.ipvs_tcp_timeout,
                tcp_fin: flags.ipvs_tcpfin_timeout,
                udp: flags.ipvs_udp_timeout,
            },
            conn_reuse: check.parse("conn-reuse-mode", &flags.conn_reuse_mode),
            strict_arp: flags.ipvs_strict_arp,
            kube_proxy_rules: check.parse("kube-proxy-rules", &flags.kube_proxy_rules),
            tracking: tracking(&flags.conntrack, &mut check),
            oom_score_adj: oom_score_adj(flags, &mut check),
            state_dir: flags.state_dir.clone(),
            warnings: [invocation.warnings.clone(), warnings(flags, &invocation.names, enabled)].concat(),
            mode_is_default: flags.proxy_mode.is_empty(),
            log_format: check.parse("logging-format", &flags.logging_format),
            verbosity: u8::try_from(flags.verbosity).unwrap_or(u8::MAX),
        };
        if check.errors.is_empty() { Ok(settings) } else { Err(ConfigErrors(check.errors)) }
    }
}

fn reconcile(flags: &Flags, node_name: &str, check: &mut Check<'_>) -> Config {
    let (period, shortest) = (flags.ipvs_sync_period, flags.ipvs_min_sync_period);
    check.ensure(!period.is_zero(), "ipvs-sync-period", |_| "must be greater than 0".into());
    check.ensure(shortest <= period, "ipvs-min-sync-period", |names| {
        format!("{shortest:?} is longer than {} ({period:?})", names.of("ipvs-sync-period"))
    });
    Config {
        planner: planner(flags, node_name, check),
        local_mode: local_mode(flags, check),
        ownership: Ownership {
            service_cidrs: check.cidrs("service-cidrs", &flags.service_cidrs),
            exclude_cidrs: check.cidrs("ipvs-exclude-cidrs", &flags.ipvs_exclude_cidrs),
            ..Ownership::default()
        },
        drain: drain(flags, check),
        sync_period: period,
        min_sync_period: shortest,
        service_traffic: flags.service_metrics,
    }
}

/// Checks what kube-proxy checks of settings that have no effect here.
fn check_without_effect(invocation: &Invocation, check: &mut Check<'_>) {
    let proxy = &invocation.config.proxy;
    check.not_negative("kube-api-burst", proxy.client_connection.burst);
    check.ensure(!proxy.config_sync_period.is_zero(), "config-sync-period", |_| {
        "must be greater than 0".into()
    });
}

fn check_mode(flags: &Flags, check: &mut Check<'_>) {
    let mode = flags.proxy_mode.as_str();
    check.ensure(matches!(mode, "" | "ipvs"), "proxy-mode", |_| {
        format!(
            "{mode:?} is not supported: kube-ipvs serves ipvs only; set ipvs, or keep kube-proxy on this node"
        )
    });
}

/// The override or the host name, trimmed and in lower case (pkg/util/node `GetHostname`).
fn node_name(flags: &Flags) -> Result<String, String> {
    match flags.hostname_override.as_deref() {
        None | Some("") => kernel::hostname().map_err(|error| error.to_string()),
        Some(name) if name.trim().is_empty() => Err("empty host name is not allowed".into()),
        Some(name) => Ok(name.trim().to_lowercase()),
    }
}

fn tracking(flags: &ConntrackFlags, check: &mut Check<'_>) -> ConnectionTracking {
    let seconds = |timeout: Duration| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
    ConnectionTracking {
        cores: kernel::cores(),
        max_per_core: check.not_negative("conntrack-max-per-core", flags.max_per_core),
        min: check.not_negative("conntrack-min", flags.min),
        established: seconds(flags.tcp_established),
        close_wait: seconds(flags.tcp_close_wait),
        udp: seconds(flags.udp),
        udp_stream: seconds(flags.udp_stream),
        be_liberal: flags.tcp_be_liberal,
    }
}

fn oom_score_adj(flags: &Flags, check: &mut Check<'_>) -> i32 {
    let rank = flags.oom_score_adj;
    check
        .ensure((-1000..=1000).contains(&rank), "oom-score-adj", |_| format!("{rank} is not in -1000..1000"));
    rank
}

fn source(flags: &Flags, check: &mut Check<'_>) -> Source {
    let given = |text: &&String| !text.is_empty();
    let kubeconfig = flags.kubeconfig.as_ref().filter(given).map(PathBuf::from);
    let master = flags.master.as_ref().filter(given).cloned();
    match &flags.manifests {
        Some(dir) => {
            check.ensure(kubeconfig.is_none() && master.is_none(), "manifests", |names| {
                let kubeconfig = names.of("kubeconfig");
                format!("objects come from one place only; leave out {kubeconfig} and --master")
            });
            Source::Manifests(dir.clone())
        }
        None => Source::Api { kubeconfig, master },
    }
}

/// Names in `--allowed-schedulers`.
fn listed_schedulers(flags: &Flags) -> impl Iterator<Item = &str> {
    flags.allowed_schedulers.iter().map(|name| name.trim()).filter(|name| !name.is_empty())
}

/// Schedulers that annotations may name in any case.
fn allowed_schedulers(flags: &Flags, default: Scheduler, check: &mut Check<'_>) -> BTreeSet<Scheduler> {
    let named = |name: &str| check.take("allowed-schedulers", name.parse::<Scheduler>().map(Some));
    let named: BTreeSet<_> = listed_schedulers(flags).filter_map(named).collect();
    if named.is_empty() { USUAL_SCHEDULERS.into_iter().chain([default]).collect() } else { named }
}

fn planner(flags: &Flags, node_name: &str, check: &mut Check<'_>) -> PlannerConfig {
    let scheduler = match flags.ipvs_scheduler.as_str() {
        "" => Ok(Some(Scheduler::RR)),
        name => name.parse::<Scheduler>().map(Some),
    };
    let scheduler = check.take("ipvs-scheduler", scheduler).unwrap_or(Scheduler::RR);
    let masquerade_bit = mark_bit("iptables-masquerade-bit", flags.iptables_masquerade_bit, check);
    let usual = RulesLayout::default().steer_bit;
    let layout = RulesLayout {
        masquerade_bit,
        steer_bit: match flags.steer_mark_bit {
            Some(bit) => mark_bit("steer-mark-bit", bit, check),
            None if masquerade_bit == usual => usual + 1,
            None => usual,
        },
        marks: check.parse("mark-range", &flags.mark_range),
        ..RulesLayout::default()
    };
    let bit = 1_u32.checked_shl(layout.masquerade_bit.into()).unwrap_or_default();
    check.ensure(!layout.marks.contains(bit), "mark-range", |names| {
        format!(
            "{} contains {bit:#x}, the mark of {} {}; choose another range or bit",
            layout.marks,
            names.of("iptables-masquerade-bit"),
            layout.masquerade_bit
        )
    });
    check.ensure(layout.steer_bit != layout.masquerade_bit, "steer-mark-bit", |names| {
        format!(
            "{} is also the bit of {}; choose another one",
            layout.steer_bit,
            names.of("iptables-masquerade-bit")
        )
    });
    PlannerConfig {
        bindings: bindings(flags, check),
        pod_cidrs: cluster_cidrs(flags, check),
        scheduler,
        service_overrides: check.parse("service-overrides", &flags.service_overrides),
        allowed_schedulers: allowed_schedulers(flags, scheduler, check),
        graceful_timeout_max: drain::limit(flags.graceful_timeout_max),
        masquerade_all: flags.masquerade_all,
        layout,
        node_port_addresses: node_port_addresses(flags, check),
        node_port_servers: check.parse("node-port-servers", &flags.node_port_servers),
        node_name: node_name.to_owned(),
        ..PlannerConfig::default()
    }
}

fn mark_bit(flag: &str, bit: i32, check: &mut Check<'_>) -> u8 {
    let checked =
        u8::try_from(bit).ok().filter(|bit| *bit < 32).ok_or_else(|| format!("{bit} is not in 0..31"));
    check.take(flag, checked)
}

fn bindings(flags: &Flags, check: &mut Check<'_>) -> Bindings {
    let cluster_ip = check.parse("cluster-ip-binding", &flags.cluster_ip_binding);
    check.ensure(cluster_ip != VipBinding::None, "cluster-ip-binding", |_| {
        "without a binding no Service is served; use route, steer or address".to_owned()
    });
    Bindings {
        cluster_ip,
        external_ip: check.parse("external-ip-binding", &flags.external_ip_binding),
        load_balancer: check.parse("load-balancer-ip-binding", &flags.load_balancer_ip_binding),
        excluded: check.prefixes("exclude-external-ips", &flags.exclude_external_ips),
        external_cidrs: check.prefixes("external-ip-cidrs", &flags.external_ip_cidrs),
    }
}

fn node_port_addresses(flags: &Flags, check: &mut Check<'_>) -> NodePortAddresses {
    let flag = "nodeport-addresses";
    let words = || flags.nodeport_addresses.iter().map(|word| word.trim()).filter(|word| !word.is_empty());
    if !words().any(|word| word == "primary") {
        let prefixes = check.cidrs(flag, &flags.nodeport_addresses);
        return if words().next().is_none() {
            NodePortAddresses::All
        } else {
            NodePortAddresses::Prefixes(prefixes)
        };
    }
    check.ensure(words().count() == 1, flag, |_| {
        "primary stands for the node's own addresses and excludes all ranges; name it alone".into()
    });
    NodePortAddresses::Primary
}

/// Ranges of the cluster's pods; what is wrong with them is listed once, by [`local_mode`].
fn cluster_cidrs(flags: &Flags, check: &Check<'_>) -> Vec<IpNetwork> {
    Check { names: check.names, errors: Vec::new() }.cidrs("cluster-cidr", &flags.cluster_cidr)
}

fn local_mode(flags: &Flags, check: &mut Check<'_>) -> LocalMode {
    let cidrs = check.cidrs("cluster-cidr", &flags.cluster_cidr);
    for family in IpFamily::ALL {
        let count = cidrs.iter().filter(|net| IpFamily::of(net.ip()) == family).count();
        check.ensure(count < 2, "cluster-cidr", |_| {
            format!("{count} {family} ranges, at most one is allowed")
        });
    }
    let named = |check: &mut Check<'_>, flag: &str, name: &str| {
        check.ensure(!name.is_empty(), flag, |names| {
            format!("required by {} {}", names.of("detect-local-mode"), flags.detect_local_mode)
        });
        name.to_owned()
    };
    match flags.detect_local_mode.as_str() {
        "ClusterCIDR" | "" => LocalMode::ClusterCidr(cidrs),
        "NodeCIDR" => LocalMode::NodeCidr,
        "BridgeInterface" => {
            LocalMode::BridgeInterface(named(check, "pod-bridge-interface", &flags.pod_bridge_interface))
        }
        "InterfaceNamePrefix" => {
            let prefix = &flags.pod_interface_name_prefix;
            LocalMode::InterfaceNamePrefix(named(check, "pod-interface-name-prefix", prefix))
        }
        other => {
            let expected = "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
            check.add("detect-local-mode", format!("unknown mode {other:?}: expected {expected}"));
            LocalMode::None
        }
    }
}

fn drain(flags: &Flags, check: &mut Check<'_>) -> drain::Settings {
    let (timeout, max) = (flags.graceful_timeout, flags.graceful_timeout_max);
    check.ensure(max.is_zero() || !timeout.is_zero() && timeout <= max, "graceful-timeout", |names| {
        let given = if timeout.is_zero() { "0 (no limit)".to_owned() } else { format!("{timeout:?}") };
        format!("{given} exceeds {} ({max:?})", names.of("graceful-timeout-max"))
    });
    drain::Settings {
        policy: check.parse("graceful-policy", &flags.graceful_policy),
        linger: flags.graceful_linger,
        timeout: drain::limit(flags.graceful_timeout),
        silence: drain::silence_limit(flags.graceful_silence),
        endpoint_gone: check.parse("graceful-endpoint-gone", &flags.graceful_endpoint_gone),
    }
}

fn warnings(flags: &Flags, names: &Names, enabled: &BTreeMap<String, bool>) -> Vec<String> {
    let silence = flags.graceful_silence;
    let raised = drain::silence_limit(silence).filter(|limit| *limit != silence);
    let raised = raised.map(|limit| {
        format!(
            "{}: {silence:?} is shorter than the age of the kernel's counters; {limit:?} is used instead; set at least \
             {limit:?}, or 0 for never",
            names.of("graceful-silence")
        )
    });
    raised.into_iter().chain(gates::warnings(enabled, names)).collect()
}

/// Parses a CIDR as Go's `ParseCIDR` does, which refuses an address without a prefix length.
fn cidr(text: &str) -> Result<IpNetwork, String> {
    let bad = || format!("invalid CIDR {text:?}: expected a form like 10.96.0.0/16");
    text.contains('/').then(|| text.parse().ok()).flatten().map(canonical_prefix).ok_or_else(bad)
}

#[cfg(test)]
mod tests;
