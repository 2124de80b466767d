//! Days and dates of the Gregorian calendar.

/// A date and time of day, in numbers as people say them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
    /// 1 is Sunday, as the chip counts.
    pub weekday: i64,
}

const DAY: i64 = 86_400;
const DAYS_OF_400_YEARS: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH: i64 = 719_468;

impl DateTime {
    pub fn from_unix(seconds: i64) -> Self {
        let (days, time) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Years that begin in March have their leap day last, so that month lengths repeat.
        let since = days + EPOCH;
        let (cycle, day) = (since.div_euclid(DAYS_OF_400_YEARS), since.rem_euclid(DAYS_OF_400_YEARS));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let march_month = (5 * day + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: cycle * 400 + year + i64::from(month <= 2),
            month,
            day: day - (153 * march_month + 2) / 5 + 1,
            hour: time / 3_600,
            minute: time / 60 % 60,
            second: time % 60,
            // 1 January 1970 was a Thursday.
            weekday: (days + 4).rem_euclid(7) + 1,
        }
    }

    /// Seconds since 1970; the weekday is not looked at, and what is out of range carries over.
    pub fn to_unix(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let march_month = if self.month > 2 { self.month - 3 } else { self.month + 9 };
        let (cycle, year) = (year.div_euclid(400), year.rem_euclid(400));
        let day = 365 * year + year / 4 - year / 100 + (153 * march_month + 2) / 5 + self.day - 1;
        let days = cycle * DAYS_OF_400_YEARS + day - EPOCH;
        days * DAY + self.hour * 3_600 + self.minute * 60 + self.second
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_days() {
        let leap_day = DateTime::from_unix(1_709_210_096);
        let expected = DateTime { year: 2024, month: 2, day: 29, hour: 12, minute: 34, second: 56, weekday: 5 };
        assert_eq!(leap_day, expected);
        let epoch = DateTime { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0, weekday: 5 };
        assert_eq!(DateTime::from_unix(0), epoch);
    }

    proptest! {
        #[test]
        fn dates_round_trip(seconds in -60_000_000_000i64..250_000_000_000) {
            prop_assert_eq!(DateTime::from_unix(seconds).to_unix(), seconds);
        }
    }
}
