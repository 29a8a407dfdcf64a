//! Spellings of Go's flag values that kube-proxy's users have in their manifests.

/// Parses a boolean as Go's `strconv.ParseBool` does.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid boolean {text:?}: expected true or false")),
    }
}

/// Parses an integer as Go's `strconv.ParseInt` does with base 0: decimal, or with a prefix of its base, and with
/// underscores between digits.
pub fn integer<T: TryFrom<i64>>(text: &str) -> Result<T, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, base) = based(&lower).filter(|(rest, _)| !rest.is_empty()).unwrap_or((&lower, 10));
    // One underscore may follow a prefix or stand between two digits.
    let groups = if base == 10 { digits } else { digits.strip_prefix('_').unwrap_or(digits) };
    let is_spelt_right =
        groups.split('_').all(|group| group.starts_with(|first: char| first.is_ascii_alphanumeric()));
    let number = i64::from_str_radix(&digits.replace('_', ""), base).ok().filter(|_| is_spelt_right);
    let number = number.and_then(|number| T::try_from(sign * number).ok());
    number.ok_or_else(|| "a whole number is expected that its setting can have".to_owned())
}

/// Digits behind the prefix of their base, in lower case, and that base.
pub(crate) fn based(text: &str) -> Option<(&str, u32)> {
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2), ("0", 8)];
    prefixes.into_iter().find_map(|(prefix, base)| Some((text.strip_prefix(prefix)?, base)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans() {
        assert_eq!((boolean("T"), boolean("0")), (Ok(true), Ok(false)));
        assert!(boolean("yes").is_err() && boolean("").is_err());
    }

    #[test]
    fn integers() {
        for (text, expect) in [
            ("14", Some(14)),
            ("0xe", Some(14)),
            ("0XE", Some(14)),
            ("0b1110", Some(14)),
            ("016", Some(14)),
            ("0o16", Some(14)),
            ("131_072", Some(131_072)),
            ("-999", Some(-999)),
            ("+7", Some(7)),
            ("0", Some(0)),
            ("", None),
            ("-", None),
            ("0x", None),
            ("1e3", None),
            ("--1", None),
            ("_1", None),
            ("1_", None),
            ("1__2", None),
            ("0x_e", Some(14)),
            ("4294967296", None),
        ] {
            assert_eq!(integer::<i32>(text).ok(), expect, "{text:?}");
        }
        assert!(integer::<u16>("-1").is_err() && integer::<u16>("65536").is_err());
    }
}
