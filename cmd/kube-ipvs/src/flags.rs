//! The command line as typed; [`crate::config`] checks it.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use lb_types::parse_duration;

use crate::go;

/// kube-proxy's place, IPVS only.
#[derive(Debug, Parser)]
#[command(name = "kube-ipvs", version, args_override_self = true, max_term_width = 110)]
pub struct Cli {
    /// What to do; without a command, run until stopped.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings, the same for every command.
    #[command(flatten)]
    pub flags: Flags,
}

/// One-shot commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Print what would be written to the kernel of this node, and write nothing
    Plan,
    /// List the real servers that are on their way out, with the reason, their connections and how long it can take
    Drains {
        /// Format: table or json
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        output: Output,
        /// Repeat every second
        #[arg(short, long)]
        watch: bool,
    },
    /// Remove everything that is ours from the kernel, and nothing else
    Cleanup,
    /// Print the version
    Version,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs: one array of objects, on one line with --watch.
    Json,
}

/// Settings as typed.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// File with address and credentials of the API server; without it and --master, the Pod's service account
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<String>,

    /// URL of the API server, in the place of the one in the kubeconfig
    #[arg(long, global = true, value_name = "URL")]
    pub master: Option<String>,

    /// Instead of an API server: directory with Services, EndpointSlices and the Node as YAML or JSON files; it is followed
    #[arg(long, global = true, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Name of this node; the host name if not given
    #[arg(long, global = true, value_name = "NAME")]
    pub hostname_override: Option<String>,

    /// ClusterIP ranges: every virtual server in them is ours
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR,...")]
    pub service_cidrs: Vec<String>,

    /// Pod ranges of the cluster, one per family; used by --detect-local-mode=ClusterCIDR
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR,...")]
    pub cluster_cidr: Vec<String>,

    /// How pods of this node are recognised: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix. Connections
    /// of other clients to ClusterIPs are masqueraded
    #[arg(long, global = true, default_value = "ClusterCIDR", value_name = "MODE")]
    pub detect_local_mode: String,

    /// Bridge of the pods, for --detect-local-mode=BridgeInterface
    #[arg(long, global = true, default_value = "", value_name = "NAME")]
    pub pod_bridge_interface: String,

    /// Start of the names of pod interfaces, for --detect-local-mode=InterfaceNamePrefix
    #[arg(long, global = true, default_value = "", value_name = "PREFIX")]
    pub pod_interface_name_prefix: String,

    /// Masquerade all connections to ClusterIPs
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    pub masquerade_all: bool,

    /// Bit of the packet mark used by the two interface modes of --detect-local-mode
    #[arg(long, global = true, default_value_t = 14, value_name = "BIT")]
    pub iptables_masquerade_bit: u8,

    /// Scheduler of Services that name none: rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos
    #[arg(long, global = true, default_value = "rr", value_name = "NAME")]
    pub ipvs_scheduler: String,

    /// Which annotations of Services count: none, graceful (those about drains) or all
    #[arg(long, global = true, default_value = "all", value_name = "WHICH")]
    pub service_overrides: String,

    /// Schedulers that annotations may name; without it those that the kernel has loaded at the start, --ipvs-scheduler
    /// and rr, wrr, lc, wlc, sh, mh
    #[arg(long, global = true, value_delimiter = ',', value_name = "NAME,...")]
    pub allowed_schedulers: Vec<String>,

    /// How often the kernel is compared with what it should hold
    #[arg(long, global = true, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_sync_period: Duration,

    /// Shortest time between two syncs; 0 syncs every change at once
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_min_sync_period: Duration,

    /// Virtual servers in these ranges are left alone, and Services there are not served
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR,...")]
    pub ipvs_exclude_cidrs: Vec<String>,

    /// Set arp_ignore=1 and arp_announce=2
    #[arg(long = "ipvs-strict-arp", global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    pub ipvs_strict_arp: bool,

    /// Timeout of idle TCP connections in IPVS; 0 leaves the kernel's (900 s)
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_tcp_timeout: Duration,

    /// Timeout of TCP connections after a FIN; 0 leaves the kernel's (120 s)
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_tcpfin_timeout: Duration,

    /// Timeout of UDP flows in IPVS; 0 leaves the kernel's (300 s)
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_udp_timeout: Duration,

    /// When a draining real server is removed: active-only, all-connections or immediate
    #[arg(long, global = true, default_value = "active-only", value_name = "POLICY")]
    pub graceful_policy: String,

    /// How long a draining real server must be quiet with active-only
    #[arg(long, global = true, default_value = "5s", value_parser = parse_duration, value_name = "DURATION")]
    pub graceful_linger: Duration,

    /// A draining real server is removed after this time in any case; 0 for no limit
    #[arg(long, global = true, default_value = "15m", value_parser = parse_duration, value_name = "DURATION")]
    pub graceful_timeout: Duration,

    /// Longest --graceful-timeout that an annotation can ask for; 0 for any, no deadline included
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub graceful_timeout_max: Duration,

    /// A draining real server is removed when clients have waited for an answer for this long, at least 2.5s; 0 for never
    #[arg(long, global = true, default_value = "3s", value_parser = parse_duration, value_name = "DURATION")]
    pub graceful_silence: Duration,

    /// What the deletion of its pod does to a draining real server: remove or drain
    #[arg(long, global = true, default_value = "remove", value_name = "ACTION")]
    pub graceful_endpoint_gone: String,

    /// Value of net.ipv4.vs.conn_reuse_mode: auto (by kernel), 0, 1, or keep
    #[arg(long, global = true, default_value = "auto", value_name = "MODE")]
    pub conn_reuse_mode: String,

    /// Where /healthz, /livez and /readyz are answered; empty for nowhere. [::] is both families, 0.0.0.0 only IPv4
    #[arg(long, global = true, default_value = "[::]:10256", value_name = "ADDR:PORT")]
    pub healthz_bind_address: String,

    /// Where /metrics is answered; empty for nowhere
    #[arg(long, global = true, default_value = "127.0.0.1:10249", value_name = "ADDR:PORT")]
    pub metrics_bind_address: String,

    /// Directory for what must survive a restart of the process but not of the node
    #[arg(long, global = true, default_value = "/run/kube-ipvs", value_name = "DIR")]
    pub state_dir: PathBuf,

    /// Log format: text or json
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    pub logging_format: String,

    /// Verbosity: 0 to 3 for one line per sync that changed something, 4 for every write, 6 for every message
    #[arg(short = 'v', long = "v", global = true, default_value_t = 2, value_name = "LEVEL")]
    pub verbosity: u8,
}

/// Parses the command line, or says what is wrong with it and ends the process.
pub fn parse(args: impl Iterator<Item = OsString>) -> Cli {
    try_parse(args).unwrap_or_else(|error| error.exit())
}

fn try_parse(args: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let args = normalised(args);
    Cli::try_parse_from(&args).map_err(|error| match error.kind() {
        ErrorKind::InvalidUtf8 => not_utf8(&args),
        _ => error,
    })
}

/// Names the arguments, unlike clap.
fn not_utf8(args: &[OsString]) -> clap::Error {
    let odd = args.iter().filter(|arg| arg.to_str().is_none()).map(|arg| format!("{arg:?}"));
    let odd = odd.collect::<Vec<_>>().join(", ");
    Cli::command()
        .error(ErrorKind::InvalidUtf8, format!("only names of files may be other than UTF-8: {odd}"))
}

/// Arguments with `_` in flag names replaced by `-`, as pflag's normaliser in kube-proxy does.
fn normalised(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut names_end = false;
    let normalise = |arg: OsString| {
        names_end |= arg == "--";
        if names_end || !arg.as_bytes().starts_with(b"--") {
            return arg;
        }
        let mut bytes = arg.into_vec();
        let name_ends = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
        bytes[..name_ends].iter_mut().filter(|byte| **byte == b'_').for_each(|byte| *byte = b'-');
        OsString::from_vec(bytes)
    };
    args.map(normalise).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        try_parse(["kube-ipvs"].iter().chain(args).map(OsString::from))
    }

    #[test]
    fn arguments_that_are_no_text_are_named() {
        let bytes = |bytes: &[&[u8]]| {
            let args = [&b"kube-ipvs"[..]]
                .into_iter()
                .chain(bytes.iter().copied())
                .map(|arg| OsString::from_vec(arg.to_vec()));
            try_parse(args.collect::<Vec<_>>().into_iter())
        };
        let error = bytes(&[b"plan", b"--hostname-override=n\xff", b"-v=4"]).unwrap_err().to_string();
        assert!(error.contains(r"--hostname-override=n\xFF") && !error.contains("-v=4"), "{error}");
        assert!(bytes(&[b"pl\xe4n"]).is_err() && bytes(&[b"--\xff_x=1"]).is_err());
        let cli = bytes(&[b"--state_dir=/run/\xff_x"]).unwrap();
        assert_eq!(cli.flags.state_dir.as_os_str().as_bytes(), b"/run/\xff_x", "a file may have any name");
    }

    #[test]
    fn spellings_of_kube_proxy() {
        let cli = parse(&["--masquerade_all", "--ipvs-sync_period=10s", "-v=4", "--cluster-cidr=a_b/8,c/9"])
            .unwrap();
        assert!(cli.flags.masquerade_all);
        assert_eq!(cli.flags.ipvs_sync_period, Duration::from_secs(10));
        assert_eq!(
            (cli.flags.verbosity, cli.flags.cluster_cidr),
            (4, vec!["a_b/8".to_owned(), "c/9".to_owned()])
        );
        let last_wins = parse(&["--masquerade-all=T", "--masquerade-all=false"]).unwrap();
        assert!(!last_wins.flags.masquerade_all);
    }

    #[test]
    fn commands_take_the_same_flags() {
        let cli = parse(&["plan", "--manifests", "/m"]).unwrap();
        assert_eq!((cli.command, cli.flags.manifests), (Some(Command::Plan), Some("/m".into())));
        assert!(
            parse(&["--manifests"]).is_err()
                && parse(&["--no-such-flag"]).is_err()
                && parse(&["extra"]).is_err()
        );
    }
}
