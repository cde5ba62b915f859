//! The times of a file. One file has one form of time; the fleet's unit and zone decide how they
//! are stored.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use tributary::internal::{CalendarTime, PostTimes, rfc3339_ms};

use super::header::short;

/// 2000-01-01T00:00:00Z. An earlier time is probably in another unit.
const EARLIEST_MS: i64 = 946_684_800_000;
/// How far a time may be in the future: clocks and zones differ.
const FUTURE_MS: i64 = 24 * 60 * 60 * 1_000;

/// The form of the times in a file. No plausible number has two of them: as seconds, milliseconds
/// and microseconds it is a thousand times apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Seconds,
    Milliseconds,
    Microseconds,
    /// A date and time with an offset from UTC.
    Offset,
    /// A date and time in the zone of the column.
    Local,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seconds => "seconds since 1970",
            Self::Milliseconds => "milliseconds since 1970",
            Self::Microseconds => "microseconds since 1970",
            Self::Offset => "a date with an offset",
            Self::Local => "a date without an offset",
        })
    }
}

/// Which times are plausible.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plausible {
    latest_ms: i64,
}

impl Plausible {
    pub(super) fn new(now_ms: i64) -> Self {
        Self { latest_ms: now_ms.saturating_add(FUTURE_MS) }
    }

    fn contains(self, ms: i64) -> bool {
        (EARLIEST_MS..=self.latest_ms).contains(&ms)
    }

    /// Whether a text is a plausible time in any form.
    pub(super) fn is_time(self, text: &str, times: &PostTimes) -> bool {
        self.parse(text, times).is_ok()
    }

    /// The form of a time, and the value that is stored for it.
    fn parse(self, text: &str, times: &PostTimes) -> Result<(Form, i64), String> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return self.number(text).map(|(form, us)| (form, times.stored_from_micros(us)));
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            self.check(text, time.as_millisecond())?;
            return Ok((Form::Offset, times.stored_from_micros(time.as_microsecond())));
        }
        let Some(time) = local(text) else {
            return Err(format!(
                "timestamp {} is not a time; write seconds, milliseconds or microseconds since \
                 1970, or a date such as 2025-11-24T16:00:00Z",
                short(text)
            ));
        };
        let Some(stored) = times.stored_from_calendar(time) else {
            return Err(format!(
                "timestamp {} has no offset from UTC; add Z, or an offset such as +01:00",
                short(text)
            ));
        };
        self.check(text, times.epoch_ms(stored))?;
        Ok((Form::Local, stored))
    }

    fn number(self, text: &str) -> Result<(Form, i64), String> {
        let number: Option<i64> = text.parse().ok();
        let forms =
            [(Form::Seconds, 1_000_000), (Form::Milliseconds, 1_000), (Form::Microseconds, 1)];
        let micros = |(form, micros): (Form, i64)| Some((form, number?.checked_mul(micros)?));
        let found = forms.into_iter().filter_map(micros);
        let found = found.into_iter().find(|(_, us)| self.contains(us.div_euclid(1_000)));
        found.ok_or_else(|| {
            format!(
                "timestamp {} is not between {} and {} as seconds, milliseconds or microseconds; \
                 correct it",
                short(text),
                rfc3339_ms(EARLIEST_MS),
                rfc3339_ms(self.latest_ms)
            )
        })
    }

    fn check(self, text: &str, ms: i64) -> Result<(), String> {
        if self.contains(ms) {
            return Ok(());
        }
        let (from, to) = (rfc3339_ms(EARLIEST_MS), rfc3339_ms(self.latest_ms));
        Err(format!("timestamp {} is not between {from} and {to}; correct it", short(text)))
    }
}

/// A date and time without an offset, as a server writes it, with a space or a `T`.
fn local(text: &str) -> Option<CalendarTime> {
    // The library checks that the date exists. It also accepts forms with an offset, which
    // `from_text` does not.
    text.parse::<DateTime>().ok()?;
    CalendarTime::from_text(&text.replacen('T', " ", 1)).filter(|time| time.second < 60)
}

/// Reads the times of one file.
#[derive(Debug)]
pub(super) struct FileTimes {
    pub(super) times: PostTimes,
    pub(super) plausible: Plausible,
    /// The form of the first time that was read, and its line.
    form: Option<(Form, u64)>,
}

impl FileTimes {
    pub(super) fn new(times: PostTimes, now_ms: i64) -> Self {
        Self { times, plausible: Plausible::new(now_ms), form: None }
    }

    /// The value that is stored for a time.
    pub(super) fn read(&mut self, text: &str, line: u64) -> Result<i64, String> {
        let (form, stored) = self.plausible.parse(text, &self.times)?;
        let (first, first_line) = *self.form.get_or_insert((form, line));
        if form != first {
            return Err(format!(
                "timestamp {} is {form}, but the file's first time, in line {first_line}, is \
                 {first}; use one form in a file",
                short(text)
            ));
        }
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_MS: i64 = 1_790_000_000_000;

    fn read(text: &str) -> Result<(Form, i64), String> {
        Plausible::new(NOW_MS).parse(text, &PostTimes::MILLISECONDS)
    }

    #[test]
    fn dates_are_read_in_the_forms_of_iso_8601_and_rfc_3339() {
        for text in [
            "2025-11-24T16:00:00Z",
            "2025-11-24T16:00:00.000000999z",
            "2025-11-24 17:00:00+01:00",
            "2025-11-24 16:00:00+00",
            "2025-11-24T11:30:00-0430",
        ] {
            assert_eq!(read(text), Ok((Form::Offset, 1_764_000_000_000)), "{text}");
        }
    }

    proptest! {
        /// A number without its last digits is no time, so a file that is cut off is noticed.
        #[test]
        fn a_number_that_is_cut_off_is_not_plausible(ms in 1_000_000_000_000..NOW_MS) {
            for (unit, number) in [ms / 1_000, ms, ms * 1_000].into_iter().enumerate() {
                let text = number.to_string();
                let stored = if unit == 0 { ms - ms % 1_000 } else { ms };
                prop_assert_eq!(read(&text).unwrap().1, stored);
                // Without three digits it is the same time in the next unit, which the file does
                // not use.
                for cut in [1, 2, 4, 5] {
                    prop_assert!(read(&text[..text.len() - cut]).is_err());
                }
            }
        }
    }
}
