//! Annotations under `kube-ipvs.io/`.

use std::{fmt, sync::Arc, time::Duration};

use drain::Overrides;
use lb_types::{Scheduler, SchedulerFlags, parse_duration};
use service_model::{
    ServiceSettings,
    annotations::{
        GRACEFUL_ENDPOINT_GONE, GRACEFUL_LINGER, GRACEFUL_POLICY, GRACEFUL_SILENCE, GRACEFUL_TIMEOUT,
        SCHEDULER, SCHEDULER_FLAGS,
    },
};

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

/// Word that switches off the fallback, which `sh` and `mh` get by default.
const NO_FALLBACK: &str = "no-fallback";

/// Reads the settings of one Service. Where an annotation is wrong, the configuration applies instead.
pub(crate) fn settings(annotations: &Labels, report: &mut Report) -> ServiceSettings {
    report.expect("metadata.annotations", "an object", annotations.wrong);
    let (scheduler_flags, no_fallback) = scheduler_flags(annotations, report).unzip();
    ServiceSettings {
        scheduler: scheduler(annotations, report),
        scheduler_flags,
        no_fallback: no_fallback.unwrap_or_default(),
        drain: drain_overrides(annotations, report),
    }
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
    let value = annotations.get(name);
    if value.is_empty() {
        return None;
    }
    parse(value.text().unwrap_or_default().trim())
        .map_err(|error| {
            let message = format!("{error}; the configuration is followed instead");
            report.add(field(name), message, "correct or remove the annotation");
        })
        .ok()
}

fn scheduler(annotations: &Labels, report: &mut Report) -> Option<Scheduler> {
    let value = annotations.get(SCHEDULER);
    if value.is_empty() {
        return None;
    }
    match value.text().unwrap_or_default().trim().parse() {
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
    let value = annotations.get(SCHEDULER_FLAGS).text().unwrap_or_default();
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
