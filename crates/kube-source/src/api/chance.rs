//! Random times, so that nodes do not act in step.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

/// A random time between half of a pause and all of it.
pub(super) fn with_jitter(pause: Duration) -> Duration {
    pause / 2 + (pause / 2).mul_f64(fraction())
}

/// A random time between the given one and one and a half of it.
pub(super) fn up_to_half_more(time: Duration) -> Duration {
    time + (time / 2).mul_f64(fraction())
}

/// A random time, at most the given one.
pub(super) fn up_to(time: Duration) -> Duration {
    time.mul_f64(fraction())
}

/// A random number below a limit.
pub(super) fn below(limit: u64) -> u64 {
    random() % limit
}

fn fraction() -> f64 {
    below(1000) as f64 / 1000.0
}

/// A random number. The standard library seeds its hashers at random, which is enough to spread requests.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
