//! Log lines.

use std::{io, str::FromStr};

use tracing::Level;
use tracing_subscriber::fmt;

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text, for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Error for a log format that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown log format {0:?}: expected text or json")]
pub struct UnknownLogFormat(pub String);

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, UnknownLogFormat> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(UnknownLogFormat(other.to_owned())),
        }
    }
}

/// Starts logging to standard error. `verbosity` is that of klog: up to 3 there is one line per sync that
/// changed something, from 4 one per write, from 6 everything.
pub fn init_logging(format: LogFormat, verbosity: u8) {
    // Without a reader, a line is lost. Reporting that on the same closed pipe would end the process.
    let lines = fmt()
        .with_max_level(level(verbosity))
        .with_writer(io::stderr)
        .log_internal_errors(false)
        .with_target(false);
    // A second call (in tests) keeps the first one's settings.
    let _already_set = match format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}

const fn level(verbosity: u8) -> Level {
    match verbosity {
        0..4 => Level::INFO,
        4..6 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_levels() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("text or json"));
        assert_eq!(
            [0, 3, 4, 6, 10].map(level),
            [Level::INFO, Level::INFO, Level::DEBUG, Level::TRACE, Level::TRACE]
        );
    }
}
