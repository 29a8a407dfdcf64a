//! Packet marks that select virtual servers.

use std::{fmt, num::NonZeroU32, str::FromStr};

/// Numbers that agree in the bits of a mask, written as ip-rule(8) writes them: `0x1b50000/0xffff0000`.
///
/// The bits outside of the mask tell the numbers apart; there are at least eight of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkRange {
    value: u32,
    mask: u32,
}

/// A rule of the routing policy that looks at the packet mark (`fwmark VALUE/MASK` in ip-rule(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkRule {
    /// Value of the masked mark.
    pub value: u32,
    /// Mask of the bits that are compared.
    pub mask: u32,
}

/// A text that is no range of marks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {reason}; expected VALUE/MASK with at least 8 bits outside of the mask, as in {example}", example = MarkRange::DEFAULT)]
pub struct InvalidMarkRange {
    text: String,
    reason: &'static str,
}

/// Fewest bits that tell the numbers of a range apart.
const LEAST_BITS: u32 = 8;

impl MarkRange {
    /// 65,536 numbers, none of them a mark of kube-proxy (0x4000, 0x8000).
    pub const DEFAULT: MarkRange = MarkRange { value: 0x01b5_0000, mask: 0xffff_0000 };

    /// Bits in which all numbers agree.
    pub const fn value(self) -> u32 {
        self.value
    }

    /// Mask of those bits.
    pub const fn mask(self) -> u32 {
        self.mask
    }

    /// Tells whether a number is in the range.
    pub const fn contains(self, mark: u32) -> bool {
        mark & self.mask == self.value
    }

    /// Count of the numbers.
    pub const fn size(self) -> u64 {
        1 << self.mask.count_zeros()
    }

    /// The number at a position, counted modulo the size; `None` for 0, which is no mark.
    pub const fn number(self, position: u64) -> Option<NonZeroU32> {
        let (mut mark, mut rest, mut bit) = (self.value, position, 0);
        while bit < u32::BITS {
            if self.mask >> bit & 1 == 0 {
                mark |= ((rest & 1) as u32) << bit;
                rest >>= 1;
            }
            bit += 1;
        }
        NonZeroU32::new(mark)
    }

    /// Tells whether a rule of the routing policy matches some of its numbers.
    pub const fn meets(self, rule: MarkRule) -> bool {
        rule.value != 0 && (self.value ^ rule.value) & self.mask & rule.mask == 0
    }

    /// The range of one number alone.
    pub const fn only(mark: NonZeroU32) -> Self {
        MarkRange { value: mark.get(), mask: u32::MAX }
    }

    /// The smallest range with all numbers of this one and another number.
    #[must_use]
    pub const fn with(self, mark: NonZeroU32) -> Self {
        let mask = self.mask & !(self.value ^ mark.get());
        MarkRange { value: self.value & mask, mask }
    }
}

impl MarkRule {
    /// Tells whether packets of a mark match. Rules about the value 0 are for packets that nobody has marked.
    pub const fn matches(self, mark: NonZeroU32) -> bool {
        self.value != 0 && mark.get() & self.mask == self.value & self.mask
    }
}

impl Default for MarkRange {
    fn default() -> Self {
        MarkRange::DEFAULT
    }
}

impl fmt::Display for MarkRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

impl fmt::Display for MarkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fwmark {:#x}/{:#x}", self.value, self.mask)
    }
}

impl FromStr for MarkRange {
    type Err = InvalidMarkRange;

    fn from_str(text: &str) -> Result<Self, InvalidMarkRange> {
        let invalid = |reason| InvalidMarkRange { text: text.to_owned(), reason };
        let (value, mask) = text.split_once('/').ok_or_else(|| invalid("the mask is missing"))?;
        let number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        let value = number(value).map_err(|_| invalid("the value is no number of 32 bits"))?;
        let mask = number(mask).map_err(|_| invalid("the mask is no number of 32 bits"))?;
        if value & !mask != 0 {
            return Err(invalid("the value has bits outside of the mask"));
        }
        if value == 0 {
            return Err(invalid("the value is 0, which packets without a mark have"));
        }
        if mask.count_zeros() < LEAST_BITS {
            return Err(invalid("the mask has too many bits"));
        }
        Ok(MarkRange { value, mask })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn range(text: &str) -> MarkRange {
        text.parse().unwrap()
    }

    fn mark(number: u32) -> NonZeroU32 {
        number.try_into().unwrap()
    }

    #[test]
    fn text_and_back() {
        for text in ["0x1b50000/0xffff0000", "0x80000000/0x80000000", "0x100/0xffff0f00"] {
            assert_eq!(range(text).to_string(), text);
        }
        assert_eq!(range("256/65280"), range("0x100/0xff00"));
        let default = MarkRange::DEFAULT;
        assert_eq!(default.to_string().parse(), Ok(default));
    }

    #[test]
    fn bad_ranges_say_why() {
        let cases = [
            ("0x100", "mask is missing"),
            ("x/0xff00", "value is no number"),
            ("0x100/-1", "mask is no number"),
            ("0x101/0xff00", "outside of the mask"),
            ("0/0xff00", "value is 0"),
            ("0x1b50000/0xffffff80", "too many bits"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<MarkRange>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("0x1b50000/0xffff0000"), "{error}");
        }
    }

    #[test]
    fn numbers_are_all_different_and_all_of_the_range() {
        let sparse = range("0x100/0xffff0f0f");
        let numbers: BTreeSet<_> = (0..sparse.size()).filter_map(|at| sparse.number(at)).collect();
        assert_eq!((numbers.len() as u64, sparse.size()), (256, 256));
        assert!(numbers.iter().all(|number| sparse.contains(number.get())));
        assert_eq!(sparse.number(0x1f), Some(mark(0x11f0)));
        assert_eq!(sparse.number(256), sparse.number(0), "positions begin again");
    }

    #[test]
    fn a_range_grows_by_the_bits_that_differ() {
        let grown = MarkRange::DEFAULT.with(mark(0x01b4_0001));
        assert_eq!(grown.to_string(), "0x1b40000/0xfffe0000");
        assert!(grown.contains(0x01b5_ffff) && grown.contains(0x01b4_0001));
        assert_eq!(MarkRange::DEFAULT.with(mark(0x01b5_1234)), MarkRange::DEFAULT);
    }

    #[test]
    fn rules_match_as_in_the_kernel() {
        let rule = MarkRule { value: 0x200, mask: 0xf00 };
        assert!(rule.matches(mark(0x01b5_0200)) && !rule.matches(mark(0x01b5_0300)));
        assert!(!MarkRule { value: 0, mask: 0xf00 }.matches(mark(0x1000)), "about unmarked packets");
        assert!(
            MarkRange::DEFAULT.meets(rule)
                && MarkRange::DEFAULT.meets(MarkRule { value: 0x01b5_0007, mask: !0 })
        );
        assert!(!MarkRange::DEFAULT.meets(MarkRule { value: 0x0200_0000, mask: 0x0f00_0000 }));
        assert!(!MarkRange::DEFAULT.meets(MarkRule { value: 0, mask: 0xf00 }));
    }
}
