//! `tributary feed USER`: prints a home timeline, as readable text or as JSON.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use tributary::config::ConfigError;
use tributary::graph::UserNames;
use tributary::internal::{Draft, PostTimes, fleet, now_ms, rfc3339_ms};
use tributary::{Config, Cursor, Limit, Page, PageRequest, Tributary, UserId};
use tributary_server::page_json;

use crate::terminal::{Colours, Look, visible};
use crate::{DATA_FOLDER, DEMO_FOLDER, DataSource, Outcome, say};

/// The page of a home timeline that a command reads.
#[derive(Args, Debug)]
pub(crate) struct PageArgs {
    /// Id of the reader
    pub(crate) user: UserId,
    #[command(flatten)]
    source: DataSource,
    /// Number of posts on the page, 1 to 100
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
    limit: u8,
    /// Cursor that an earlier page printed; the newest page if absent
    #[arg(long)]
    cursor: Option<Cursor>,
}

impl PageArgs {
    pub(crate) fn request(&self) -> Result<PageRequest> {
        let Some(limit) = Limit::new(self.limit) else { bail!("limit must be from 1 to 100") };
        let cursor = self.cursor.clone().unwrap_or_else(Cursor::newest);
        Ok(PageRequest::default().from(cursor).limit(limit))
    }

    /// The configuration of the shards: by default those of `serve` and `import`, or else those of
    /// `demo`.
    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        let has_data = Path::new(DATA_FOLDER).is_dir();
        self.source.load(if has_data { DATA_FOLDER } else { DEMO_FOLDER })
    }
}

#[derive(Args, Debug)]
pub(crate) struct Feed {
    #[command(flatten)]
    page: PageArgs,
    /// Print the JSON of GET /v1/users/{id}/feed
    #[arg(long)]
    json: bool,
}

impl Feed {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let request = self.page.request()?;
        let tributary = Tributary::open_read_only(&self.page.config()?).await?;
        let draft = Draft::home(&tributary, self.page.user, &request).await?;
        let (fleet, complete) = (fleet(&tributary), draft.is_complete());
        if self.json {
            say(page_json(&draft, fleet)?);
        } else {
            let page = draft.into_page();
            let missing: Vec<&str> =
                page.missing.iter().map(|shard| fleet.shard_name(*shard)).collect();
            let times = fleet.times();
            let colours = Colours::of_output();
            let flags = self.page.source.flags();
            let of = (self.page.user, flags.as_str());
            say(readable(&page, of, times, &missing, colours));
        }
        tributary.close().await;
        Ok(if complete { Outcome::Done } else { Outcome::Partial })
    }
}

fn readable(
    page: &Page,
    (user, flags): (UserId, &str),
    times: &PostTimes,
    missing: &[&str],
    colours: Colours,
) -> String {
    let title = format!("Home timeline of user {user}");
    let mut text = format!("{}\n\n", colours.apply(Look::Bold, &title));
    let now = now_ms();
    let heads = page.posts.iter().map(|post| {
        let author = name(post.key.author, page.names.get(&post.key.author));
        PostHead::new(author, times.epoch_ms(post.key.time), now)
    });
    let heads: Vec<PostHead> = heads.collect();
    let widths = PostHead::widths(&heads);
    for (post, head) in page.posts.iter().zip(&heads) {
        text.push_str(&readable_post(&post.content, head, widths, colours));
    }
    if page.posts.is_empty() {
        text.push_str("This page has no posts.\n\n");
    }
    if !missing.is_empty() {
        let warning = format!("Incomplete: no answer from {}.", missing.join(", "));
        let _ = writeln!(text, "{}", colours.apply(Look::Warning, &warning));
    }
    match &page.next {
        Some(next) => {
            let _ = write!(text, "Older posts: tributary feed {user}{flags} --cursor {next}");
        }
        None => text.push_str("There are no older posts."),
    }
    text
}

/// The display name and the handle of an author, else the id.
fn name(author: UserId, names: Option<&UserNames>) -> String {
    let Some(names) = names else { return format!("user {author}") };
    let text = match names.name() {
        Some(name) => format!("{name} @{}", names.handle()),
        None => format!("@{}", names.handle()),
    };
    text.chars().map(visible).collect()
}

/// The line above the text of a post. Its parts are columns of all posts of a page.
struct PostHead {
    author: String,
    age: String,
    time: String,
}

impl PostHead {
    fn new(author: String, time_ms: i64, now_ms: i64) -> Self {
        Self { author, age: age(now_ms.saturating_sub(time_ms)), time: rfc3339_ms(time_ms) }
    }

    /// The widths of the authors and of the ages, in characters.
    fn widths(heads: &[Self]) -> (usize, usize) {
        let widest = |part: fn(&Self) -> &str| {
            heads.iter().map(|head| part(head).chars().count()).max().unwrap_or(0)
        };
        (widest(|head| &head.author), widest(|head| &head.age))
    }
}

/// Formats a post: one line with the author and the time, then the indented text. Control
/// characters are replaced by symbols, because they could control the terminal or reverse the
/// direction of text.
fn readable_post(
    content: &str,
    PostHead { author, age, time }: &PostHead,
    (author_width, age_width): (usize, usize),
    colours: Colours,
) -> String {
    let space = " ".repeat(author_width.saturating_sub(author.chars().count()));
    let author = colours.apply(Look::Name, author);
    let times = colours.apply(Look::Dim, &format!("{age:>age_width$}  {time}"));
    let mut text = format!("{author}{space}  {times}\n");
    for line in content.lines() {
        let line: String = line.chars().map(visible).collect();
        let _ = writeln!(text, "    {line}");
    }
    text.push('\n');
    text
}

/// The age of a post in whole units, in the largest unit that is not above the age.
fn age(ms: i64) -> String {
    const UNITS: [(i64, &str); 5] =
        [(31_536_000_000, "y"), (86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    match UNITS.iter().find(|(unit, _)| ms >= *unit) {
        Some((unit, name)) => format!("{} {name} ago", ms / unit),
        None if ms < 0 => "in the future".to_owned(),
        None => "now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_are_aligned_and_have_no_control_characters() {
        let content = "one\n\u{1b}[2Jtwo\u{202e} 🎉";
        let author = name(UserId::from(7), Some(&UserNames::new("ann\t", None)));
        let heads =
            [PostHead::new(author, 1_000, 7_201_000), PostHead::new("user 12345".into(), 0, 9)];
        let widths = PostHead::widths(&heads);
        assert_eq!(
            readable_post(content, &heads[0], widths, Colours::none()),
            "@ann        2 h ago  1970-01-01T00:00:01.000Z\n    one\n    ␛[2Jtwo\u{fffd} 🎉\n\n"
        );
        assert_eq!(
            readable_post("", &heads[1], widths, Colours::none()),
            "user 12345      now  1970-01-01T00:00:00.000Z\n\n"
        );
        assert_eq!(
            [age(-1), age(999), age(1_000), age(90_000_000)].join(", "),
            "in the future, now, 1 s ago, 1 d ago"
        );
    }
}
