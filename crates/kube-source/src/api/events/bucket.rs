//! Limit of the rate of events.

use std::time::{Duration, Instant};

/// A token bucket; pure.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    burst: i64,
    refill: Duration,
    /// Tokens that are left; fewer than none if more were charged than were there.
    left: i64,
    /// Time up to which tokens have been added.
    refilled: Instant,
}

impl Bucket {
    /// A full bucket of `burst` tokens, to which one comes every `refill`.
    pub(super) fn new(burst: u32, refill: Duration, now: Instant) -> Self {
        Bucket { burst: burst.into(), refill, left: burst.into(), refilled: now }
    }

    /// Takes a token; if there is none, returns the time until there is one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        while self.left < self.burst && now.saturating_duration_since(self.refilled) >= self.refill {
            self.refilled += self.refill;
            self.left += 1;
        }
        if self.left == self.burst {
            self.refilled = now;
        }
        if self.left > 0 {
            self.left -= 1;
            return Ok(());
        }
        let missing = u32::try_from(1 - self.left).unwrap_or(u32::MAX);
        Err((self.refilled + self.refill.saturating_mul(missing)).saturating_duration_since(now))
    }

    /// Charges tokens, there or not.
    pub(super) fn charge(&mut self, tokens: u32) {
        self.left -= i64::from(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, SECOND * 5, start);
        let mut at = |seconds| bucket.take(start + SECOND * seconds);
        assert_eq!([at(0), at(0), at(1)], [Ok(()); 3]);
        assert_eq!(at(1), Err(SECOND * 4));
        assert_eq!((at(5), at(5)), (Ok(()), Err(SECOND * 5)));
        assert_eq!((at(12), at(12)), (Ok(()), Err(SECOND * 3)));
        // After a long rest it is full, and not more than that.
        assert_eq!([at(1000), at(1000), at(1000)], [Ok(()); 3]);
        assert_eq!(at(1000), Err(SECOND * 5));
    }

    #[test]
    fn what_is_charged_is_paid_off_first() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2, SECOND, start);
        bucket.take(start).unwrap();
        bucket.charge(4);
        assert_eq!(bucket.take(start), Err(SECOND * 4));
        assert_eq!(bucket.take(start + SECOND * 3), Err(SECOND));
        assert_eq!(bucket.take(start + SECOND * 4), Ok(()));
    }
}
