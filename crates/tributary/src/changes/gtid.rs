//! Global transaction ids (GTIDs), and sets of them that a server has executed. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The first part of a MySQL GTID: the server where the transaction originated, and its tag,
/// usually empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Origin {
    /// The server's UUID.
    pub uuid: [u8; 16],
    /// Empty, or up to 32 lower-case letters, digits and underscores.
    pub tag: String,
}

/// A set of MySQL transactions, in the text form of `@@gtid_executed`:
/// `UUID:1-5:7:tag:1-3,UUID2:1-3`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GtidSet {
    /// The first and the last number of each interval. Intervals rise, have gaps between them, and
    /// are never empty.
    intervals: BTreeMap<Origin, Vec<(u64, u64)>>,
}

/// A MariaDB GTID, `0-1-42`. It is the position of a log with one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MariaDbGtid {
    /// The replication domain.
    pub domain: u32,
    /// The id of the server where the transaction originated.
    pub server: u32,
    /// The number of the transaction in its domain.
    pub sequence: u64,
}

impl GtidSet {
    /// Adds one transaction.
    pub(crate) fn insert(&mut self, origin: &Origin, number: u64) {
        if let Some(intervals) = self.intervals.get_mut(origin) {
            add(intervals, number, number);
        } else {
            self.intervals.insert(origin.clone(), vec![(number, number)]);
        }
    }

    /// Whether every transaction of `other` is in this set.
    pub(crate) fn contains_set(&self, other: &Self) -> bool {
        other.intervals.iter().all(|(origin, wanted)| {
            let own = self.intervals.get(origin).map_or(&[][..], Vec::as_slice);
            wanted.iter().all(|(first, last)| {
                let before = own.partition_point(|(_, end)| end < first);
                own.get(before).is_some_and(|(start, end)| start <= first && last <= end)
            })
        })
    }

    /// One text per origin, in the text form of a set.
    pub(crate) fn parts(&self) -> impl Iterator<Item = String> {
        self.intervals.iter().map(|(origin, intervals)| {
            let mut text = origin.to_string();
            for (first, last) in intervals {
                text.push_str(&match first == last {
                    true => format!(":{first}"),
                    false => format!(":{first}-{last}"),
                });
            }
            text
        })
    }
}

/// Adds an interval, and merges it with those that it overlaps or touches.
fn add(intervals: &mut Vec<(u64, u64)>, mut first: u64, mut last: u64) {
    // The usual case: the next number.
    if let Some((_, end)) = intervals.last_mut()
        && end.checked_add(1) == Some(first)
    {
        *end = last;
        return;
    }
    let from = intervals.partition_point(|(_, end)| end.saturating_add(1) < first);
    let to = intervals.partition_point(|(start, _)| *start <= last.saturating_add(1));
    if let (Some((start, _)), true) = (intervals.get(from), from < to) {
        first = first.min(*start);
    }
    if let (Some((_, end)), true) = (to.checked_sub(1).and_then(|i| intervals.get(i)), from < to) {
        last = last.max(*end);
    }
    intervals.splice(from..to.max(from), [(first, last)]);
}

impl FromStr for GtidSet {
    type Err = String;

    /// Parses the text form that servers use. It may contain line breaks.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = || format!("`{part}` is not a set of GTIDs");
            let (uuid, rest) = part.split_once(':').ok_or_else(wrong)?;
            let mut origin =
                Origin { uuid: parse_uuid(uuid).ok_or_else(wrong)?, tag: String::new() };
            for item in rest.split(':').map(str::trim) {
                if item.starts_with(|c: char| c.is_ascii_digit()) {
                    let (first, last) = item.split_once('-').unwrap_or((item, item));
                    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
                    let (first, last) = (number(first)?, number(last)?);
                    if first == 0 || first > last {
                        return Err(wrong());
                    }
                    add(set.intervals.entry(origin.clone()).or_default(), first, last);
                } else {
                    origin.tag = parse_tag(item).ok_or_else(wrong)?;
                }
            }
        }
        Ok(set)
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut uuid = [0; 16];
    let mut digits = text.trim().chars().filter(|c| *c != '-').map(|c| c.to_digit(16));
    for byte in &mut uuid {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    digits.next().is_none().then_some(uuid)
}

fn parse_tag(text: &str) -> Option<String> {
    let fits = (1..=32).contains(&text.len());
    let known = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (fits && known).then(|| text.to_ascii_lowercase())
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.uuid.iter().enumerate() {
            if [4, 6, 8, 10].contains(&index) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        if self.tag.is_empty() { Ok(()) } else { write!(f, ":{}", self.tag) }
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts().collect::<Vec<_>>().join(","))
    }
}

impl fmt::Display for MariaDbGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.sequence)
    }
}

impl FromStr for MariaDbGtid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a GTID of one domain");
        let mut parts = text.trim().split('-');
        let mut next = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let (domain, server, sequence) = (next(), next(), next());
        let small = |part: Option<u64>| part.and_then(|part| u32::try_from(part).ok());
        match (small(domain), small(server), sequence, parts.next()) {
            (Some(domain), Some(server), Some(sequence), None) => {
                Ok(Self { domain, server, sequence })
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(text: &str) -> GtidSet {
        text.parse().unwrap()
    }

    #[test]
    fn sets_are_parsed_as_servers_write_them() {
        let shout = A.to_uppercase();
        let text = format!("{shout}:1-5:7:dom_1:1-3:6,\n{B}:9");
        assert_eq!(set(&text).to_string(), format!("{A}:1-5:7,{A}:dom_1:1-3:6,{B}:9"));
        assert_eq!(set(""), GtidSet::default());
        for bad in ["x:1", A, &format!("{A}:0"), &format!("{A}:5-3"), &format!("{A}:t-g:1")] {
            assert!(bad.parse::<GtidSet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_set_contains_another_only_with_its_origins_and_tags() {
        let whole = set(&format!("{A}:1-5:7-9:tag:1-3,{B}:1"));
        let held = |text: String| whole.contains_set(&set(&text));
        assert!(held(String::new()));
        assert!(held(format!("{A}:2-4:7:tag:3")));
        assert!(!held(format!("{A}:5-7")));
        assert!(!held(format!("{A}:other:1")));
        assert!(!held(format!("{B}:1-2")));
    }

    #[test]
    fn a_mariadb_gtid_is_parsed_and_formatted() {
        let gtid: MariaDbGtid = "0-12-345".parse().unwrap();
        assert_eq!(gtid, MariaDbGtid { domain: 0, server: 12, sequence: 345 });
        assert_eq!(gtid.to_string(), "0-12-345");
        for bad in ["", "0-1", "0-1-2,1-1-2", "0-1-2-3", "4294967296-1-1"] {
            assert!(bad.parse::<MariaDbGtid>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn intervals_hold_the_added_numbers(
            numbers in prop::collection::vec((1u64..40, 0u64..6), 0..30),
        ) {
            let mut intervals = Vec::new();
            let mut naive = BTreeSet::new();
            for (first, more) in numbers {
                add(&mut intervals, first, first + more);
                naive.extend(first..=first + more);
            }
            let all: Vec<u64> = intervals.iter().flat_map(|(first, last)| *first..=*last).collect();
            prop_assert_eq!(all, naive.into_iter().collect::<Vec<_>>());
            prop_assert!(intervals.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }
}
