//! SHA-256 in hexadecimal digits, as OCI layouts and bills of materials spell it.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Number of digits that people tell digests apart by.
const SHORT: usize = 16;

/// Digits of the checksum of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    let mut digits = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// The first digits.
pub fn short(digits: &str) -> &str {
    digits.get(..SHORT).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_standard() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
        assert_eq!(short(abc), "ba7816bf8f01cfea");
    }
}
