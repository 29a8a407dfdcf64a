//! The configuration that flags make: one valid value, or a list of all mistakes in them.

use std::{collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use ipnetwork::IpNetwork;
use kernel::ConnReuseFlag;
use lb_types::{IpFamily, RulesLayout, Scheduler};
use planner::{Ownership, PlannerConfig};
use reconcile::{Config, LocalMode};
use telemetry::LogFormat;

use crate::flags::Flags;

/// Configuration of the process; valid by construction.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this node.
    pub node_name: String,
    /// Origin of the objects.
    pub source: Source,
    /// Address that answers health checks.
    pub healthz: Option<SocketAddr>,
    /// Address that answers metrics.
    pub metrics: Option<SocketAddr>,
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
    /// Directory for state that must survive a restart.
    pub state_dir: PathBuf,
    /// Lines for the log at start: settings that give way to another value.
    pub warnings: Vec<String>,
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

/// All mistakes in the flags.
#[derive(Debug, thiserror::Error)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid configuration")?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

/// Collects mistakes while it takes values.
#[derive(Default)]
struct Check(Vec<String>);

impl Check {
    fn take<T: Default, E: fmt::Display>(&mut self, flag: &str, result: Result<T, E>) -> T {
        result.unwrap_or_else(|error| {
            self.0.push(format!("{flag}: {error}"));
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

    fn ensure(&mut self, condition: bool, error: impl FnOnce() -> String) {
        if !condition {
            self.0.push(error());
        }
    }
}

impl Settings {
    /// Checks all flags.
    pub fn new(flags: &Flags) -> Result<Self, ConfigErrors> {
        let mut check = Check::default();
        let node_name = check.take("--hostname-override", node_name(flags));
        let local_mode = local_mode(flags, &mut check);
        check.ensure(flags.iptables_masquerade_bit < 32, || {
            format!("--iptables-masquerade-bit: {} is not in 0..31", flags.iptables_masquerade_bit)
        });
        check.ensure(!flags.ipvs_sync_period.is_zero(), || {
            "--ipvs-sync-period: must be greater than 0".into()
        });
        check.ensure(flags.ipvs_min_sync_period <= flags.ipvs_sync_period, || {
            format!(
                "--ipvs-min-sync-period: {:?} is longer than --ipvs-sync-period ({:?})",
                flags.ipvs_min_sync_period, flags.ipvs_sync_period
            )
        });
        let reconcile = Config {
            planner: planner(flags, &node_name, &mut check),
            local_mode,
            ownership: Ownership {
                service_cidrs: check.cidrs("--service-cidrs", &flags.service_cidrs),
                exclude_cidrs: check.cidrs("--ipvs-exclude-cidrs", &flags.ipvs_exclude_cidrs),
                ..Ownership::default()
            },
            drain: drain(flags, &mut check),
            sync_period: flags.ipvs_sync_period,
            min_sync_period: flags.ipvs_min_sync_period,
        };
        let settings = Settings {
            node_name,
            source: source(flags, &mut check),
            healthz: bind_address("--healthz-bind-address", &flags.healthz_bind_address, &mut check),
            metrics: bind_address("--metrics-bind-address", &flags.metrics_bind_address, &mut check),
            reconcile,
            allow_loaded_schedulers: listed_schedulers(flags).next().is_none(),
            timeouts: IdleTimeouts {
                tcp: flags.ipvs_tcp_timeout,
                tcp_fin: flags.ipvs_tcpfin_timeout,
                udp: flags.ipvs_udp_timeout,
            },
            conn_reuse: check.parse("--conn-reuse-mode", &flags.conn_reuse_mode),
            strict_arp: flags.ipvs_strict_arp,
            state_dir: flags.state_dir.clone(),
            warnings: warnings(flags),
            log_format: check.parse("--logging-format", &flags.logging_format),
            verbosity: flags.verbosity,
        };
        if check.0.is_empty() { Ok(settings) } else { Err(ConfigErrors(check.0)) }
    }
}

/// The override or the host name, trimmed and in lower case (pkg/util/node `GetHostname`).
fn node_name(flags: &Flags) -> Result<String, String> {
    match &flags.hostname_override {
        Some(name) if name.trim().is_empty() => Err("empty host name is not allowed".into()),
        Some(name) => Ok(name.trim().to_lowercase()),
        None => kernel::hostname().map_err(|error| error.to_string()),
    }
}

fn source(flags: &Flags, check: &mut Check) -> Source {
    let given = |text: &&String| !text.is_empty();
    let kubeconfig = flags.kubeconfig.as_ref().filter(given).map(PathBuf::from);
    let master = flags.master.as_ref().filter(given).cloned();
    match &flags.manifests {
        Some(dir) => {
            check.ensure(kubeconfig.is_none() && master.is_none(), || {
                "--manifests: objects come from one place only; leave out --kubeconfig and --master".into()
            });
            Source::Manifests(dir.clone())
        }
        None => Source::Api { kubeconfig, master },
    }
}

fn bind_address(flag: &str, text: &str, check: &mut Check) -> Option<SocketAddr> {
    let text = text.trim();
    let address = |text: &str| {
        text.parse().map_err(|_| format!("{text:?} is not an address with a port, such as 0.0.0.0:10256"))
    };
    (!text.is_empty()).then(|| check.take(flag, address(text).map(Some))).flatten()
}

/// Names in `--allowed-schedulers`.
fn listed_schedulers(flags: &Flags) -> impl Iterator<Item = &str> {
    flags.allowed_schedulers.iter().map(|name| name.trim()).filter(|name| !name.is_empty())
}

/// Schedulers that annotations may name in any case.
fn allowed_schedulers(flags: &Flags, default: Scheduler, check: &mut Check) -> BTreeSet<Scheduler> {
    let named = |name: &str| check.take("--allowed-schedulers", name.parse::<Scheduler>().map(Some));
    let named: BTreeSet<_> = listed_schedulers(flags).filter_map(named).collect();
    if named.is_empty() { USUAL_SCHEDULERS.into_iter().chain([default]).collect() } else { named }
}

fn planner(flags: &Flags, node_name: &str, check: &mut Check) -> PlannerConfig {
    let scheduler = match flags.ipvs_scheduler.as_str() {
        "" => Ok(Some(Scheduler::RR)),
        name => name.parse::<Scheduler>().map(Some),
    };
    let scheduler = check.take("--ipvs-scheduler", scheduler).unwrap_or(Scheduler::RR);
    PlannerConfig {
        scheduler,
        service_overrides: check.parse("--service-overrides", &flags.service_overrides),
        allowed_schedulers: allowed_schedulers(flags, scheduler, check),
        graceful_timeout_max: drain::limit(flags.graceful_timeout_max),
        masquerade_all: flags.masquerade_all,
        layout: RulesLayout { masquerade_bit: flags.iptables_masquerade_bit, ..RulesLayout::default() },
        node_name: node_name.to_owned(),
        ..PlannerConfig::default()
    }
}

fn local_mode(flags: &Flags, check: &mut Check) -> LocalMode {
    let cidrs = check.cidrs("--cluster-cidr", &flags.cluster_cidr);
    for family in IpFamily::ALL {
        let count = cidrs.iter().filter(|net| IpFamily::of(net.ip()) == family).count();
        check
            .ensure(count < 2, || format!("--cluster-cidr: {count} {family} ranges, at most one is allowed"));
    }
    let named = |check: &mut Check, flag: &str, name: &str| {
        let error = || format!("{flag}: required by --detect-local-mode={}", flags.detect_local_mode);
        check.ensure(!name.is_empty(), error);
        name.to_owned()
    };
    match flags.detect_local_mode.as_str() {
        "ClusterCIDR" | "" => LocalMode::ClusterCidr(cidrs),
        "NodeCIDR" => LocalMode::NodeCidr,
        "BridgeInterface" => {
            LocalMode::BridgeInterface(named(check, "--pod-bridge-interface", &flags.pod_bridge_interface))
        }
        "InterfaceNamePrefix" => {
            let prefix = &flags.pod_interface_name_prefix;
            LocalMode::InterfaceNamePrefix(named(check, "--pod-interface-name-prefix", prefix))
        }
        other => {
            let expected = "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
            check.0.push(format!("--detect-local-mode: unknown mode {other:?}: expected {expected}"));
            LocalMode::None
        }
    }
}

fn drain(flags: &Flags, check: &mut Check) -> drain::Settings {
    let (timeout, max) = (flags.graceful_timeout, flags.graceful_timeout_max);
    check.ensure(max.is_zero() || !timeout.is_zero() && timeout <= max, || {
        let given = if timeout.is_zero() { "0 (no limit)".to_owned() } else { format!("{timeout:?}") };
        format!("--graceful-timeout: {given} exceeds --graceful-timeout-max ({max:?})")
    });
    drain::Settings {
        policy: check.parse("--graceful-policy", &flags.graceful_policy),
        linger: flags.graceful_linger,
        timeout: drain::limit(flags.graceful_timeout),
        silence: drain::silence_limit(flags.graceful_silence),
        endpoint_gone: check.parse("--graceful-endpoint-gone", &flags.graceful_endpoint_gone),
    }
}

fn warnings(flags: &Flags) -> Vec<String> {
    let silence = flags.graceful_silence;
    let raised = drain::silence_limit(silence).filter(|limit| *limit != silence);
    let raised = raised.map(|limit| {
        format!(
            "--graceful-silence: {silence:?} is shorter than the age of the kernel's counters; {limit:?} is used \
             instead; set at least {limit:?}, or 0 for never"
        )
    });
    raised.into_iter().collect()
}

/// Parses a CIDR as Go's `ParseCIDR` does, which refuses an address without a prefix length.
fn cidr(text: &str) -> Result<IpNetwork, String> {
    let bad = || format!("invalid CIDR {text:?}: expected a form like 10.96.0.0/16");
    let net: IpNetwork = text.contains('/').then(|| text.parse().ok()).flatten().ok_or_else(bad)?;
    IpNetwork::new(net.network(), net.prefix()).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flags::Cli;

    fn settings(args: &[&str]) -> Result<Settings, String> {
        let args = ["kube-ipvs", "--hostname-override=N1 "].iter().chain(args);
        Settings::new(&Cli::parse_from(args).flags).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.node_name, "n1");
        assert_eq!(settings.reconcile.planner.node_name, "n1", "decides what is local");
        assert_eq!(settings.reconcile.drain, drain::Settings::default());
        assert_eq!(settings.reconcile.planner.scheduler, Scheduler::RR);
        assert_eq!(settings.reconcile.local_mode, LocalMode::ClusterCidr(Vec::new()));
        assert!(settings.reconcile.min_sync_period.is_zero(), "every change at once");
    }

    #[test]
    fn a_silence_below_the_age_of_counters_is_raised_with_a_warning() {
        for (given, used, warns) in [
            ("0", None, false),
            ("1ms", Some(2500), true),
            ("2s", Some(2500), true),
            ("2500ms", Some(2500), false),
            ("1m", Some(60_000), false),
        ] {
            let settings = settings(&[&format!("--graceful-silence={given}")]).unwrap();
            assert_eq!(settings.reconcile.drain.silence, used.map(Duration::from_millis), "{given}");
            let named = settings.warnings.iter().any(|line| line.starts_with("--graceful-silence: "));
            assert_eq!(named, warns, "{given}: {:?}", settings.warnings);
        }
    }

    #[test]
    fn every_mistake_is_listed_with_its_flag() {
        let error = settings(&[
            "--cluster-cidr=10.0.0.1,10.1.0.0/16,10.2.0.0/16",
            "--detect-local-mode=Magic",
            "--ipvs-scheduler=fair",
            "--service-overrides=some",
            "--allowed-schedulers=rr,best",
            "--graceful-timeout=0",
            "--graceful-timeout-max=1h",
            "--ipvs-sync-period=0",
            "--ipvs-min-sync-period=1s",
            "--graceful-policy=never",
            "--graceful-endpoint-gone=ignore",
            "--conn-reuse-mode=7",
            "--logging-format=xml",
            "--iptables-masquerade-bit=32",
            "--service-cidrs=fd00::/129",
            "--healthz-bind-address=here",
            "--metrics-bind-address=10249",
            "--manifests=/m",
            "--master=https://10.0.0.1",
        ])
        .unwrap_err();
        for flag in [
            "--cluster-cidr: invalid CIDR \"10.0.0.1\"",
            "--cluster-cidr: 2 IPv4 ranges",
            "--detect-local-mode: unknown mode \"Magic\"",
            "--ipvs-scheduler: unknown IPVS scheduler \"fair\"",
            "--service-overrides: unknown value \"some\"",
            "--allowed-schedulers: unknown IPVS scheduler \"best\"",
            "--graceful-timeout: 0 (no limit) exceeds --graceful-timeout-max (3600s)",
            "--ipvs-sync-period: must",
            "--ipvs-min-sync-period: 1s is longer than --ipvs-sync-period (0ns)",
            "--graceful-policy: unknown",
            "--graceful-endpoint-gone: unknown",
            "--conn-reuse-mode: ",
            "--logging-format: ",
            "--iptables-masquerade-bit: 32",
            "--service-cidrs: invalid CIDR",
            "--healthz-bind-address: \"here\"",
            "--metrics-bind-address: \"10249\"",
            "--manifests: objects come from one place",
        ] {
            assert!(error.contains(flag), "{flag} is missing in\n{error}");
        }
    }

    #[test]
    fn annotations_name_the_usual_schedulers_unless_others_are_listed() {
        let allowed = |args: &[&str]| {
            let settings = settings(args).unwrap();
            let names = settings.reconcile.planner.allowed_schedulers.iter().map(Scheduler::to_string);
            (names.collect::<Vec<_>>().join(" "), settings.allow_loaded_schedulers)
        };
        assert_eq!(allowed(&[]), ("lc mh rr sh wlc wrr".into(), true));
        assert_eq!(allowed(&["--ipvs-scheduler=sed"]), ("lc mh rr sed sh wlc wrr".into(), true));
        assert_eq!(allowed(&["--allowed-schedulers=dh, lc"]), ("dh lc".into(), false));
    }

    #[test]
    fn objects_come_from_the_cluster_unless_a_directory_is_given() {
        let source = |args: &[&str]| settings(args).unwrap().source;
        assert_eq!(source(&[]), Source::Api { kubeconfig: None, master: None });
        assert_eq!(
            source(&["--kubeconfig=/k", "--master=https://m"]),
            Source::Api { kubeconfig: Some("/k".into()), master: Some("https://m".into()) }
        );
        assert_eq!(source(&["--manifests=/m", "--kubeconfig=", "--master="]), Source::Manifests("/m".into()));
        assert_eq!(settings(&["--healthz-bind-address="]).unwrap().healthz, None);
    }

    #[test]
    fn modes_need_their_interface() {
        let error = settings(&["--detect-local-mode=BridgeInterface"]).unwrap_err();
        assert!(error.contains("--pod-bridge-interface"), "{error}");
        let settings =
            settings(&["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali"]);
        assert_eq!(settings.unwrap().reconcile.local_mode, LocalMode::InterfaceNamePrefix("cali".into()));
    }
}
