//! Durations as Go's flags and Kubernetes users write them.

use std::time::Duration;

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {0:?}: expected a form like 30s, 1m30s or 500ms")]
pub struct InvalidDuration(pub String);

/// Parses a Go duration (`time.ParseDuration`): `30s`, `1m30s`, `1.5h`, `500ms`, `0`. Negative ones are
/// refused.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    parse(text).ok_or_else(|| InvalidDuration(text.to_owned()))
}

fn parse(text: &str) -> Option<Duration> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0.0_f64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += value * unit(&rest[..end])?;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).ok().filter(|duration| !negative || duration.is_zero())
}

fn unit(name: &str) -> Option<f64> {
    Some(match name {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

/// Renders a duration as Go's `Duration.String` does: `24h0m0s`, `1m30s`, `500ms`, `0s`.
pub fn render_duration(duration: Duration) -> String {
    let (seconds, nanoseconds) = (duration.as_secs(), duration.subsec_nanos());
    if seconds == 0 && nanoseconds > 0 {
        let (unit, name) = match nanoseconds {
            1_000_000.. => (1_000_000, "ms"),
            1_000.. => (1_000, "µs"),
            _ => (1, "ns"),
        };
        return format!("{}{name}", decimal((nanoseconds / unit).into(), nanoseconds % unit, unit));
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = decimal(seconds % 60, nanoseconds, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// A number with as many decimal places as `part / of`, a power of ten, needs.
fn decimal(whole: u64, part: u32, of: u32) -> String {
    let places = of.ilog10() as usize;
    let text = format!("{whole}.{part:0places$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_as_in_go() {
        for (nanoseconds, expect) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (500_000_000, "500ms"),
            (2_500_000_000, "2.5s"),
            (10_000_000_000, "10s"),
            (90_000_000_000, "1m30s"),
            (900_000_000_000, "15m0s"),
            (86_400_000_000_000, "24h0m0s"),
            (3_600_250_000_000, "1h0m0.25s"),
        ] {
            let duration = Duration::from_nanos(nanoseconds);
            assert_eq!(render_duration(duration), expect);
            assert_eq!(parse_duration(expect), Ok(duration));
        }
    }

    #[test]
    fn durations() {
        for (text, expect) in [
            ("0", 0),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("1h0m0.25s", 3_600_250),
            ("0s", 0),
            ("+5s", 5_000),
            ("-0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(expect)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "+",
            "-",
            "1d",
            "1h-5m",
            " 1s",
            "1s ",
            ".",
            "1..5s",
            "1µ",
            "99999999999999999999h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
