//! Settings of kube-proxy that are accepted and change nothing, each with the reason.

use clap::{Arg, ArgAction, Command};
use proxy_config::ConfigFile;

/// Heading of these flags.
pub const HEADING: &str = "Flags without effect";

/// Fields without effect, or whole sections, and the reason.
const FIELDS: &[(&str, &str)] = &[
    ("enableProfiling", "the process has no profiles"),
    ("showHiddenMetricsForVersion", "no metric is hidden"),
    ("configSyncPeriod", "objects are watched, and unchanged ones are never delivered again"),
    ("portRange", "kube-proxy does not use it any more either"),
    ("windowsRunAsService", "this is Linux"),
    ("clientConnection.qps", "watches take few requests"),
    ("clientConnection.burst", "watches take few requests"),
    ("logging.flushFrequency", "log lines are not buffered"),
    ("logging.vmodule", "the whole program has one verbosity; use -v or logging.verbosity"),
    ("logging.options", "log lines are not buffered, and all go to standard error"),
    (
        "iptables.localhostNodePorts",
        "node ports are never served at loopback addresses, as in kube-proxy's ipvs mode",
    ),
    ("iptables.syncPeriod", "it is for kube-proxy's iptables mode; ipvs.syncPeriod counts"),
    ("iptables.minSyncPeriod", "it is for kube-proxy's iptables mode; ipvs.minSyncPeriod counts"),
    ("nftables", "it is for kube-proxy's nftables mode"),
    ("winkernel", "this is Linux"),
];

/// Reason of flags of klog, which old manifests have.
const LOG: &str = "the log goes to standard error only";
/// Reason of flags that only set up old releases of kube-proxy.
const OLD: &str = "kube-proxy does not have it any more either";

/// A flag that old manifests have, and that no field stands for.
struct Old {
    name: &'static str,
    /// True if its name alone means true.
    is_switch: bool,
    why: &'static str,
}

const fn switch(name: &'static str, why: &'static str) -> Old {
    Old { name, is_switch: true, why }
}

const fn value(name: &'static str, why: &'static str) -> Old {
    Old { name, is_switch: false, why }
}

const OLD_FLAGS: &[Old] = &[
    switch("logtostderr", LOG),
    switch("alsologtostderr", LOG),
    switch("add-dir-header", LOG),
    switch("skip-headers", LOG),
    switch("skip-log-headers", LOG),
    switch("one-output", LOG),
    value("stderrthreshold", LOG),
    value("log-dir", LOG),
    value("log-file", LOG),
    value("log-file-max-size", LOG),
    value("log-backtrace-at", LOG),
    value("machine-id-file", "the id of the machine is not needed"),
    value("boot-id-file", "the id of the boot is read from /proc"),
    value("azure-container-registry-config", OLD),
    switch("cleanup-iptables", OLD),
    switch("cleanup-ipvs", OLD),
    value("conntrack-max", "--conntrack-max-per-core and --conntrack-min set the limit"),
    value("proxy-port-range", OLD),
    value("resource-container", OLD),
    value("udp-timeout", OLD),
    value("network-name", "this is Linux"),
    value("source-vip", "this is Linux"),
    switch("enable-dsr", "this is Linux"),
    value("root-hnsendpoint-name", "this is Linux"),
    switch("forward-healthcheck-vip", "this is Linux"),
    switch("windows-run-as-service", "this is Linux"),
];

/// Reason for which a field has no effect, if it has none.
pub fn why_field(path: &str) -> Option<&'static str> {
    let is_in = |section: &str| {
        path.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    FIELDS.iter().find(|(field, _)| is_in(field)).map(|(_, why)| *why)
}

/// Old flags, each with the reason for which it has no effect.
pub fn old_flags() -> impl Iterator<Item = (&'static str, &'static str)> {
    OLD_FLAGS.iter().map(|old| (old.name, old.why))
}

/// Adds all flags without effect to a command line.
pub fn add(command: Command) -> Command {
    let fields = ConfigFile::default().fields().into_iter().filter_map(|field| {
        let (flag, why) = (field.flag?, why_field(&field.path)?);
        Some(arg(flag, field.is_switch).help(format!("{} No effect: {why}", field.meaning)))
    });
    let old =
        OLD_FLAGS.iter().map(|old| arg(old.name, old.is_switch).help(format!("No effect: {}", old.why)));
    command.args(fields).args(old).after_help(
        "The other flags of kube-proxy are accepted and have no effect; docs/flags.md lists them with the reasons.",
    )
}

/// A flag that `--help` does not show.
fn arg(name: &'static str, is_switch: bool) -> Arg {
    let arg = Arg::new(name).long(name).global(true).hide(true).help_heading(HEADING).action(ArgAction::Set);
    if is_switch {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        arg.value_name("VALUE").allow_hyphen_values(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_names_fields_that_exist() {
        let paths: Vec<_> = ConfigFile::default().fields().into_iter().map(|field| field.path).collect();
        for (field, _) in FIELDS {
            assert!(
                paths.iter().any(|path| path == field || path.starts_with(&format!("{field}."))),
                "{field}"
            );
        }
        assert_eq!(why_field("nftables.syncPeriod"), why_field("nftables"));
        assert_eq!(why_field("ipvs.syncPeriod"), None);
    }
}
