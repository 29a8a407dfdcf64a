//! The command line as typed, which [`crate::config`] checks.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use lb_types::parse_duration;

use crate::go;

/// Programs Linux IPVS from the Services of a cluster, in the place of kube-proxy
#[derive(Debug, Parser)]
#[command(name = "kube-ipvs", version, args_override_self = true, max_term_width = 110)]
pub struct Cli {
    /// Command; without one, kube-ipvs runs until it is stopped
    #[command(subcommand)]
    pub command: Option<Command>,
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

    /// Directory with Services, EndpointSlices and the Node as YAML or JSON files, instead of an API server; edits take
    /// effect as they are saved
    #[arg(long, global = true, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Name of this node; without it, the host name
    #[arg(long, global = true, value_name = "NAME")]
    pub hostname_override: Option<String>,

    /// ClusterIP ranges; every virtual server in them belongs to kube-ipvs
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR,...")]
    pub service_cidrs: Vec<String>,

    /// Pod ranges of the cluster, one per family, for --detect-local-mode=ClusterCIDR
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR,...")]
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

    /// Masquerades all connections to ClusterIPs
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    pub masquerade_all: bool,

    /// Bit of the packet mark that the two interface modes of --detect-local-mode use
    #[arg(long, global = true, default_value_t = 14, value_name = "BIT")]
    pub iptables_masquerade_bit: u8,

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

    /// Shortest time between two syncs; 0 to sync every change at once
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_min_sync_period: Duration,

    /// Ranges in which kube-ipvs leaves virtual servers alone and serves no Services
    #[arg(long, global = true, value_delimiter = ',', value_name = "CIDR,...")]
    pub ipvs_exclude_cidrs: Vec<String>,

    /// Sets the kernel parameters arp_ignore=1 and arp_announce=2
    #[arg(long = "ipvs-strict-arp", global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    pub ipvs_strict_arp: bool,

    /// Timeout of idle TCP connections in IPVS; 0 for the kernel's (900 s)
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_tcp_timeout: Duration,

    /// Timeout of TCP connections in IPVS after a FIN; 0 for the kernel's (120 s)
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_tcpfin_timeout: Duration,

    /// Timeout of UDP flows in IPVS; 0 for the kernel's (300 s)
    #[arg(long, global = true, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    pub ipvs_udp_timeout: Duration,

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

    /// Address that answers /healthz, /livez and /readyz; empty for none. [::] is both families, 0.0.0.0 only IPv4
    #[arg(long, global = true, default_value = "[::]:10256", value_name = "ADDR:PORT")]
    pub healthz_bind_address: String,

    /// Address that answers /metrics and /proxyMode; empty for none
    #[arg(long, global = true, default_value = "127.0.0.1:10249", value_name = "ADDR:PORT")]
    pub metrics_bind_address: String,

    /// Directory for state that must survive a restart of the process but not of the node
    #[arg(long, global = true, default_value = "/run/kube-ipvs", value_name = "DIR")]
    pub state_dir: PathBuf,

    /// Format of log lines: text or json
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    pub logging_format: String,

    /// Verbosity: 0 to 3 for one line per sync that changed something, 4 for every write, 6 for every message of
    /// libraries
    #[arg(short = 'v', long = "v", global = true, default_value_t = 2, value_name = "LEVEL")]
    pub verbosity: u8,
}

/// Parses the command line; a mistake in it ends the process with a message.
pub fn parse(args: impl Iterator<Item = OsString>) -> Cli {
    try_parse(args).unwrap_or_else(|error| error.exit())
}

fn try_parse(args: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let args = normalise_names(args);
    Cli::try_parse_from(&args).map_err(|error| match error.kind() {
        ErrorKind::InvalidUtf8 => not_utf8(&args),
        _ => error,
    })
}

/// Error for arguments that are no text; it names them, which clap's own does not.
fn not_utf8(args: &[OsString]) -> clap::Error {
    let odd = args.iter().filter(|arg| arg.to_str().is_none()).map(|arg| format!("{arg:?}"));
    let odd = odd.collect::<Vec<_>>().join(", ");
    Cli::command()
        .error(ErrorKind::InvalidUtf8, format!("only names of files may be other than UTF-8: {odd}"))
}

/// Replaces `_` by `-` in the names of flags, as pflag's normaliser in kube-proxy does.
fn normalise_names(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
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
    args.map(normalise).collect()
}

#[cfg(test)]
mod page;

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
