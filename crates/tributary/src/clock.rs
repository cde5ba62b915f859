//! The only source of wall-clock time.

use jiff::Timestamp;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub fn now_ms() -> i64 {
    #[cfg(test)]
    if let Some(ms) = SET_MS.get() {
        return ms;
    }
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
thread_local! {
    static SET_MS: std::cell::Cell<Option<i64>> = const { std::cell::Cell::new(None) };
}

/// Sets the clock of this thread. `None` is the clock of the machine.
#[cfg(test)]
pub(crate) fn set_ms(ms: Option<i64>) {
    SET_MS.set(ms);
}

/// RFC 3339 in UTC with milliseconds: `2022-04-30T23:51:52.000Z`. A time outside the years that
/// RFC 3339 can write is clamped to the nearest one inside.
pub fn rfc3339_ms(epoch_ms: i64) -> String {
    let clamped = epoch_ms.clamp(YEAR_0_MS, YEAR_9999_END_MS);
    let time = Timestamp::from_millisecond(clamped).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

/// The inverse of [`rfc3339_ms`]. `None` if the text is not a time.
pub(crate) fn epoch_ms(text: &str) -> Option<i64> {
    text.parse().ok().map(Timestamp::as_millisecond)
}

/// 0000-01-01T00:00:00Z; RFC 3339 has no earlier year.
const YEAR_0_MS: i64 = -62_167_219_200_000;
/// The last second that the time library supports: a day before the end of year 9999, so that
/// every zone can show it.
const YEAR_9999_END_MS: i64 = 253_402_207_200_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_three_decimals() {
        assert_eq!(rfc3339_ms(1_651_362_712_000), "2022-04-30T23:51:52.000Z");
        assert_eq!(epoch_ms("2022-04-30T23:51:52.000Z"), Some(1_651_362_712_000));
        assert_eq!(rfc3339_ms(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(rfc3339_ms(i64::MIN), "0000-01-01T00:00:00.000Z");
        assert_eq!(rfc3339_ms(i64::MAX), "9999-12-30T22:00:00.000Z");
    }
}
