//! The entries of `crate::decoders` for files with follows and posts.

use std::io::Cursor;

use clap::Parser;
use tributary::internal::PostTimes;

use super::header::POST_COLUMNS;
use super::input::Input;
use super::mastodon::outbox;
use super::ndjson::Objects;
use super::rows;
use super::table::{Format, Table};
use super::time::Plausible;

/// 2023-11-14, in milliseconds since 1970. Later times than this are refused.
const NOW_MS: i64 = 1_700_000_000_000;

/// The options for CSV files, as the command line has them.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    format: Format,
}

/// A CSV file of posts. The first byte chooses the dialect.
pub fn csv(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let dialect: &[&str] = match choice % 3 {
        0 => &["csv"],
        1 => &["csv", "--dialect", "csv"],
        _ => &["csv", "--dialect", "mysql"],
    };
    let Ok(Options { format }) = Options::try_parse_from(dialect) else { return };
    let Ok(input) = Input::new(Cursor::new(data.to_vec())) else { return };
    let clock = (&PostTimes::MILLISECONDS, Plausible::new(NOW_MS));
    let Ok(Ok(mut table)) = Table::open(input, &POST_COLUMNS, &format, clock) else { return };
    let mut times = rows::PostTimesOfFile::new(&PostTimes::MILLISECONDS, NOW_MS);
    while let Ok(Some((lines, row))) = table.next() {
        let _ = row.and_then(|row| rows::post(row, lines.first, &mut times));
    }
}

/// A file of posts with one JSON object in each line.
pub fn ndjson(data: &[u8]) {
    let Ok(input) = Input::new(Cursor::new(data.to_vec())) else { return };
    let mut objects = Objects::new(input, &POST_COLUMNS, &[]);
    let mut times = rows::PostTimesOfFile::new(&PostTimes::MILLISECONDS, NOW_MS);
    while let Ok(Some((lines, row))) = objects.next() {
        let _ = row.and_then(|row| rows::post(row, lines.first, &mut times));
    }
}

/// The posts of a Mastodon account.
pub fn mastodon(data: &[u8]) {
    outbox::decode(data);
}
