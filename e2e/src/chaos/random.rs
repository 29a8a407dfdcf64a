//! Chance that can be repeated.

/// A small generator (xorshift64*): the same seed gives the same sequence on every machine, for ever.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Starts from any seed; zero is as good as any other.
    pub fn new(seed: u64) -> Random {
        // The generator's only fixed point is zero; a few turns make neighbouring seeds differ.
        let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
        if random.0 == 0 {
            random.0 = 1;
        }
        for _ in 0..4 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 to `bound - 1`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        // The upper bits are the better ones.
        usize::try_from(self.next() >> 33).unwrap_or_default() % bound.max(1)
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Picks one of the elements.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}
