//! The time of a post: the unit of the time column, and its conversion to milliseconds. Pure.
//!
//! Posts are compared in the unit of the column, so sorting never converts a value. An integer
//! column counts seconds, milliseconds or microseconds since 1970. A date and time is packed into
//! an integer that keeps the order of dates and every value a server can store, even year 0.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// The type and unit of the time column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds since 1970, an integer: `s`.
    Seconds,
    /// Milliseconds since 1970, an integer: `ms`.
    Milliseconds,
    /// Microseconds since 1970, an integer: `us`.
    Microseconds,
    /// `DATETIME` or `TIMESTAMP`: `datetime`, or `datetime(3)` with three digits of a second.
    DateTime {
        /// Digits of the fraction of a second, 0 to 6.
        digits: u8,
    },
}

/// The time zone of the values in a `DATETIME` column: `UTC`, `+02:00`, `Europe/Berlin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// A time column: its unit, and its zone if it holds dates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostTimes {
    /// The type and unit.
    pub unit: TimeUnit,
    /// The zone of its dates; unused for integers, which count in UTC.
    pub zone: Zone,
}

/// A date and time as a server stores it; any part may be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub struct CalendarTime {
    pub year: u16,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub micros: u32,
}

impl PostTimes {
    /// Milliseconds since 1970 (UTC), the unit of our own tables.
    pub const MILLISECONDS: Self = Self { unit: TimeUnit::Milliseconds, zone: Zone(TimeZone::UTC) };

    /// Converts a stored value to milliseconds since 1970 (UTC). A date that does not exist, such
    /// as one in month 0, is converted as the nearest existing date.
    pub fn epoch_ms(&self, stored: i64) -> i64 {
        match self.unit {
            TimeUnit::Seconds => stored.saturating_mul(1_000),
            TimeUnit::Milliseconds => stored,
            TimeUnit::Microseconds => stored.div_euclid(1_000),
            TimeUnit::DateTime { .. } => self.zone.epoch_ms(CalendarTime::unpacked(stored)),
        }
    }

    /// Converts milliseconds since 1970 (UTC) to a stored value, truncated to the column's
    /// precision.
    pub fn stored(&self, epoch_ms: i64) -> i64 {
        match self.unit {
            TimeUnit::Seconds => epoch_ms.div_euclid(1_000),
            TimeUnit::Milliseconds => epoch_ms,
            TimeUnit::Microseconds => epoch_ms.saturating_mul(1_000),
            TimeUnit::DateTime { digits } => {
                let unit = 10u32.pow(6 - u32::from(digits.min(6)));
                let mut time = self.zone.calendar(epoch_ms);
                time.micros -= time.micros % unit;
                time.packed()
            }
        }
    }

    /// [`PostTimes::stored`] for microseconds since 1970 (UTC).
    pub fn stored_from_micros(&self, epoch_us: i64) -> i64 {
        let stored = self.stored(epoch_us.div_euclid(1_000));
        let rest = epoch_us.rem_euclid(1_000);
        match self.unit {
            TimeUnit::Seconds | TimeUnit::Milliseconds => stored,
            TimeUnit::Microseconds => stored.saturating_add(rest),
            // The packed form ends with the microseconds, and `stored` left these digits 0.
            TimeUnit::DateTime { digits } => {
                stored + rest - rest % 10_i64.pow(6 - u32::from(digits.min(6)))
            }
        }
    }

    /// Converts a date and time in the column's zone to a stored value, truncated to the column's
    /// precision. `None` if the column counts from 1970 and has no zone.
    pub fn stored_from_calendar(&self, mut time: CalendarTime) -> Option<i64> {
        let TimeUnit::DateTime { digits } = self.unit else { return None };
        time.micros -= time.micros % 10u32.pow(6 - u32::from(digits.min(6)));
        Some(time.packed())
    }
}

impl CalendarTime {
    /// The date as one integer that keeps the order of dates. The layout is that of the servers
    /// (`TIME_to_longlong_datetime_packed` in their sources).
    pub fn packed(self) -> i64 {
        let days = ((i64::from(self.year) * 13 + i64::from(self.month)) << 5) | i64::from(self.day);
        let (hour, minute) = (i64::from(self.hour), i64::from(self.minute));
        let seconds = (hour << 12) | (minute << 6) | i64::from(self.second);
        (((days << 17) | seconds) << 24) | i64::from(self.micros)
    }

    /// The inverse of [`CalendarTime::packed`]. A number that `packed` never returns gives the
    /// nearest parts.
    pub fn unpacked(packed: i64) -> Self {
        let packed = packed.max(0);
        let bits = |from: u32, width: u32| (packed >> from) & ((1 << width) - 1);
        let months = bits(46, 17);
        let part = |value: i64| u8::try_from(value).unwrap_or(u8::MAX);
        Self {
            year: u16::try_from(months / 13).unwrap_or(u16::MAX),
            month: part(months % 13),
            day: part(bits(41, 5)),
            hour: part(bits(36, 5)),
            minute: part(bits(30, 6)),
            second: part(bits(24, 6)),
            micros: u32::try_from(bits(0, 24)).unwrap_or(0),
        }
    }

    /// Parses `2023-10-29 02:30:00.125` as a server writes it; any part may be 0.
    pub fn from_text(text: &str) -> Option<Self> {
        let (date, clock) = text.split_once(' ')?;
        let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
        let (year, month, day) = three(date, '-')?;
        let (hour, minute, second) = three(seconds, ':')?;
        let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 6)?;
        let micros = if digits == 0 { 0 } else { number(fraction)? * 10u32.pow(6 - digits) };
        let part = |value: u32| u8::try_from(value).ok();
        Some(Self {
            year: u16::try_from(year).ok()?,
            month: part(month)?,
            day: part(day)?,
            hour: part(hour)?,
            minute: part(minute)?,
            second: part(second)?,
            micros,
        })
    }

    /// The nearest existing date.
    fn civil(self) -> DateTime {
        let year = i16::try_from(self.year).unwrap_or(i16::MAX).min(9999);
        let month = i8::try_from(self.month.clamp(1, 12)).unwrap_or(1);
        let at = |day: u8| {
            let small = |part: u8, max: u8| i8::try_from(part.min(max)).unwrap_or(0);
            let nanos = i32::try_from(self.micros.min(999_999) * 1_000).unwrap_or(0);
            let day = small(day, 31);
            let (hour, minute) = (small(self.hour, 23), small(self.minute, 59));
            DateTime::new(year, month, day, hour, minute, small(self.second, 59), nanos)
        };
        let day = self.day.clamp(1, 31);
        // A month has at least 28 days.
        let found = (28..=day.max(28)).rev().find_map(|last| at(day.min(last)).ok());
        found.unwrap_or(DateTime::ZERO)
    }
}

/// Exactly three numbers.
fn three(text: &str, between: char) -> Option<(u32, u32, u32)> {
    let mut parts = text.split(between);
    let three = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    parts.next().is_none().then_some(three)
}

/// One to seven digits and nothing else.
fn number(text: &str) -> Option<u32> {
    let digits = (1..=7).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

impl Zone {
    fn epoch_ms(&self, time: CalendarTime) -> i64 {
        let civil = time.civil();
        // An hour that a clock change skips or repeats is read with the offset before the change.
        match self.0.to_ambiguous_timestamp(civil).compatible() {
            Ok(timestamp) => timestamp.as_millisecond(),
            Err(_) if civil.year() > 0 => i64::MAX,
            Err(_) => i64::MIN,
        }
    }

    fn calendar(&self, epoch_ms: i64) -> CalendarTime {
        let timestamp = Timestamp::from_millisecond(epoch_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let civil = self.0.to_datetime(timestamp);
        let part = |value: i8| u8::try_from(value).unwrap_or(0);
        CalendarTime {
            year: u16::try_from(civil.year()).unwrap_or(0),
            month: part(civil.month()),
            day: part(civil.day()),
            hour: part(civil.hour()),
            minute: part(civil.minute()),
            second: part(civil.second()),
            micros: u32::try_from(civil.subsec_nanosecond() / 1_000).unwrap_or(0),
        }
    }

    /// Whether the zone is UTC, written as `UTC` or `+00:00`.
    pub fn is_utc(&self) -> bool {
        self.0.to_fixed_offset().is_ok_and(|offset| offset == Offset::UTC)
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a time zone; use UTC, an offset such as +02:00, or a name \
                 such as Europe/Berlin"
            )
        };
        if let Some((sign, rest)) = text.split_at_checked(1).filter(|(s, _)| ["+", "-"].contains(s))
        {
            let (hours, minutes) = rest.split_once(':').ok_or_else(wrong)?;
            let number = |text: &str, max: i32| {
                let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
                text.parse::<i32>().ok().filter(|number| digits && *number <= max).ok_or_else(wrong)
            };
            let minutes = number(hours, 23)? * 60 + number(minutes, 59)?;
            let seconds = if sign == "-" { -minutes * 60 } else { minutes * 60 };

            return Ok(Self(Offset::from_seconds(seconds).map_err(|_| wrong())?.to_time_zone()));
        }
        TimeZone::get(text).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.iana_name(), self.0.to_fixed_offset()) {
            (Some(name), _) => f.write_str(name),
            (None, Ok(offset)) => {
                let minutes = offset.seconds() / 60;
                let sign = if minutes < 0 { '-' } else { '+' };
                let minutes = minutes.abs();
                write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
            (None, Err(_)) => f.write_str("UTC"),
        }
    }
}

impl FromStr for TimeUnit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text
            .strip_prefix("datetime(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|digits| digits.parse().ok())
            .filter(|digits| *digits <= 6);
        match (text, digits) {
            ("s", _) => Ok(Self::Seconds),
            ("ms", _) => Ok(Self::Milliseconds),
            ("us", _) => Ok(Self::Microseconds),
            ("datetime", _) => Ok(Self::DateTime { digits: 0 }),
            (_, Some(digits)) => Ok(Self::DateTime { digits }),
            _ => Err(format!(
                "`{text}` is not a time unit; use s, ms or us for an integer, or datetime, \
                 datetime(1) to datetime(6) as the column is declared"
            )),
        }
    }
}

impl fmt::Display for TimeUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds => f.write_str("s"),
            Self::Milliseconds => f.write_str("ms"),
            Self::Microseconds => f.write_str("us"),
            Self::DateTime { digits: 0 } => f.write_str("datetime"),
            Self::DateTime { digits } => write!(f, "datetime({digits})"),
        }
    }
}

impl<'de> Deserialize<'de> for TimeUnit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(unit: &str, zone: &str) -> PostTimes {
        PostTimes { unit: unit.parse().unwrap(), zone: zone.parse().unwrap() }
    }

    fn date(year: u16, month: u8, day: u8) -> CalendarTime {
        CalendarTime { year, month, day, hour: 1, minute: 30, second: 0, micros: 0 }
    }

    #[test]
    fn dates_are_read_as_servers_write_them() {
        let time = |micros| CalendarTime { micros, ..date(2023, 10, 29) };
        for (text, expected) in [
            ("2023-10-29 01:30:00", Some(time(0))),
            ("2023-10-29 01:30:00.5", Some(time(500_000))),
            ("2023-10-29 01:30:00.000125", Some(time(125))),
            ("0000-00-00 01:30:00", Some(date(0, 0, 0))),
        ] {
            assert_eq!(CalendarTime::from_text(text), expected, "{text}");
        }
        for bad in [
            "",
            "2023-10-29",
            "2023-10 01:30:00",
            "2023-10-29 01:30",
            "2023-10-29-1 01:30:00",
            "2023-10-29 01:+30:00",
            "2023-10-29 01:30:00.1234567",
            "2023-10-29 01:30:00.-1",
            "2023-999-29 01:30:00",
            "99999999999-10-29 01:30:00",
        ] {
            assert_eq!(CalendarTime::from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_unit_converts_to_epoch_milliseconds() {
        let ms = 1_651_362_712_345;
        for (unit, stored, back) in [
            ("s", 1_651_362_712, 1_651_362_712_000),
            ("ms", ms, ms),
            ("us", 1_651_362_712_345_000, ms),
        ] {
            let times = times(unit, "UTC");
            assert_eq!((times.stored(ms), times.epoch_ms(stored)), (stored, back));
        }
        let berlin = times("datetime(2)", "Europe/Berlin");
        let stored = berlin.stored(ms);
        let expected = CalendarTime {
            year: 2022,
            month: 5,
            day: 1,
            hour: 1,
            minute: 51,
            second: 52,
            micros: 340_000,
        };
        assert_eq!(CalendarTime::unpacked(stored), expected);
        assert_eq!(berlin.epoch_ms(stored), 1_651_362_712_340);
        assert_eq!(
            times("datetime", "-03:30").epoch_ms(date(2022, 5, 1).packed()),
            1_651_381_200_000
        );
    }

    #[test]
    fn microseconds_are_stored_down_to_the_precision_of_the_column() {
        let (ms, us) = (1_651_362_712_345, 1_651_362_712_345_678);
        for (unit, micros) in [("datetime", 0), ("datetime(3)", 345_000), ("datetime(5)", 345_670)]
        {
            let times = times(unit, "Europe/Berlin");
            let stored = CalendarTime::unpacked(times.stored_from_micros(us));
            assert_eq!((stored.second, stored.micros), (52, micros), "{unit}");
            let local = CalendarTime { micros: 345_678, ..stored };
            assert_eq!(times.stored_from_calendar(local), Some(stored.packed()), "{unit}");
        }
        assert_eq!(times("s", "UTC").stored_from_micros(us), ms / 1_000);
        assert_eq!(times("ms", "UTC").stored_from_micros(us), ms);
        assert_eq!(times("us", "UTC").stored_from_micros(us), us);
        assert_eq!(times("us", "UTC").stored_from_calendar(date(2022, 5, 1)), None);
    }

    #[test]
    fn nonexistent_dates_keep_their_order_and_are_shown_as_the_nearest_date() {
        let utc = times("datetime", "UTC");
        let zero = CalendarTime { hour: 0, minute: 0, ..date(0, 0, 0) };
        assert_eq!(zero.packed(), 0);
        assert_eq!(CalendarTime::unpacked(0), zero);
        let shown = |time: CalendarTime| crate::clock::rfc3339_ms(utc.epoch_ms(time.packed()));
        assert_eq!(shown(zero), "0000-01-01T00:00:00.000Z");
        assert_eq!(shown(date(2023, 2, 31)), "2023-02-28T01:30:00.000Z");
        assert_eq!(shown(date(2023, 0, 0)), "2023-01-01T01:30:00.000Z");
        assert_eq!(shown(date(9999, 12, 31)), "9999-12-30T22:00:00.000Z");
        for strange in [i64::MIN, -1, i64::MAX] {
            let _ = utc.epoch_ms(strange);
        }
    }

    #[test]
    fn zones_and_units_are_read_as_they_are_written() {
        for text in ["UTC", "+02:00", "-03:30", "Europe/Berlin"] {
            assert_eq!(text.parse::<Zone>().unwrap().to_string(), text);
        }
        assert!("+00:00".parse::<Zone>().unwrap().is_utc());
        assert!("UTC".parse::<Zone>().unwrap().is_utc());
        for text in ["", "Berlin", "+2", "+02:60", "+25:00", "+0a:00", "é"] {
            assert!(text.parse::<Zone>().is_err(), "{text}");
        }
        for text in ["s", "ms", "us", "datetime", "datetime(6)"] {
            assert_eq!(text.parse::<TimeUnit>().unwrap().to_string(), text);
        }
        for text in ["", "ns", "datetime(7)", "datetime()", "timestamp"] {
            assert!(text.parse::<TimeUnit>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn dates_keep_their_order_and_their_digits(
            a in (0u16..10_000, 0u8..13, 0u8..32, 0u8..24, 0u8..60, 0u8..60, 0u32..1_000_000),
            b in (0u16..10_000, 0u8..13, 0u8..32, 0u8..24, 0u8..60, 0u8..60, 0u32..1_000_000),
        ) {
            let make = |(year, month, day, hour, minute, second, micros)| {
                CalendarTime { year, month, day, hour, minute, second, micros }
            };
            prop_assert_eq!(a.cmp(&b), make(a).packed().cmp(&make(b).packed()));
            prop_assert_eq!(CalendarTime::unpacked(make(a).packed()), make(a));
        }
    }
}
