//! The only clocks of the loop.

use std::time::{Duration, SystemTime};

use drain::Time;
use rustix::time::{ClockId, clock_gettime};

/// Time since boot, suspended time included.
pub fn now() -> Time {
    read(ClockId::Boottime)
}

/// Processor time of the calling thread so far, with that of the kernel in its system calls.
pub fn spent() -> Duration {
    read(ClockId::ThreadCPUTime)
}

/// Time by the clock on the wall, to compare with that of other nodes.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
