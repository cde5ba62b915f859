//! The time of a post: the unit of the time column, and its conversion to milliseconds. Pure.
//!
//! Posts are compared in the unit of the column, so sorting never converts a value. An integer
//! column counts seconds, milliseconds or microseconds since 1970. A date and time is packed into
//! an integer that keeps the order of dates and every value a server can store, even year 0.
//!
//! A zone can set its clocks: some digits then occur twice, and others never. Two rules keep the
//! order of the digits equal to the order of the times:
//! - **Read:** digits are the first instant at which the clock shows them or later digits.
//! - **Write:** a post gets the latest digits that the clock has shown so far. While an hour
//!   repeats, this is the last moment before the clock was set back.
//!
//! So a time that was written and read again is never later than the real time. During a repeated
//! hour it is up to an hour early, and only the post ids order the posts of that hour.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// No zone was ever set back by more than a day (Alaska in 1867).
const SET_BACK_MAX: SignedDuration = SignedDuration::from_hours(25);

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

    /// Converts a stored value to milliseconds since 1970 (UTC). A larger value never returns an
    /// earlier time. A date that does not exist, such as one in month 0, is converted as the next
    /// existing date.
    pub fn epoch_ms(&self, stored: i64) -> i64 {
        match self.unit {
            TimeUnit::Seconds => stored.saturating_mul(1_000),
            TimeUnit::Milliseconds => stored,
            TimeUnit::Microseconds => stored.div_euclid(1_000),
            TimeUnit::DateTime { .. } => self.zone.epoch_ms(CalendarTime::unpacked(stored)),
        }
    }

    /// [`PostTimes::epoch_ms`] in microseconds.
    pub fn epoch_us(&self, stored: i64) -> i64 {
        let rest = match self.unit {
            TimeUnit::Seconds | TimeUnit::Milliseconds => 0,
            TimeUnit::Microseconds => stored.rem_euclid(1_000),
            TimeUnit::DateTime { .. } => (CalendarTime::unpacked(stored).micros % 1_000).into(),
        };
        self.epoch_ms(stored).saturating_mul(1_000).saturating_add(rest)
    }

    /// Converts milliseconds since 1970 (UTC) to a stored value, truncated to the column's
    /// precision. A later time never returns a smaller value, and [`PostTimes::epoch_ms`] of the
    /// value is never after the time.
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

    /// The first existing date and time that does not sort before these digits.
    fn civil(self) -> DateTime {
        let small = |part: u8, max: u8| i8::try_from(part.min(max)).unwrap_or(0);
        let year = i16::try_from(self.year).unwrap_or(i16::MAX).min(9999);
        let (month, day) = (small(self.month, 12), small(self.day, 31));
        let first = Date::new(year, month.max(1), 1).unwrap_or(Date::MAX);
        if month == 0 || day == 0 {
            return first.at(0, 0, 0, 0);
        }
        let Ok(date) = Date::new(year, month, day) else {
            return first.last_of_month().tomorrow().unwrap_or(Date::MAX).at(0, 0, 0, 0);
        };
        let nanos = i32::try_from(self.micros.min(999_999) * 1_000).unwrap_or(0);
        date.at(small(self.hour, 23), small(self.minute, 59), small(self.second, 59), nanos)
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
    /// The first instant at which a clock of the zone shows these digits or later ones.
    fn epoch_ms(&self, time: CalendarTime) -> i64 {
        let civil = time.civil();
        let ambiguous = self.0.to_ambiguous_timestamp(civil);
        let first = match ambiguous.offset() {
            AmbiguousOffset::Gap { after, .. } => after.to_timestamp(civil).map(|before| {
                // The clock skips the digits at the next change.
                self.0.following(before).next().map_or(before, |change| change.timestamp())
            }),
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
                ambiguous.earlier()
            }
        };
        match first {
            Ok(timestamp) => timestamp.as_millisecond(),
            Err(_) if civil.year() > 0 => i64::MAX,
            Err(_) => i64::MIN,
        }
    }

    /// The latest digits that a clock of the zone has shown up to this time.
    fn calendar(&self, epoch_ms: i64) -> CalendarTime {
        let now = Timestamp::from_millisecond(epoch_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let tick = SignedDuration::from_millis(1);
        let changes = self.0.preceding(now.saturating_add(tick).unwrap_or(now));
        let changes = changes.map(|change| change.timestamp());
        let recent = changes.take_while(|change| now.duration_since(*change) <= SET_BACK_MAX);
        let last_before = recent.map(|change| change.saturating_sub(tick).unwrap_or(change));
        let shown = last_before.map(|instant| self.0.to_datetime(instant));
        let civil = shown.chain([self.0.to_datetime(now)]).max().unwrap_or(DateTime::ZERO);
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

    /// Whether clocks of the zone are set after this time, by the rules that are known now.
    pub fn sets_clocks_after(&self, epoch_ms: i64) -> bool {
        let after = Timestamp::from_millisecond(epoch_ms).unwrap_or(Timestamp::MAX);
        let offset = self.0.to_offset(after);
        self.0.following(after).any(|change| change.offset() != offset)
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
            let exact = times.stored_from_micros(us);
            assert_eq!(times.stored_from_micros(times.epoch_us(exact)), exact, "{unit}");
        }
        assert_eq!(times("s", "UTC").stored_from_micros(us), ms / 1_000);
        assert_eq!(times("ms", "UTC").stored_from_micros(us), ms);
        assert_eq!(times("us", "UTC").stored_from_micros(us), us);
        assert_eq!(times("us", "UTC").epoch_us(us), us);
        assert_eq!(times("ms", "UTC").epoch_us(ms), us / 1_000 * 1_000);
        assert_eq!(times("us", "UTC").stored_from_calendar(date(2022, 5, 1)), None);
    }

    #[test]
    fn nonexistent_dates_keep_their_order_and_are_shown_as_the_next_date() {
        let utc = times("datetime", "UTC");
        let zero = CalendarTime { hour: 0, minute: 0, ..date(0, 0, 0) };
        assert_eq!(zero.packed(), 0);
        assert_eq!(CalendarTime::unpacked(0), zero);
        let shown = |time: CalendarTime| crate::clock::rfc3339_ms(utc.epoch_ms(time.packed()));
        assert_eq!(shown(zero), "0000-01-01T00:00:00.000Z");
        assert_eq!(shown(date(2023, 2, 31)), "2023-03-01T00:00:00.000Z");
        assert_eq!(shown(date(2023, 0, 0)), "2023-01-01T00:00:00.000Z");
        assert_eq!(shown(date(2023, 5, 0)), "2023-05-01T00:00:00.000Z");
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

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn digits(text: &str) -> i64 {
        CalendarTime::from_text(text).unwrap().packed()
    }

    #[test]
    fn a_repeated_hour_is_written_as_its_end_and_read_as_its_first_pass() {
        let berlin = times("datetime(3)", "Europe/Berlin");
        let last = "2026-10-25 02:59:59.999";
        for (instant, written, read) in [
            ("2026-10-25T00:40:00.127Z", "2026-10-25 02:40:00.127", "2026-10-25T00:40:00.127Z"),
            ("2026-10-25T00:59:59.999Z", last, "2026-10-25T00:59:59.999Z"),
            ("2026-10-25T01:00:00Z", last, "2026-10-25T00:59:59.999Z"),
            ("2026-10-25T01:10:00.433Z", last, "2026-10-25T00:59:59.999Z"),
            ("2026-10-25T01:59:59.999Z", last, "2026-10-25T00:59:59.999Z"),
            ("2026-10-25T02:00:00Z", "2026-10-25 03:00:00", "2026-10-25T02:00:00Z"),
            ("2026-03-29T00:59:59Z", "2026-03-29 01:59:59", "2026-03-29T00:59:59Z"),
            ("2026-03-29T01:00:00Z", "2026-03-29 03:00:00", "2026-03-29T01:00:00Z"),
        ] {
            assert_eq!(berlin.stored(at(instant)), digits(written), "{instant}");
            assert_eq!(berlin.epoch_ms(digits(written)), at(read), "{written}");
        }
        let seconds = times("datetime", "Europe/Berlin");
        let stored = seconds.stored(at("2026-10-25T01:10:00.433Z"));
        assert_eq!(seconds.epoch_ms(stored), at("2026-10-25T00:59:59Z"));
        // The skipped hour is read as the moment of the change.
        for skipped in ["2026-03-29 02:00:00", "2026-03-29 02:30:00", "2026-03-29 02:59:59.999"] {
            assert_eq!(berlin.epoch_ms(digits(skipped)), at("2026-03-29T01:00:00Z"), "{skipped}");
        }
    }

    #[test]
    fn zones_that_set_their_clocks_are_known() {
        let since = at("2026-01-01T00:00:00Z");
        for (zone, sets) in [
            ("UTC", false),
            ("+02:00", false),
            ("Asia/Tokyo", false),
            ("Europe/Berlin", true),
            ("Australia/Lord_Howe", true),
        ] {
            assert_eq!(zone.parse::<Zone>().unwrap().sets_clocks_after(since), sets, "{zone}");
        }
        let moscow: Zone = "Europe/Moscow".parse().unwrap();
        assert!(moscow.sets_clocks_after(at("2014-01-01T00:00:00Z")));
    }

    /// All zones, and the changes of each one from 1845 to 2050. Before that, Manila skipped a
    /// day.
    fn zones() -> &'static [(Zone, Vec<i64>)] {
        static ZONES: std::sync::OnceLock<Vec<(Zone, Vec<i64>)>> = std::sync::OnceLock::new();
        ZONES.get_or_init(|| {
            let (from, to) = (at("1845-06-01T00:00:00Z"), at("2050-01-01T00:00:00Z"));
            let changes = |zone: &Zone| {
                let from = Timestamp::from_millisecond(from).unwrap();
                let all = zone.0.following(from).map(|change| change.timestamp().as_millisecond());
                all.take_while(|change| *change < to).collect::<Vec<i64>>()
            };
            let names = jiff::tz::db().available();
            let zones = names.filter_map(|name| name.as_str().parse::<Zone>().ok());
            let zones: Vec<_> = zones.map(|zone| (zone.clone(), changes(&zone))).collect();
            assert!(zones.len() > 400);
            zones.into_iter().filter(|(_, changes)| !changes.is_empty()).collect()
        })
    }

    proptest! {
        /// Near the clock changes of all zones: the order of the digits is the order of the times,
        /// for digits that any program wrote and for instants at which we write.
        #[test]
        fn the_order_of_digits_is_the_order_of_times(
            zone in any::<proptest::sample::Index>(),
            change in any::<proptest::sample::Index>(),
            precision in 0u8..7,
            near in prop::collection::vec(-100_000_000_i64..100_000_000, 2..8),
            close in prop::collection::vec(-8_000_000_i64..8_000_000, 2..8),
        ) {
            let (zone, changes) = &zones()[zone.index(zones().len())];
            let change = *change.get(changes);
            let unit = TimeUnit::DateTime { digits: precision };
            let times = PostTimes { unit, zone: zone.clone() };
            let utc = PostTimes { unit, zone: Zone::default() };
            let mut instants: Vec<i64> =
                near.iter().chain(&close).map(|distance| change + distance).collect();
            instants.extend([change - 1, change, change + 1]);
            instants.sort_unstable();

            let written: Vec<i64> = instants.iter().map(|instant| times.stored(*instant)).collect();
            prop_assert!(written.is_sorted(), "{} {:?}", times.zone, instants);
            for (instant, stored) in instants.iter().zip(&written) {
                let shown = times.epoch_ms(*stored);
                prop_assert!(shown <= *instant, "{} {}", times.zone, instant);
                prop_assert_eq!(times.stored(shown), *stored, "{} {}", times.zone, instant);
            }

            let offset = zone.0.to_offset(Timestamp::from_millisecond(change).unwrap());
            let local = instants.iter().map(|i| utc.stored(*i + i64::from(offset.seconds()) * 1_000));
            let foreign: Vec<i64> = local.collect();
            let shown: Vec<i64> = foreign.iter().map(|digits| times.epoch_ms(*digits)).collect();
            prop_assert!(foreign.is_sorted() && shown.is_sorted(), "{} {:?}", times.zone, foreign);
        }

        #[test]
        fn any_digits_are_shown_in_their_order(
            zone in any::<proptest::sample::Index>(),
            a in (0u16..10_000, 0u8..13, 0u8..32, 0u8..24, 0u8..60, 0u8..60, 0u32..1_000_000),
            days in 0u8..40,
        ) {
            let (zone, _) = &zones()[zone.index(zones().len())];
            let times = PostTimes { unit: TimeUnit::DateTime { digits: 6 }, zone: zone.clone() };
            let (year, month, day, hour, minute, second, micros) = a;
            let first = CalendarTime { year, month, day, hour, minute, second, micros };
            let day = (day + days).min(31);
            let later = CalendarTime { day, hour: hour / 2, ..first };
            let mut pair = [first.packed(), later.packed()];
            pair.sort_unstable();
            prop_assert!(times.epoch_ms(pair[0]) <= times.epoch_ms(pair[1]), "{first:?} {later:?}");
        }

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
