//! Steadiness of the machine: the same piece of work, again and again during the run.
//!
//! In a guest whose host is busy, a process does not notice that it is interrupted; only this shows it.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::node::millis;

/// Number of pieces of work in one sample.
const PIECES_PER_SAMPLE: usize = 25;

/// Times of a piece of work that needs no kernel.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Noise {
    /// Shortest time: the machine undisturbed.
    pub fastest_ms: f64,
    /// Median of the times.
    pub median_ms: f64,
    /// Longest time.
    pub slowest_ms: f64,
}

/// Samples so far.
#[derive(Debug, Clone, Default)]
pub struct Probe(Vec<Duration>);

impl Probe {
    /// Takes some more samples.
    pub fn sample(&mut self) {
        self.0.extend(std::iter::repeat_with(piece).take(PIECES_PER_SAMPLE));
    }

    /// Sums up the samples.
    pub fn noise(mut self) -> Noise {
        self.0.sort_unstable();
        let at = |index: usize| self.0.get(index).map_or(0.0, |time| millis(*time));
        Noise {
            fastest_ms: at(0),
            median_ms: at(self.0.len() / 2),
            slowest_ms: at(self.0.len().saturating_sub(1)),
        }
    }
}

impl Noise {
    /// Ratios to the undisturbed time: of the median, and of the worst.
    pub fn ratios(&self) -> (f64, f64) {
        let fastest = self.fastest_ms.max(f64::MIN_POSITIVE);
        (self.median_ms / fastest, self.slowest_ms / fastest)
    }
}

fn piece() -> Duration {
    let start = Instant::now();
    let mut state = black_box(1_u64);
    for _ in 0..400_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    black_box(state);
    start.elapsed()
}
