//! Lengths of time as people write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long something may take: `30s`, `500ms`, `1.5m`, `2h`, `1d`; a plain number is seconds, as
/// in `timeout(1)`. Never zero. In JSON it is such a string or a whole number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeout(Duration);

/// Units and their milliseconds; `ms` stands before `m` and `s`, which it ends in.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// A hundred years: beyond this it is a typing mistake.
const MAX_MILLIS: u64 = 100 * 366 * 86_400_000;

/// Why a text is no timeout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimeoutError {
    #[error("{0:?} is not a length of time; write a positive number with a unit, such as 30s, 5m or 1h")]
    Malformed(String),
    #[error("{0:?} is no time at all; write a positive length of time such as 30s, or leave it out for no limit")]
    Zero(String),
    #[error("{0:?} is more than a hundred years; leave it out for no limit")]
    TooLong(String),
}

impl Timeout {
    /// `None` for a duration below a millisecond.
    pub fn new(duration: Duration) -> Option<Self> {
        (duration >= Duration::from_millis(1)).then_some(Self(duration))
    }

    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Timeout {
    type Err = ParseTimeoutError;

    fn from_str(text: &str) -> Result<Self, ParseTimeoutError> {
        let malformed = || ParseTimeoutError::Malformed(text.to_owned());
        let trimmed = text.trim();
        let unit_at = trimmed.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(unit_at);
        let unit = if unit.is_empty() { "s" } else { unit };
        let &(_, unit_millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(malformed());
        }
        let too_long = || ParseTimeoutError::TooLong(text.to_owned());
        let whole: u64 = whole.parse().map_err(|_| too_long())?;
        let kept: String = fraction.chars().take(9).collect();
        let part = kept.parse::<u64>().unwrap_or(0) * unit_millis / 10u64.pow(kept.len() as u32);
        let millis = whole.checked_mul(unit_millis).and_then(|m| m.checked_add(part)).ok_or_else(too_long)?;
        match millis {
            0 => Err(ParseTimeoutError::Zero(text.to_owned())),
            MAX_MILLIS.. => Err(too_long()),
            _ => Ok(Self(Duration::from_millis(millis))),
        }
    }
}

/// How often something is done again: `10ms`, `1.5s`; with a unit, since seconds are as likely as milliseconds. Never zero. In
/// JSON it is such a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Timeout);

/// Why a text is no period.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePeriodError {
    #[error("{0:?} is not a length of time; write a positive number with a unit, such as 10ms or 1s")]
    Malformed(String),
    #[error("{0:?} has no unit; write {0}ms or {0}s")]
    Unit(String),
    #[error("{0:?} is no time at all; write at least 1ms")]
    Zero(String),
}

impl Period {
    pub fn duration(self) -> Duration {
        self.0.duration()
    }
}

impl FromStr for Period {
    type Err = ParsePeriodError;

    fn from_str(text: &str) -> Result<Self, ParsePeriodError> {
        let period = text.parse::<Timeout>().map_err(|error| match error {
            ParseTimeoutError::Zero(text) => ParsePeriodError::Zero(text),
            ParseTimeoutError::Malformed(text) | ParseTimeoutError::TooLong(text) => ParsePeriodError::Malformed(text),
        })?;
        if text.trim().ends_with(|c: char| c.is_ascii_digit()) {
            return Err(ParsePeriodError::Unit(text.to_owned()));
        }
        Ok(Self(period))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) { write!(f, "{}s", millis / 1000) } else { write!(f, "{millis}ms") }
    }
}

impl Serialize for Timeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Timeout;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of seconds, or a string such as \"30s\"")
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Timeout, E> {
                seconds.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timeout, E> {
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

    fn millis(text: &str) -> u128 {
        text.parse::<Timeout>().unwrap().duration().as_millis()
    }

    #[test]
    fn units_and_fractions() {
        assert_eq!(millis("30s"), 30_000);
        assert_eq!(millis("30"), 30_000);
        assert_eq!(millis("0.5"), 500);
        assert_eq!(millis("1.5m"), 90_000);
        assert_eq!(millis("250ms"), 250);
        assert_eq!(millis("2h"), 7_200_000);
        assert_eq!(millis("1d"), 86_400_000);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "s", "-1", "-1s", "1x", "1.s", ".5s", "1 2s", "1e3s", "∞"] {
            assert!(matches!(text.parse::<Timeout>(), Err(ParseTimeoutError::Malformed(_))), "{text}");
        }
        assert!(matches!("0".parse::<Timeout>(), Err(ParseTimeoutError::Zero(_))));
        assert!(matches!("0.0001s".parse::<Timeout>(), Err(ParseTimeoutError::Zero(_))));
        assert!(matches!("99999999999d".parse::<Timeout>(), Err(ParseTimeoutError::TooLong(_))));
        assert!(matches!("99999999999999999999s".parse::<Timeout>(), Err(ParseTimeoutError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 1u64..MAX_MILLIS) {
            let timeout = Timeout::new(Duration::from_millis(millis)).unwrap();
            prop_assert_eq!(timeout.to_string().parse::<Timeout>().unwrap(), timeout);
        }

        #[test]
        fn no_text_panics(text in "[0-9.]{0,25}[a-z]{0,3}") {
            let _ = text.parse::<Timeout>();
        }
    }

    #[test]
    fn a_period_has_a_unit_and_is_not_zero() {
        let period = |text: &str| text.parse::<Period>();
        assert_eq!(period("10ms").unwrap().duration(), Duration::from_millis(10));
        assert_eq!(period("1.5s").unwrap().to_string(), "1500ms");
        for (text, expected) in
            [("10", "10ms or 10s"), ("0", "at least 1ms"), ("0ms", "at least 1ms"), ("fast", "10ms")]
        {
            let error = period(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let json = serde_json::to_string(&period("10ms").unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<Period>(&json).unwrap(), period("10ms").unwrap());
        assert!(serde_json::from_str::<Period>("10").is_err());
    }
}
