//! Version of the API server. Its requests run beside all others, of which only the first list of
//! Services waits for one, a second at most.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::{
    MediaType,
    answer::{collect, get},
    chance::with_jitter,
    connect::Connector,
    watch_state::End,
};

/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Limit of the doubling.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

#[derive(Deserialize)]
struct VersionInfo {
    major: String,
    minor: String,
}

impl VersionInfo {
    /// The `minor` of version 1.`minor`. Providers write "34+".
    fn minor(&self) -> Option<u32> {
        let digits: String = self.minor.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok().filter(|_| self.major == "1")
    }
}

/// Keeps [`Connector::minor`] up to date: requests the version now, and whenever connections were lost or
/// replaced. Never ends.
pub(super) async fn follow(connector: &Connector) {
    let mut failures = 0_u32;
    loop {
        match request_minor(connector).await {
            Ok(minor) => {
                let news = |known: &mut Option<u32>| std::mem::replace(known, minor) != minor;
                if connector.minor.send_if_modified(news) {
                    debug!(?minor, "version of the server");
                }
                failures = 0;
                // Often many connections are lost at once; one request is enough for all.
                sleep(connector.limits().renewal).await;
                connector.reconnected.notified().await;
            }
            Err(end) => {
                // If the server is away, the watches report it.
                if failures == 0 && !matches!(end, End::Broken(_)) {
                    warn!(
                        "the version of the API server is unknown: {}; going on without it",
                        describe(&end)
                    );
                }
                failures += 1;
                let pause = (FIRST_PAUSE * 2_u32.saturating_pow(failures.min(10))).min(LONGEST_PAUSE);
                let _reconnected = timeout(with_jitter(pause), connector.reconnected.notified()).await;
            }
        }
    }
}

async fn request_minor(connector: &Connector) -> Result<Option<u32>, End> {
    let response = get(connector, "/version", MediaType::Json).await?;
    let body = collect(response, connector.limits()).await?;
    let version: VersionInfo =
        serde_json::from_slice(&body).map_err(|error| End::Garbled(error.to_string()))?;
    Ok(version.minor())
}

fn describe(end: &End) -> String {
    match end {
        End::Silent => "no answer".to_owned(),
        End::Garbled(error) => format!("the answer cannot be parsed: {error}"),
        End::Refused(refusal) => format!("the server refuses with {} {}", refusal.code, refusal.reason),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (major, minor, expect) in [
            ("1", "34", Some(34)),
            ("1", "34+", Some(34)),
            ("2", "1", None),
            ("1", "", None),
            ("", "x", None),
        ] {
            let version = VersionInfo { major: major.into(), minor: minor.into() };
            assert_eq!(version.minor(), expect, "{major}.{minor}");
        }
    }
}
