//! Sizes in bytes as people write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// A number of bytes. Written `512M`, `1.5G`, `64KiB` or plain bytes; the units are powers of
/// 1024, as in Docker and QEMU. In JSON it is such a string or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Units, largest first: letter, and the power of two it stands for.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];
/// What a fraction of a unit is rounded up to: a page.
const FRACTION_STEP: u64 = 4096;

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSizeError {
    #[error("{0:?} is not a size; write a number with a unit, such as 512M, 1G or 1.5G")]
    Malformed(String),
    #[error("{0:?} is more bytes than 64 bits can count; write a size such as 512M, 1G or 1.5G")]
    TooLarge(String),
}

impl ByteSize {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
}

/// What a size is to become. Written as a [`ByteSize`], or with a `+` before it for what is to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Growth {
    To(ByteSize),
    By(ByteSize),
}

/// Why a text is no [`Growth`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseGrowthError {
    #[error(
        "{0:?} would take something away, and a disk does not shrink: write its new size, such as 20G, or what is added, such as +2G"
    )]
    Shrinks(String),
    #[error("{0:?} is not a size; write the new one, such as 20G, or what is added, such as +2G")]
    Malformed(String),
    #[error("{0:?} is more bytes than 64 bits can count; write a size such as 20G, or what is added, such as +2G")]
    TooLarge(String),
}

impl Growth {
    /// What comes of `size` bytes; as many as there can be if it would be more.
    pub fn of(self, size: u64) -> u64 {
        match self {
            Self::To(new) => new.0,
            Self::By(more) => size.saturating_add(more.0),
        }
    }
}

impl FromStr for Growth {
    type Err = ParseGrowthError;

    fn from_str(text: &str) -> Result<Self, ParseGrowthError> {
        let trimmed = text.trim();
        if trimmed.starts_with('-') {
            return Err(ParseGrowthError::Shrinks(text.to_owned()));
        }
        let (size, growth): (&str, fn(ByteSize) -> Self) = match trimmed.strip_prefix('+') {
            Some(more) => (more, Self::By),
            None => (trimmed, Self::To),
        };
        size.parse().map(growth).map_err(|error| match error {
            ParseSizeError::Malformed(_) => ParseGrowthError::Malformed(text.to_owned()),
            ParseSizeError::TooLarge(_) => ParseGrowthError::TooLarge(text.to_owned()),
        })
    }
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let malformed = || ParseSizeError::Malformed(text.to_owned());
        let too_large = || ParseSizeError::TooLarge(text.to_owned());
        let trimmed = text.trim();
        let unit_at = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(unit_at);
        let shift = unit_shift(unit.trim_start()).ok_or_else(malformed)?;
        let (whole, fraction) = match number.split_once('.') {
            None => (number, ""),
            Some((whole, fraction)) if shift > 0 && !fraction.is_empty() => (whole, fraction),
            Some(_) => return Err(malformed()),
        };
        if whole.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let bytes = whole.checked_mul(1 << shift).ok_or_else(too_large)?;
        bytes.checked_add(fraction_bytes(fraction, shift)).map(Self).ok_or_else(too_large)
    }
}

/// The power of two that a unit stands for: `M`, `MB` and `MiB` are all 20.
fn unit_shift(unit: &str) -> Option<u32> {
    let upper = unit.to_ascii_uppercase();
    if upper.is_empty() || upper == "B" {
        return Some(0);
    }
    UNITS.iter().find_map(|&(letter, shift)| {
        let rest = upper.strip_prefix(letter)?;
        matches!(rest, "" | "B" | "IB").then_some(shift)
    })
}

/// What the decimal digits after the point come to, rounded up to a page.
fn fraction_bytes(digits: &str, shift: u32) -> u64 {
    // 12 digits settle a terabyte to the byte; u128 keeps the product exact.
    let kept: String = digits.chars().take(12).collect();
    let numerator: u128 = kept.parse().unwrap_or(0);
    let denominator = 10u128.pow(kept.len() as u32);
    let bytes = (numerator << shift).div_ceil(denominator) as u64;
    bytes.next_multiple_of(FRACTION_STEP.min(1 << shift))
}

impl fmt::Display for ByteSize {
    /// The largest unit that divides it: `512M`, `1G`, `1000` for 1000 bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift)) {
            Some((letter, shift)) => write!(f, "{}{letter}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a string such as \"512M\"")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(text: &str) -> u64 {
        text.parse::<ByteSize>().unwrap().0
    }

    #[test]
    fn units_are_powers_of_1024() {
        assert_eq!(size("512M"), 512 << 20);
        assert_eq!(size("512m"), 512 << 20);
        assert_eq!(size("1G"), 1 << 30);
        assert_eq!(size("1GiB"), 1 << 30);
        assert_eq!(size("1 gb"), 1 << 30);
        assert_eq!(size("64k"), 64 << 10);
        assert_eq!(size("1T"), 1 << 40);
        assert_eq!(size("4096"), 4096);
        assert_eq!(size("4096B"), 4096);
    }

    #[test]
    fn fractions_are_rounded_up_to_a_page() {
        assert_eq!(size("1.5G"), 3 << 29);
        assert_eq!(size("0.5M"), 512 << 10);
        assert_eq!(size("1.3G") % 4096, 0);
        assert!(size("1.3G") - 1_395_864_371 < 4096);
        assert_eq!(size("0.0000000000000000000000001T"), 0);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "M", "-1M", "1.M", ".5G", "1.5", "1.2.3G", "1X", "1Mi", "1MM", "0x10M", "½G", "1e3"] {
            assert!(matches!(text.parse::<ByteSize>(), Err(ParseSizeError::Malformed(_))), "{text}");
        }
        for text in ["18446744073709551616", "16777216T", "99999999999999999999999G"] {
            assert!(matches!(text.parse::<ByteSize>(), Err(ParseSizeError::TooLarge(_))), "{text}");
        }
    }

    #[test]
    fn a_size_grows_to_something_or_by_something() {
        let grown = |text: &str| text.parse::<Growth>().map(|growth| growth.of(1 << 30));
        assert_eq!(grown("2G"), Ok(2 << 30));
        assert_eq!(grown("+2G"), Ok(3 << 30));
        assert_eq!(grown(" +512 "), Ok((1 << 30) + 512));
        assert_eq!(grown("+18446744073709551615"), Ok(u64::MAX), "as much as there can be");
        for (text, says) in
            [("-1G", "does not shrink"), ("", "+2G"), ("+", "+2G"), ("++1G", "+2G"), ("+16777216T", "64 bits")]
        {
            let error = grown(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes: u64) {
            prop_assert_eq!(size(&ByteSize(bytes).to_string()), bytes);
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Growth>();
        }

        #[test]
        fn number_like_texts_do_not_panic(text in "[0-9.]{0,30}[kKmMgGtTiIbB ]{0,4}") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
