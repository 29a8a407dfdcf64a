//! The command line as typed, which [`crate::config`] checks.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    ArgAction, ArgMatches, Args, CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind,
};
use lb_types::parse_duration;
use proxy_config::go;

mod conntrack;
mod process;
pub mod without_effect;

pub use conntrack::ConntrackFlags;
pub use process::{ProcessFlags, VersionRequest};

/// Programs Linux IPVS from the Services of a cluster, in the place of kube-proxy
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kube-ipvs",
    version,
    disable_version_flag = true,
    args_override_self = true,
    max_term_width = 110
)]
pub struct Cli {
    /// Command; without one, kube-ipvs runs until it is stopped
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags that are no part of the configuration.
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Flags of every command.
    #[command(flatten)]
    pub flags: Flags,
}

/// Commands that end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Prints what would be written to the kernel of this node, and writes nothing
    Plan,
    /// Lists the real servers that drain, with the reason, their connections and the deadline
    Drains {
        /// Format of the list: table or json
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        output: Output,
        /// Repeats the list every second
        #[arg(short, long)]
        watch: bool,
    },
    /// Removes everything of kube-ipvs from the kernel, and nothing else
    Cleanup,
    /// Prints the version
    Version,
}

/// Task of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task<'a> {
    /// Follows the cluster until it is stopped.
    Run,
    /// A command, other than the one that prints the version.
    Command(Command),
    /// Writes the configuration to a file.
    WriteConfig(&'a Path),
    /// Sets the kernel parameters.
    Init,
    /// Prints the version.
    Version(VersionRequest),
}

impl Cli {
    /// Flag that asks for another task than the command does.
    pub fn contradiction(&self) -> Option<&'static str> {
        let ProcessFlags { write_config_to, cleanup, init_only, .. } = &self.process;
        let writes = write_config_to.as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        match self.command? {
            Command::Cleanup | Command::Version if *cleanup => None,
            _ if *cleanup => Some("cleanup"),
            _ if *init_only => Some("init-only"),
            _ if writes => Some("write-config-to"),
            _ => None,
        }
    }

    /// Task, by command or flag. Where flags name several, kube-proxy's order counts.
    pub fn task(&self) -> Task<'_> {
        let ProcessFlags { version, write_config_to, cleanup, init_only, .. } = &self.process;
        match (self.command, write_config_to) {
            _ if *version != VersionRequest::No => Task::Version(*version),
            (Some(Command::Version), _) => Task::Version(VersionRequest::Line),
            (Some(command), _) => Task::Command(command),
            (None, Some(path)) if !path.as_os_str().is_empty() => Task::WriteConfig(path),
            (None, _) if *cleanup => Task::Command(Command::Cleanup),
            (None, _) if *init_only => Task::Init,
            (None, _) => Task::Run,
        }
    }
}

/// Format of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    Table,
    /// One array of objects for programs, on one line with --watch.
    Json,
}

/// Flags as typed.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// File with address and credentials of the API server; without it and --master, kube-ipvs uses its Pod's service
    /// account
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<String>,

    /// URL of the API server, instead of the one in the kubeconfig
    #[arg(long, global = true, value_name = "URL")]
    pub master: Option<String>,

    /// Media type of objects from the API server: application/vnd.kubernetes.protobuf, or JSON from a server that has
    /// nothing else; application/json for JSON alone
    #[arg(long, global = true, default_value = "application/vnd.kubernetes.protobuf", value_name = "TYPE")]
    pub kube_api_content_type: String,

    /// Directory with Services, EndpointSlices and the Node as YAML or JSON files, instead of an API server; edits take
    /// effect as they are saved
    #[arg(long, global = true, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Proxy mode: ipvs, which is also the meaning of an empty value. No other mode is supported
    #[arg(long, global = true, default_value = "", value_name = "MODE")]
    pub proxy_mode: String,

    /// Feature gates of kube-proxy. AllowServiceExternalIPs=false ignores spec.externalIPs of Services; the others have
    /// no effect
    #[arg(long, global = true, value_delimiter = ',', value_name = "NAME=BOOL,...")]
    pub feature_gates: Vec<String>,

    /// Name of this node; without it, the host name
    #[arg(long, global = true, value_name = "NAME")]
    pub hostname_override: Option<String>,

    /// ClusterIP ranges; every virtual server in them belongs to kube-ipvs
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR,...")]
    pub service_cidrs: Vec<String>,

    /// Pod ranges of the cluster, one per family, for --detect-local-mode=ClusterCIDR
    #[arg(long, global = true, value_delimiter = ',', action = ArgAction::Set, value_name = "CIDR,...")]
    pub cluster_cidr: Vec<String>,

    /// Way to recognise pods of this node: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix. Connections
    /// of other clients to ClusterIPs are masqueraded
    #[arg(long, global = true, default_value = "ClusterCIDR", value_name = "MODE")]
    pub detect_local_mode: String,

    /// Bridge of the pods, for --detect-local-mode=BridgeInterface
    #[arg(long, global = true, default_value = "", value_name = "NAME")]
    pub pod_bridge_interface: String,

    /// Prefix of the names of pod interfaces, for --detect-local-mode=InterfaceNamePrefix
    #[arg(long, global = true, default_value = "", value_name = "PREFIX")]
    pub pod_interface_name_prefix: String,

    /// Addresses of this node at which node ports are served: those in some ranges, or, for the word primary, those that
    /// the Node object names first; without it, all. A family without a range has all, too. Loopback and link-local
    /// addresses and ClusterIPs never serve node ports
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR,...")]
    pub nodeport_addresses: Vec<String>,

    /// Keys of the virtual servers of node ports: mark, a packet mark, so that one virtual server is for all addresses of
    /// the node; or address, so that each address has one and packets keep the marks of other programs. Session affinity
    /// takes address, externalTrafficPolicy: Local takes mark
    #[arg(long, global = true, default_value = "mark", value_name = "KEY")]
    pub node_port_servers: String,

    /// Packet marks that kube-ipvs may use: those that agree with VALUE in the bits of MASK. They select virtual servers,
    /// and no packet leaves the node with one
    #[arg(long, global = true, default_value_t = lb_types::MarkRange::DEFAULT.to_string(), value_name = "VALUE/MASK")]
    pub mark_range: String,

    /// Way by which packets to ClusterIPs come to IPVS: route, a local route; address, an address of kube-ipvs0; or steer,
    /// a packet mark
    #[arg(long, global = true, default_value = "route", value_name = "BINDING")]
    pub cluster_ip_binding: String,

    /// Way by which packets to external IPs come to IPVS: steer, so that only packets to ports of Services do and the
    /// address is otherwise wherever routing leads; route; address; or none
    #[arg(long, global = true, default_value = "steer", value_name = "BINDING")]
    pub external_ip_binding: String,

    /// Way by which packets to ingress IPs of load balancers come to IPVS: steer, route, address or none
    #[arg(long, global = true, default_value = "steer", value_name = "BINDING")]
    pub load_balancer_ip_binding: String,

    /// External and load-balancer IPs that are bound to no node, whatever their Services ask for
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR|IP,...")]
    pub exclude_external_ips: Vec<String>,

    /// Ranges that the external IPs of Services must lie in; without it, they may be any addresses but those of
    /// ClusterIPs and pods. IPs of load balancers are not concerned
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR|IP,...")]
    pub external_ip_cidrs: Vec<String>,

    /// Bit of the packet mark that steered packets have from the prerouting hook to the input hook; without it 12, or 13
    /// where 12 is the bit of --iptables-masquerade-bit
    #[arg(long, global = true, value_parser = go::integer::<i32>, value_name = "BIT")]
    pub steer_mark_bit: Option<i32>,

    /// Masquerades all connections to ClusterIPs
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    pub masquerade_all: bool,

    /// Bit of the packet mark that the two interface modes of --detect-local-mode use
    #[arg(long, global = true, default_value_t = 14, value_parser = go::integer::<i32>, value_name = "BIT")]
    pub iptables_masquerade_bit: i32,

    /// Scheduler of Services that name none: rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos
    #[arg(long, global = true, default_value = "rr", value_name = "NAME")]
    pub ipvs_scheduler: String,

    /// Annotations of Services that count: none, graceful (those about drains) or all
    #[arg(long, global = true, default_value = "all", value_name = "ANNOTATIONS")]
    pub service_overrides: String,

    /// Schedulers that annotations may name; without it, those that the kernel has loaded at the start,
    /// --ipvs-scheduler, and rr, wrr, lc, wlc, sh, mh
    #[arg(long, global = true, value_delimiter = ',', value_name = "NAME,...")]
    pub allowed_schedulers: Vec<String>,

    /// Interval between two audits, which compare the kernel with what it should hold
    #[arg(long, global = true, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_sync_period: Duration,

    /// Shortest time between two syncs; 0 to sync every change at once. kube-proxy's default is 0 in files as well, but
    /// 1s on the command line
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_min_sync_period: Duration,

    /// Ranges in which kube-ipvs leaves all virtual servers alone but those of Services
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR,...")]
    pub ipvs_exclude_cidrs: Vec<String>,

    /// Sets the kernel parameters arp_ignore=1 and arp_announce=2
    #[arg(long = "ipvs-strict-arp", global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    pub ipvs_strict_arp: bool,

    /// Timeout of idle TCP connections in IPVS; 0 for 24h, or longer if the kernel has been set to it. The kernel's own
    /// is 900s
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_tcp_timeout: Duration,

    /// Timeout of TCP connections in IPVS after a FIN; 0 for the kernel's (120 s)
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_tcpfin_timeout: Duration,

    /// Timeout of UDP flows in IPVS; 0 for the kernel's (300 s)
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_udp_timeout: Duration,

    /// Fate of the packet rules that kube-proxy has left in nf_tables, once all Services are programmed: remove or keep
    #[arg(long, global = true, default_value = "remove", value_name = "FATE")]
    pub kube_proxy_rules: String,

    /// Rule by which a draining real server is removed: active-only, all-connections or immediate
    #[arg(long, global = true, default_value = "active-only", value_name = "POLICY")]
    pub graceful_policy: String,

    /// Time for which a draining real server must be quiet under active-only
    #[arg(long, global = true, default_value = "5s", value_parser = parse_duration, value_name = "DURATION")]
    pub graceful_linger: Duration,

    /// Time after which a draining real server is removed in any case; 0 for no limit
    #[arg(long, global = true, default_value = "15m", value_parser = parse_duration, value_name = "DURATION")]
    pub graceful_timeout: Duration,

    /// Longest timeout that an annotation may ask for; 0 for any, including none
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub graceful_timeout_max: Duration,

    /// Time without an answer to its clients after which a draining real server is removed, at least 2.5s; 0 for never
    #[arg(long, global = true, default_value = "3s", value_parser = parse_duration, value_name = "DURATION")]
    pub graceful_silence: Duration,

    /// Effect of the deletion of its pod on a draining real server: remove or drain
    #[arg(long, global = true, default_value = "remove", value_name = "ACTION")]
    pub graceful_endpoint_gone: String,

    /// Value of net.ipv4.vs.conn_reuse_mode: auto (by kernel), 0, 1, or keep
    #[arg(long, global = true, default_value = "auto", value_name = "MODE")]
    pub conn_reuse_mode: String,

    /// Address of this node, used instead of the one in its Node object if the node has it. Its family selects
    /// the default addresses of the health and metrics servers; Services are served at all addresses
    #[arg(long, global = true, default_value = "0.0.0.0", value_name = "ADDR")]
    pub bind_address: String,

    /// Address that answers /healthz, /livez and /readyz; empty for none. The default is [::]:10256, which is both
    /// families (kube-proxy's is 0.0.0.0:10256, IPv4 alone), or 0.0.0.0:10256 if --bind-address is an IPv4 address. In
    /// a file, an empty value means the default
    #[arg(long, global = true, value_name = "ADDR[:PORT]")]
    pub healthz_bind_address: Option<String>,

    /// Address that answers /metrics, /configz, /flagz, /statusz, /proxyMode and a /healthz of its own; empty for none.
    /// The default is 127.0.0.1:10249, or [::1]:10249 if --bind-address is an IPv6 address. In a file, an empty value
    /// means the default
    #[arg(long, global = true, value_name = "ADDR[:PORT]")]
    pub metrics_bind_address: Option<String>,

    /// Port of --healthz-bind-address if it has none; 0 for no server
    #[arg(long, global = true, default_value_t = 10256, value_parser = go::integer::<u16>, value_name = "PORT")]
    pub healthz_port: u16,

    /// Port of --metrics-bind-address if it has none; 0 for no server
    #[arg(long, global = true, default_value_t = 10249, value_parser = go::integer::<u16>, value_name = "PORT")]
    pub metrics_port: u16,

    /// Exports the connections, packets and bytes of each Service: of the first 1,000 with traffic, and of the others
    /// together
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    pub service_metrics: bool,

    /// Exits if the address of the health or metrics server cannot be bound, instead of retrying every 5 s
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    pub bind_address_hard_fail: bool,

    /// Adjustment of the process's OOM score: the kernel never kills it at -1000, and kills it first at 1000
    #[arg(long, global = true, default_value_t = -999, allow_hyphen_values = true,
          value_parser = go::integer::<i32>, value_name = "RANK")]
    pub oom_score_adj: i32,

    /// Settings of connection tracking.
    #[command(flatten)]
    pub conntrack: ConntrackFlags,

    /// Directory for state that must survive a restart of the process but not of the node
    #[arg(long, global = true, default_value = "/run/kube-ipvs", value_name = "DIR")]
    pub state_dir: PathBuf,

    /// Format of log lines: text or json
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    pub logging_format: String,

    /// Verbosity: 0 to 3 for one line per sync that changed something, 4 for every write, 6 for every message of
    /// libraries
    #[arg(short = 'v', long = "v", global = true, default_value_t = 2, value_parser = go::integer::<u32>,
          value_name = "LEVEL")]
    pub verbosity: u32,
}

/// The whole command line: [`Cli`], and the flags that are accepted without effect.
pub fn command() -> clap::Command {
    without_effect::add(Cli::command())
}

/// Drops empty arguments that are no value of the flag before, as kube-proxy does: templates leave them.
pub fn drop_empty(args: &mut Vec<OsString>) {
    if !args.iter().any(|arg| arg.is_empty()) {
        return;
    }
    let command = command();
    let takes_next = |arg: &OsString| {
        let text = arg.to_string_lossy().replace('_', "-");
        let is_it = |known: &&clap::Arg| match text.strip_prefix("--") {
            Some(name) => known.get_long() == Some(name),
            None => known.get_short().is_some_and(|short| text == format!("-{short}")),
        };
        let known = command.get_arguments().find(is_it);
        known.is_some_and(|known| known.get_action().takes_values() && !known.is_require_equals_set())
    };
    let mut is_value = true;
    args.retain(|arg| {
        let stays = !arg.is_empty() || is_value;
        is_value = !is_value && takes_next(arg);
        stays
    });
}

/// Parses the command line.
pub fn try_parse(args: impl IntoIterator<Item = OsString>) -> Result<ArgMatches, clap::Error> {
    let args = normalise_names(args);
    command().try_get_matches_from(&args).map_err(|error| match error.kind() {
        ErrorKind::InvalidUtf8 => not_utf8(&args),
        _ => error,
    })
}

/// Error for arguments that are no text; it names them, which clap's own does not.
fn not_utf8(args: &[OsString]) -> clap::Error {
    let odd = args.iter().filter(|arg| arg.to_str().is_none()).map(|arg| format!("{arg:?}"));
    let odd = odd.collect::<Vec<_>>().join(", ");
    command().error(ErrorKind::InvalidUtf8, format!("only names of files may be other than UTF-8: {odd}"))
}

/// Replaces `_` by `-` in the names of flags, as pflag's normaliser in kube-proxy does.
fn normalise_names(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut names_end = false;
    let normalise = |arg: OsString| {
        names_end |= arg == "--";
        if names_end || !arg.as_bytes().starts_with(b"--") {
            return arg;
        }
        let mut bytes = arg.into_vec();
        let name_ends = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
        for byte in bytes[..name_ends].iter_mut().filter(|byte| **byte == b'_') {
            *byte = b'-';
        }
        OsString::from_vec(bytes)
    };
    args.into_iter().map(normalise).collect()
}

#[cfg(test)]
mod page;

#[cfg(test)]
mod tests;
