//! Pauses: between tries of what has failed, and between pieces of work that keep to a share of a processor.

use crate::Time;

/// Delays between tries, doubled with every failure.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub first: Time,
    /// Bound of all.
    pub longest: Time,
}

impl Backoff {
    /// Delay after the n-th failure in a row, counted from 1.
    pub fn delay(self, failures: u32) -> Time {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

/// Part of a processor that some work keeps to: one of so many.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    parts: u32,
}

impl Share {
    /// One part of `parts`, which are at least one.
    pub const fn one_of(parts: u32) -> Self {
        Share { parts }
    }

    /// Pause after work that took so long.
    pub const fn pause(self, took: Time) -> Time {
        took.saturating_mul(self.parts.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let backoff = Backoff { first: Time::from_millis(100), longest: Time::from_secs(30) };
        let millis = [1, 2, 3, 4, 9, 10, 1000].map(|failures| backoff.delay(failures).as_millis());
        assert_eq!(millis, [100, 200, 400, 800, 25_600, 30_000, 30_000]);
    }

    #[test]
    fn work_and_pause_make_up_the_share() {
        let took = Time::from_millis(5);
        assert_eq!(Share::one_of(10).pause(took), Time::from_millis(45));
        assert_eq!(Share::one_of(1).pause(took), Time::ZERO);
        assert_eq!(Share::one_of(u32::MAX).pause(Time::MAX), Time::MAX);
    }
}
