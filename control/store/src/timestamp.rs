//! Points in time, as RFC 3339 writes them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 3600;
/// 9999-12-31T23:59:59Z: what RFC 3339 can write.
const MAX: u64 = 253_402_300_799;

/// Whole seconds since 1970-01-01T00:00:00Z, to the end of the year 9999.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(u64);

impl Timestamp {
    /// The host's clock.
    pub fn now() -> Self {
        Self::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// So many seconds after 1970; what lies beyond the year 9999 is its end.
    pub fn from_unix(seconds: u64) -> Self {
        Self(seconds.min(MAX))
    }

    /// Seconds since 1970.
    pub fn unix(self) -> u64 {
        self.0
    }
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar: eras of 400 years of
/// 146,097 days that begin in March, so that the leap day is a year's last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, of_month)
}

/// The inverse of [`date`], of years from 1970 on.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0 / DAY);
        let (hour, minute, second) = (self.0 % DAY / 3600, self.0 % 3600 / 60, self.0 % 60);
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl FromStr for Timestamp {
    type Err = String;

    /// Fractions of a second are left out; an offset from UTC is taken into account; a time before 1970 is 1970.
    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| format!("{text:?} is no time: it looks like 2026-11-23T12:00:00Z (RFC 3339)"))
    }
}

fn parse(text: &str) -> Option<Timestamp> {
    let number = |from: usize, len: usize| -> Option<u64> {
        let digits = text.get(from..from + len)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, any: &str| text.get(at..=at).is_some_and(|found| any.contains(found));
    let separated = is(4, "-") && is(7, "-") && is(10, "Tt ") && is(13, ":") && is(16, ":");
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !separated || !valid {
        return None;
    }
    let rest = text.get(19..)?;
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let offset = match (rest, rest.as_bytes()) {
        ("Z" | "z", _) => 0,
        (_, [sign @ (b'+' | b'-'), _, _, b':', _, _]) => {
            let at = text.len() - rest.len();
            let seconds = i64::try_from(number(at + 1, 2)? * 3600 + number(at + 4, 2)? * 60).ok()?;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    if year < 1970 {
        return Some(Timestamp(0));
    }
    let utc = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    Some(Timestamp::from_unix(utc.saturating_add_signed(-offset)))
}

impl TryFrom<String> for Timestamp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> String {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times_are_written_so() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(seconds)));
        }
    }

    #[test]
    fn fractions_and_offsets_are_read() {
        let noon = "2026-11-23T12:00:00Z".parse::<Timestamp>();
        for text in ["2026-11-23T12:00:00.123456789Z", "2026-11-23T13:30:00+01:30", "2026-11-23t07:00:00.5-05:00"] {
            assert_eq!(text.parse(), noon, "{text}");
        }
        assert_eq!("0001-01-01T00:00:00Z".parse(), Ok(Timestamp(0)), "what Go writes for no time");
        for text in ["", "2026-11-23", "2026-13-23T12:00:00Z", "2026-11-23T12:00:00", "2026-11-23T12:00:00+1", "ä"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_is_read_as_it_was_written(seconds in 0..=MAX) {
            prop_assert_eq!(Timestamp(seconds).to_string().parse(), Ok(Timestamp(seconds)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", cut in 0usize..30) {
            let _ = text.parse::<Timestamp>();
            let mut near = "2026-11-23T12:00:00.1+00:00".to_owned();
            near.insert_str(cut.min(near.len()), &text);
            let _ = near.parse::<Timestamp>();
        }
    }
}
