//! Files on the node, and single words in files, flags, annotations and answers.

use std::{fmt::Display, path::Path, str::FromStr};

use drain_file::DrainFile;
use kernel::KernelVersion;
use lb_types::{Protocol, RealServerId, Scheduler, VipPort, parse_duration};
use proxy_config::ConfigFile;

/// Boot ID in the seeds.
const BOOT: &str = "boot-1";

/// `drain.json`.
pub(crate) fn drains(input: &[u8]) -> bool {
    let loaded = DrainFile::new(Path::new("/nonexistent"), BOOT.to_owned()).parse(input);
    loaded.is_ok_and(|loaded| {
        for saved in &loaded.drains {
            let waits_for = saved.waits_for.as_ref().map(|waits_for| waits_for.render(saved.record.since));
            let _ = (saved.pod(), saved.key.front.to_string(), waits_for);
        }
        !loaded.drains.is_empty()
    })
}

/// A configuration file: what is read can be written and read again.
pub(crate) fn config(input: &[u8]) -> bool {
    let Ok(parsed) = ConfigFile::parse(&String::from_utf8_lossy(input)) else { return false };
    let written = parsed.file.to_yaml();
    let again = ConfigFile::parse(&written);
    assert!(
        again.is_ok_and(|again| again.warnings.is_empty() && again.file.to_yaml() == written),
        "{written}"
    );
    true
}

/// One word as each type with a textual form: every value that is read can be printed and read again.
pub(crate) fn words(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let text = text.trim_end_matches('\n');
    [
        round_trips::<VipPort>(text),
        round_trips::<RealServerId>(text),
        round_trips::<Protocol>(text),
        round_trips::<Scheduler>(text),
        round_trips::<KernelVersion>(text),
        parse_duration(text).is_ok(),
    ]
    .contains(&true)
}

fn round_trips<T: FromStr + Display + PartialEq>(text: &str) -> bool {
    let Ok(value) = text.parse::<T>() else { return false };
    let printed = value.to_string();
    assert!(printed.parse().is_ok_and(|again: T| again == value), "{text:?} is printed as {printed:?}");
    true
}
