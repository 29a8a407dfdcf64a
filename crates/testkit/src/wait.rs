//! Waits: always for a condition and with a bound, and a failure says what was seen last.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

/// Pause between two looks: short compared with all waits of tests, long enough not to starve a slow guest.
const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Error for a condition that did not become true in time.
#[derive(Debug)]
pub struct TimedOut {
    /// Condition, in the caller's words.
    pub what: String,
    /// Duration of the wait.
    pub after: Duration,
    /// Result of the last look.
    pub last: String,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waited {:.1} s in vain for: {}", self.after.as_secs_f64(), self.what)?;
        if self.last.is_empty() { Ok(()) } else { write!(f, "\nlast seen:\n{}", self.last) }
    }
}

impl std::error::Error for TimedOut {}

/// Calls `look` until it returns `Ok`, at most for `timeout`, but at least once, and once more at the very
/// end.
pub fn try_wait_for<T, E: fmt::Display>(
    timeout: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> Result<T, TimedOut> {
    let start = Instant::now();
    loop {
        let late = start.elapsed() >= timeout;
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if late => {
                return Err(TimedOut {
                    what: what.to_owned(),
                    after: start.elapsed(),
                    last: error.to_string(),
                });
            }
            Err(_) => thread::sleep(PAUSE_BETWEEN_LOOKS),
        }
    }
}

/// [`try_wait_for`] that panics with the condition and the result of the last look.
#[track_caller]
pub fn wait_for<T, E: fmt::Display>(timeout: Duration, what: &str, look: impl FnMut() -> Result<T, E>) -> T {
    try_wait_for(timeout, what, look).unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until `condition` holds, and returns how long that took. Panics after `timeout`.
#[track_caller]
pub fn wait_until(timeout: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    wait_for(timeout, what, || if condition() { Ok(start.elapsed()) } else { Err("") })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{try_wait_for, wait_until};

    #[test]
    fn returns_as_soon_as_the_condition_holds() {
        let mut looks = 0;
        let took = wait_until(Duration::from_secs(60), "the third look", || {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
        assert!(took < Duration::from_secs(30));
    }

    #[test]
    fn a_timeout_tells_what_was_seen_last() {
        let result: Result<(), _> = try_wait_for(Duration::ZERO, "a miracle", || Err("nothing unusual"));
        let text = result.unwrap_err().to_string();
        assert!(text.contains("a miracle") && text.contains("nothing unusual"), "{text}");
    }

    #[test]
    fn a_condition_that_holds_at_once_needs_no_time() {
        wait_until(Duration::ZERO, "nothing", || true);
    }
}
