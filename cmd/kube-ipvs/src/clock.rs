//! The only clock.

use drain::Time;
use rustix::time::{ClockId, clock_gettime};

/// Time since boot, suspended time included.
pub fn now() -> Time {
    let time = clock_gettime(ClockId::Boottime);
    Time::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
