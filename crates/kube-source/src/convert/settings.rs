//! Annotations under `kube-ipvs.io/`.

use std::{borrow::Cow, fmt, net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use drain::Overrides;
use lb_types::{IpFamily, Scheduler, SchedulerFlags, UnknownBinding, VipBinding, parse_duration};
use service_model::{
    ExternalIp, ExternalIpBinding, ExternalSource, ServiceSettings,
    annotations::{
        ALL, EXTERNAL_IP_BINDING, GRACEFUL_ENDPOINT_GONE, GRACEFUL_LINGER, GRACEFUL_POLICY, GRACEFUL_SILENCE,
        GRACEFUL_TIMEOUT, MAX_CONNECTIONS, ONE_PACKET, PREFIX, SCHEDULER, SCHEDULER_FLAGS,
    },
};

use super::address::parse_ip;
use crate::{problem::Report, wire::Labels};

/// Names of scheduler flags and their bits (`ipvs_flags` of ipvsadm). Bits that `sh` and `mh` share have
/// several names.
const FLAGS: [(&str, u8); 7] = [
    ("flag-1", 1),
    ("flag-2", 2),
    ("flag-3", 4),
    ("sh-fallback", 1),
    ("sh-port", 2),
    ("mh-fallback", 1),
    ("mh-port", 2),
];

/// External and load-balancer IPs of a Service.
pub(crate) struct ExternalIps<'a> {
    pub(crate) known: &'a [ExternalIp],
    /// True if it has a load balancer, which takes its time with the addresses of each family.
    pub(crate) has_balancer: bool,
}

impl ExternalIps<'_> {
    fn may_have(&self, addr: IpAddr) -> bool {
        let is_of_balancer = |ip: &&ExternalIp| ip.source != ExternalSource::ExternalIps;
        let mut of_balancer = self.known.iter().filter(is_of_balancer);
        let is_awaited =
            self.has_balancer && !of_balancer.any(|ip| IpFamily::of(ip.addr) == IpFamily::of(addr));
        is_awaited || self.known.iter().any(|ip| ip.addr == addr)
    }
}

/// Word that switches off the fallback, which `sh` and `mh` get by default.
const NO_FALLBACK: &str = "no-fallback";

/// Reads the settings of a Service with these external and load-balancer IPs. Where an annotation is wrong, the
/// configuration applies instead.
pub(crate) fn settings(
    annotations: &Labels,
    external_ips: &ExternalIps<'_>,
    report: &mut Report,
) -> ServiceSettings {
    report.expect("metadata.annotations", "an object", annotations.wrong);
    let (scheduler_flags, no_fallback) = scheduler_flags(annotations, report).unzip();
    let settings = ServiceSettings {
        scheduler: scheduler(annotations, report),
        scheduler_flags,
        no_fallback: no_fallback.unwrap_or_default(),
        max_connections: parsed(annotations, MAX_CONNECTIONS, max_connections, report).flatten(),
        one_packet: parsed(annotations, ONE_PACKET, one_packet, report).unwrap_or_default(),
        external_ip_binding: external_ip_binding(annotations, external_ips, report),
        drain: drain_overrides(annotations, report),
    };
    let is_unknown = |name: &&String| name.starts_with(PREFIX) && !ALL.contains(&name.as_str());
    for name in annotations.values.keys().filter(is_unknown) {
        let known = ALL.map(|name| name.trim_start_matches(PREFIX)).join(", ");
        report.add(field(name), "unknown annotation; ignored", format!("known below {PREFIX} are {known}"));
    }
    settings
}

/// Reads `steer`, `192.0.2.80=route,2001:db8::80=none` or both kinds with commas between them. An entry that is wrong
/// counts for nothing and costs no other one.
fn external_ip_binding(
    annotations: &Labels,
    external_ips: &ExternalIps<'_>,
    report: &mut Report,
) -> Option<Arc<ExternalIpBinding>> {
    let text = text(annotations, EXTERNAL_IP_BINDING, report).unwrap_or_default();
    let mut wanted = ExternalIpBinding::default();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        if let Err(fault) = add_binding(&mut wanted, entry, external_ips) {
            let message = format!("entry {entry:?}: {fault}; the entry is ignored");
            report.add(field(EXTERNAL_IP_BINDING), message, "correct or remove the entry");
        }
    }
    (wanted != ExternalIpBinding::default()).then(|| wanted.into())
}

/// Adds one entry, unless there is one for the same addresses or the Service lacks the address.
fn add_binding(
    wanted: &mut ExternalIpBinding,
    entry: &str,
    external_ips: &ExternalIps<'_>,
) -> Result<(), String> {
    let (addr, binding) =
        entry.split_once('=').map_or((None, entry), |(addr, binding)| (Some(addr.trim()), binding.trim()));
    let binding: VipBinding = binding.parse().map_err(|unknown: UnknownBinding| unknown.to_string())?;
    let Some(addr) = addr else {
        if wanted.others.is_some() {
            return Err("an entry before it is for all addresses, too".to_owned());
        }
        wanted.others = Some(binding);
        return Ok(());
    };
    let addr = parse_ip(addr).ok_or_else(|| format!("{addr:?} is no IP address"))?;
    if wanted.of.iter().any(|(known, _)| *known == addr) {
        return Err(format!("an entry before it is for {addr}, too"));
    }
    if !external_ips.may_have(addr) {
        return Err(format!("{addr} is no external or load-balancer IP that the Service can have"));
    }
    wanted.of.push((addr, binding));
    Ok(())
}

/// Reads a number of connections; 0 is no limit, as in IPVS.
fn max_connections(text: &str) -> Result<Option<NonZeroU32>, String> {
    let number = text.parse().map_err(|_| format!("a number of connections is expected, found {text:?}"))?;
    Ok(NonZeroU32::new(number))
}

fn one_packet(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("true or false is expected, found {text:?}"))
}

/// Reads the settings of drains: the same words and durations as in the flags `--graceful-*`.
fn drain_overrides(annotations: &Labels, report: &mut Report) -> Option<Arc<Overrides>> {
    let mut time = |name| parsed(annotations, name, parse_duration, report);
    let [linger, timeout, silence] = [GRACEFUL_LINGER, GRACEFUL_TIMEOUT, GRACEFUL_SILENCE].map(&mut time);
    let silence = silence.map(|silence| raise_silence(silence, report));
    let overrides = Overrides {
        policy: parsed(annotations, GRACEFUL_POLICY, str::parse, report),
        linger,
        timeout,
        silence,
        endpoint_gone: parsed(annotations, GRACEFUL_ENDPOINT_GONE, str::parse, report),
    };
    (overrides != Overrides::NONE).then(|| overrides.into())
}

/// Raises a silence that is too short to be conclusive; zero stays zero, which means never.
fn raise_silence(silence: Duration, report: &mut Report) -> Duration {
    let limit = drain::silence_limit(silence).unwrap_or_default();
    if limit != silence {
        let message = format!(
            "{silence:?} is shorter than the age of the kernel's counters; {limit:?} is used instead"
        );
        report.add(field(GRACEFUL_SILENCE), message, "set at least 2.5s, or 0 for never");
    }
    limit
}

/// Parses the value of an annotation; an empty one counts as absent.
fn parsed<T, E: fmt::Display>(
    annotations: &Labels,
    name: &str,
    parse: impl Fn(&str) -> Result<T, E>,
    report: &mut Report,
) -> Option<T> {
    parse(text(annotations, name, report)?.trim())
        .map_err(|error| {
            let message = format!("{error}; the configuration is followed instead");
            report.add(field(name), message, "correct or remove the annotation");
        })
        .ok()
}

/// Text of an annotation, if it is there and not empty.
fn text<'a>(annotations: &'a Labels, name: &str, report: &mut Report) -> Option<Cow<'a, str>> {
    let value = annotations.get(name);
    let text = value.text();
    if text.is_none() && !value.is_empty() {
        report.add(field(name), format!("text is expected, found {value}; ignored"), "write it in quotes");
    }
    text.filter(|text| !text.is_empty())
}

fn scheduler(annotations: &Labels, report: &mut Report) -> Option<Scheduler> {
    match text(annotations, SCHEDULER, report)?.trim().parse() {
        Ok(scheduler) => Some(scheduler),
        Err(unknown) => {
            let message = format!("{unknown}; the default scheduler is used");
            report.add(field(SCHEDULER), message, "name one of them or remove the annotation");
            None
        }
    }
}

/// Reads the flags that replace the default ones, and whether they switch off the fallback. The empty string
/// means no flags.
fn scheduler_flags(annotations: &Labels, report: &mut Report) -> Option<(SchedulerFlags, bool)> {
    if !annotations.has(SCHEDULER_FLAGS) {
        return None;
    }
    let value = match text(annotations, SCHEDULER_FLAGS, report) {
        None if !annotations.get(SCHEDULER_FLAGS).is_empty() => return None,
        value => value.unwrap_or_default(),
    };
    let mut names: Vec<_> = value.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let no_name = names.is_empty();
    let mut no_fallback = names.contains(&NO_FALLBACK);
    names.retain(|name| *name != NO_FALLBACK);
    let known = |name: &&str| FLAGS.iter().find(|(flag, _)| flag == name);
    // Each unknown word is reported; the known ones apply all the same.
    for name in names.iter().filter(|name| known(name).is_none()) {
        let list = FLAGS.map(|(flag, _)| flag).join(", ");
        let message = format!("unknown scheduler flag {name:?}: expected {list}, {NO_FALLBACK}; ignored");
        report.add(field(SCHEDULER_FLAGS), message, "name known flags, with commas between them");
    }
    let bits: Vec<_> = names.iter().filter_map(known).map(|(_, bit)| bit).collect();
    // An annotation with unknown words only counts as absent.
    let none_known = bits.is_empty() && !no_fallback && !no_name;
    let flags = SchedulerFlags::from_bits(bits.into_iter().fold(0, |all, bit| all | bit));
    if no_fallback && flags.contains(SchedulerFlags::FALLBACK) {
        let message =
            format!("{NO_FALLBACK} contradicts a flag that asks for fallback; {NO_FALLBACK} is ignored");
        report.add(field(SCHEDULER_FLAGS), message, "remove one of the two");
        no_fallback = false;
    }
    (!none_known).then_some((flags, no_fallback))
}

fn field(annotation: &str) -> String {
    format!("metadata.annotations[{annotation}]")
}
