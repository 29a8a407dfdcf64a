//! Flags of connection tracking.

use std::time::Duration;

use clap::{ArgAction, Args};
use lb_types::parse_duration;
use proxy_config::go;

/// Flags of connection tracking. Limits and timeouts are set once for each start.
#[derive(Clone, Debug, Args)]
pub struct ConntrackFlags {
    /// Tracked connections per core, which set the kernel's limit together with --conntrack-min; 0 leaves the limit
    /// alone. A larger limit is never lowered
    #[arg(long = "conntrack-max-per-core", global = true, default_value_t = 32768,
          value_parser = go::integer::<i32>, value_name = "COUNT")]
    pub max_per_core: i32,

    /// Smallest limit of tracked connections, however few cores there are
    #[arg(long = "conntrack-min", global = true, default_value_t = 131_072,
          value_parser = go::integer::<i32>, value_name = "COUNT")]
    pub min: i32,

    /// Time for which an idle TCP connection is tracked; 0 leaves the kernel's value alone. The default does not lower
    /// a value that somebody has raised
    #[arg(long = "conntrack-tcp-timeout-established", global = true, default_value = "24h",
          value_parser = parse_duration, value_name = "DURATION")]
    pub tcp_established: Duration,

    /// Time for which a TCP connection is tracked after its server has closed it; 0 leaves the kernel's value alone.
    /// The default does not lower a value that somebody has raised
    #[arg(long = "conntrack-tcp-timeout-close-wait", global = true, default_value = "1h",
          value_parser = parse_duration, value_name = "DURATION")]
    pub tcp_close_wait: Duration,

    /// Tracks TCP packets outside of the window as well; false leaves the kernel's setting alone
    #[arg(long = "conntrack-tcp-be-liberal", global = true, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", action = ArgAction::Set,
          value_parser = go::boolean)]
    pub tcp_be_liberal: bool,

    /// Time for which a UDP flow without a reply is tracked; 0 leaves the kernel's value alone
    #[arg(long = "conntrack-udp-timeout", global = true, default_value = "0", value_parser = parse_duration,
          value_name = "DURATION")]
    pub udp: Duration,

    /// Time for which an idle UDP flow is tracked; 0 leaves the kernel's value alone
    #[arg(long = "conntrack-udp-timeout-stream", global = true, default_value = "0",
          value_parser = parse_duration, value_name = "DURATION")]
    pub udp_stream: Duration,
}
