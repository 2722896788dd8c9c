//! Dates, as files that people and CloudStack read have them. In UTC, which is CloudStack's routers' local time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment by the calendar, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    microsecond: u32,
}

impl Moment {
    /// `2026-01-20 10:01:02`.
    pub fn date_time(&self) -> String {
        let Self { year, month, day, hour, minute, second, .. } = self;
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }

    /// `20260120-100102`.
    pub fn stamp(&self) -> String {
        let Self { year, month, day, hour, minute, second, .. } = self;
        format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
    }

    /// Millionths of the second.
    pub fn microsecond(&self) -> u32 {
        self.microsecond
    }
}

impl From<SystemTime> for Moment {
    /// What is before 1970 is its first second.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, rest) = (since.as_secs() / DAY, since.as_secs() % DAY);
        // A year that begins in March has its leap day at its end; 400 of them are always as long.
        let days = days + FROM_MARCH_OF_YEAR_0;
        let (era, day) = (days / ERA, days % ERA);
        let year = (day - day / 1460 + day / 36_524 - day / (ERA - 1)) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let from_march = (5 * day + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year + u64::from(month <= 2),
            month,
            day: day - (153 * from_march + 2) / 5 + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
            microsecond: since.subsec_micros(),
        }
    }
}

/// Seconds of a day.
const DAY: u64 = 86_400;
/// Days of 400 years.
const ERA: u64 = 146_097;
/// Days from the first of March of the year 0 to the first of January 1970.
const FROM_MARCH_OF_YEAR_0: u64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_768_903_262, "2026-01-20 10:01:02"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            let moment = Moment::from(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(moment.date_time(), expected);
        }
        let moment = Moment::from(UNIX_EPOCH + Duration::from_micros(1_768_903_262_000_123));
        assert_eq!((moment.stamp().as_str(), moment.microsecond()), ("20260120-100102", 123));
    }
}
