//! The posts of `outbox.json`, one after the other: a file of any size takes little memory.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use indicatif::ProgressBar;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;
use tributary::UserId;

use super::accounts::hashed;
use super::html::text_of;
use crate::import::input::decompressed;
use crate::import::records::Lines;
use crate::import::rows::Row;

/// Most bytes of one activity.
const ACTIVITY_BYTES_MAX: u64 = 16 << 20;
/// Activities that wait between the thread that reads the file and the import.
const WAITING_MAX: usize = 16;
/// The collection that everybody can read. Other posts are for followers or single accounts.
const PUBLIC: [&str; 3] = ["https://www.w3.org/ns/activitystreams#Public", "as:Public", "Public"];

/// Reads the activities of one file.
pub(in crate::import) struct Outbox {
    activities: Receiver<Result<Value>>,
    owner: UserId,
    /// The number of the last activity, from 1.
    number: u64,
    pub(in crate::import) skipped: Skipped,
}

/// The activities that are no posts for everybody.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::import) struct Skipped {
    not_public: usize,
    other: usize,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { not_public, other } = self;
        write!(f, "{not_public} not public, {other} without a text or of another kind")
    }
}

impl Outbox {
    /// All posts get the author `owner`.
    pub(in crate::import) fn open(file: File, bar: &ProgressBar, owner: UserId) -> Result<Self> {
        let (sender, activities) = sync_channel(WAITING_MAX);
        let file = bar.wrap_read(file);
        thread::Builder::new().name("outbox".to_owned()).spawn(move || {
            let mut send = |activity| sender.send(Ok(activity)).is_ok();
            let outcome = decompressed(file).and_then(|file| read(file, &mut send));
            if let Err(error) = outcome {
                // The receiver is gone if the import has failed.
                drop(sender.send(Err(error)));
            }
        })?;
        Ok(Self { activities, owner, number: 0, skipped: Skipped::default() })
    }

    /// The next post in the order of the posts' columns, or the reason why it is refused. `None` at
    /// the end of the file. Its place is the number of the activity.
    pub(in crate::import) fn next(
        &mut self,
    ) -> Result<Option<(Lines, std::result::Result<Row, String>)>> {
        while let Ok(activity) = self.activities.recv() {
            let activity = activity?;
            self.number += 1;
            let place = Lines { first: self.number, last: self.number };
            match post(&activity, self.owner) {
                Ok(Found::Post(row)) => return Ok(Some((place, Ok(row)))),
                Ok(Found::NotPublic) => self.skipped.not_public += 1,
                Ok(Found::Other) => self.skipped.other += 1,
                Err(reason) => return Ok(Some((place, Err(reason)))),
            }
        }
        Ok(None)
    }
}

/// The kind of an activity.
enum Found {
    Post(Row),
    NotPublic,
    Other,
}

/// The post of an activity. Posts of the account itself are referred to by their ids; a repost of
/// another account's post is a post with its address.
fn post(activity: &Value, owner: UserId) -> std::result::Result<Found, String> {
    let object = &activity["object"];
    let (mut reply_to, mut repost_of) = (None, None);
    let (source, content) = match activity["type"].as_str() {
        Some("Create") => match object["content"].as_str() {
            Some(html) => {
                reply_to = own_post(activity, address_of(&object["inReplyTo"]));
                (object, with_warning(object, text_of(html)))
            }
            None => return Ok(Found::Other),
        },
        Some("Announce") => match address_of(object) {
            Some(original) => {
                repost_of = own_post(activity, Some(original));
                let shows_text = repost_of.is_none();
                (activity, if shows_text { original.to_owned() } else { String::new() })
            }
            None => return Ok(Found::Other),
        },
        _ => return Ok(Found::Other),
    };
    if !is_public(activity) {
        return Ok(Found::NotPublic);
    }
    if content.is_empty() && repost_of.is_none() {
        return Ok(Found::Other);
    }
    let id = source["id"].as_str().ok_or("the activity has no `id`; remove it")?;
    let time = source["published"].as_str().or_else(|| activity["published"].as_str());
    let time = time.ok_or("the activity has no `published`; add its time")?;
    let edited_at = source["updated"].as_str().filter(|edited_at| *edited_at != time);
    let author = |post: Option<u64>| post.map(|_| owner.to_string());
    let number = |post: Option<u64>| post.map(|id| id.to_string());
    let required = [id_of(id).to_string(), owner.to_string(), content, time.to_owned()];
    let reply = [author(reply_to), number(reply_to)];
    let repost = [author(repost_of), number(repost_of)];
    let optional = reply.into_iter().chain(repost).chain([edited_at.map(str::to_owned)]);
    Ok(Found::Post(required.map(Some).into_iter().chain(optional).collect()))
}

/// Whether everybody can read the activity.
fn is_public(activity: &Value) -> bool {
    ["to", "cc"].iter().any(|key| {
        let named = |value: &Value| {
            let public = |value: &Value| value.as_str().is_some_and(|to| PUBLIC.contains(&to));
            public(value) || value.as_array().is_some_and(|list| list.iter().any(public))
        };
        named(&activity[key]) || named(&activity["object"][key])
    })
}

/// The address of an object, which is given by its address or as a whole.
fn address_of(object: &Value) -> Option<&str> {
    object.as_str().or_else(|| object["id"].as_str())
}

/// The id of the post with this address, if the account of the activity wrote it: the addresses of
/// its posts begin with its own.
fn own_post(activity: &Value, address: Option<&str>) -> Option<u64> {
    let actor = address_of(&activity["actor"])?;
    let address = address?;
    let rest = address.strip_prefix(actor)?;
    rest.starts_with('/').then(|| id_of(address))
}

/// A content warning is the first paragraph.
fn with_warning(object: &Value, text: String) -> String {
    match object["summary"].as_str().map(str::trim) {
        Some(warning) if !warning.is_empty() => format!("{warning}\n\n{text}"),
        _ => text,
    }
}

/// The id of a post: the number at the end of its address, else a number computed from it.
fn id_of(address: &str) -> u64 {
    let path = address.strip_suffix("/activity").unwrap_or(address);
    let last = path.rsplit('/').next().unwrap_or_default();
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    let number = last.parse().ok().filter(|id| is_number && (1..1 << 63).contains(id));
    number.unwrap_or_else(|| hashed(path))
}

/// Receives the activities of a file. Returns false to end the reading.
type Receive<'a> = dyn FnMut(Value) -> bool + 'a;

/// Reads the activities of a file.
fn read(file: impl Read, receive: &mut Receive<'_>) -> Result<()> {
    let used = Rc::new(Cell::new(0));
    let bounded = Bounded { file, used: Rc::clone(&used) };
    let mut json = serde_json::Deserializer::from_reader(bounded);
    let found = json.deserialize_map(Collection { receive, used: &used })?;
    json.end()?;
    match found {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::InvalidData, "it has no list `orderedItems`")),
    }
}

/// Fails if too many bytes are read for one activity.
struct Bounded<R> {
    file: R,
    used: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let count = self.file.read(out)?;
        let used = self.used.get() + count as u64;
        self.used.set(used);
        if used > ACTIVITY_BYTES_MAX {
            let text = format!("an activity has more than {ACTIVITY_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
        Ok(count)
    }
}

/// The object with the list of activities. Everything else in it is skipped. Returns whether there
/// was a list.
struct Collection<'a, 'b> {
    receive: &'a mut Receive<'b>,
    used: &'a Cell<u64>,
}

impl<'de> Visitor<'de> for Collection<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the list `orderedItems`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<bool, A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "orderedItems" {
                map.next_value_seed(Items { receive: &mut *self.receive, used: self.used })?;
                found = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

struct Items<'a, 'b> {
    receive: &'a mut Receive<'b>,
    used: &'a Cell<u64>,
}

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of activities")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        loop {
            self.used.set(0);
            let Some(activity) = items.next_element::<Value>()? else { return Ok(()) };
            if !(self.receive)(activity) {
                return Err(A::Error::custom("the import has ended"));
            }
        }
    }
}

/// The posts of a file, for a fuzz target.
pub(in crate::import) fn decode(data: &[u8]) {
    let owner = UserId::from(1);
    let _ = read(data, &mut |activity| post(&activity, owner).is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_numbers_of_addresses_or_computed_from_them() {
        let hash = hashed("https://a/objects/1f-2");
        for (address, id) in [
            ("https://a/users/b/statuses/109/activity", 109),
            ("https://a/users/b/statuses/109", 109),
            ("https://a/objects/1f-2", hash),
            ("https://a/9223372036854775808", hashed("https://a/9223372036854775808")),
            ("https://a/0", hashed("https://a/0")),
        ] {
            assert_eq!(id_of(address), id, "{address}");
        }
        assert!(hash > 0 && hash < 1 << 63);
    }

    #[test]
    fn an_activity_without_an_end_is_refused_before_it_fills_the_memory() {
        let endless = b"{\"orderedItems\":[\"".chain(std::io::repeat(b'x'));
        let error = read(std::io::BufReader::new(endless), &mut |_| true).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
        let error = read(&b"{\"type\":\"OrderedCollection\"}"[..], &mut |_| true).unwrap_err();
        assert!(error.to_string().contains("orderedItems"), "{error}");
    }
}
