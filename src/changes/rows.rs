//! From the rows of a log to what they mean for posts, follows and users. Pure.

use super::Change;
use super::binlog::{kind, unpacked};
use super::bytes::Bytes;
use super::columns::{Cell, ColumnFormat, TableMap, image};
use super::pending::Pending;
use crate::mapping::{Mark, Tables, Visible};
use crate::model::{Follow, ID_MAX, Post, PostId, PostKey, ShardId, UserId};
use crate::moment::TimeUnit;

/// Columns of a table that are looked at, at most.
const FIELDS: usize = 5;
const AUTHOR: usize = 0;
const ID: usize = 1;
const TIME: usize = 2;
const CONTENT: usize = 3;
const VISIBLE: usize = 4;
/// Of a follow.
const FOLLOWER: usize = 0;
const FOLLOWED: usize = 1;

/// A table that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedTable {
    pub(crate) shard: ShardId,
    pub(crate) database: String,
    pub(crate) table: String,
    pub(crate) role: Role,
    /// No two rows of it are the same to us.
    pub(crate) single: bool,
    /// In the table's order; none while they are not known.
    pub(crate) columns: Vec<DeclaredColumn>,
}

/// What a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Posts,
    Follows,
    Users,
}

/// What the log does not tell of a column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeclaredColumn {
    pub(crate) name: String,
    pub(crate) unsigned: bool,
    /// Its bytes are what a read gives: UTF-8, or bytes.
    pub(crate) readable: bool,
    /// Of an ENUM.
    pub(crate) labels: Vec<String>,
}

/// How the rows of one table are read.
#[derive(Debug)]
pub(crate) struct TablePlan {
    shard: ShardId,
    role: Role,
    single: bool,
    unit: TimeUnit,
    visible: Option<Visible>,
    columns: Vec<ColumnFormat>,
    /// The slot that a column goes to.
    fields: Vec<usize>,
    declared: [DeclaredColumn; FIELDS],
}

/// The columns that are looked at, of one image of a row.
type Cells<'a> = [Cell<'a>; FIELDS];

/// What a row of the posts table is.
enum Row {
    Post(Post),
    /// Not seen, but it would have this key.
    Hidden(PostKey),
    /// It has no valid id or time, so no read finds it.
    None,
    /// A post of this author that the log does not tell well enough.
    Of(UserId),
    /// Not even the author is known.
    Unknown,
}

impl TablePlan {
    /// How the rows of a table are read that was announced like this; none if the order of its
    /// columns is not known.
    pub(crate) fn new(tables: &Tables, served: &ServedTable, map: TableMap) -> Option<Self> {
        let known: Vec<String> = served.columns.iter().map(|column| column.name.clone()).collect();
        let names = map.names.unwrap_or(known);
        if names.len() != map.columns.len() {
            return None;
        }
        let posts = &tables.posts;
        let wanted: Vec<&String> = match served.role {
            Role::Posts => {
                let visible = posts.visible.iter().map(|visible| &visible.column);
                [&posts.author, &posts.id, &posts.time, &posts.content]
                    .into_iter()
                    .chain(visible)
                    .collect()
            }
            Role::Follows => vec![&tables.follows.follower, &tables.follows.followed],
            Role::Users => tables.users.iter().map(|users| &users.id).collect(),
        };
        let field = |name: &String| {
            wanted.iter().position(|wanted| wanted.eq_ignore_ascii_case(name)).unwrap_or(FIELDS)
        };
        let fields: Vec<usize> = names.iter().map(field).collect();
        let mut declared: [DeclaredColumn; FIELDS] = Default::default();
        for (field, name) in declared.iter_mut().zip(&wanted) {
            let column = served.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name));
            *field = column?.clone();
        }
        Some(Self {
            shard: served.shard,
            role: served.role,
            single: served.single,
            unit: posts.unit,
            visible: posts.visible.clone(),
            columns: map.columns,
            fields,
            declared,
        })
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// Adds what the rows of an event mean; none if they cannot be read.
    pub(crate) fn apply(&self, event: u8, data: &[u8], pending: &mut Pending) -> Option<()> {
        let mut bytes = Bytes(data);
        let _table_and_flags = bytes.u64()?;
        if is_second_version(event) {
            let extra = usize::from(bytes.u16()?);
            bytes.take(extra.checked_sub(2)?)?;
        }
        let count = bytes.length().filter(|count| *count == self.columns.len())?;
        let before = bytes.take(count.div_ceil(8))?;
        let after = if is_update(event) { bytes.take(count.div_ceil(8))? } else { before };
        let unpacked_rows;
        let mut rows = bytes;
        if is_compressed(event) {
            unpacked_rows = unpacked(bytes.rest())?;
            rows = Bytes(&unpacked_rows);
        }
        let ones = |bits: &[u8]| (0..count).filter(|index| super::bytes::bit(bits, *index)).count();
        let (before_count, after_count) = (ones(before), ones(after));
        while !rows.is_empty() {
            let first = self.cells(&mut rows, before, before_count)?;
            if is_update(event) {
                let mut second = self.cells(&mut rows, after, after_count)?;
                for (after, before) in second.iter_mut().zip(first) {
                    // A column that is not logged again was not changed.
                    if *after == Cell::Absent {
                        *after = before;
                    }
                }
                self.update(&first, &second, pending);
            } else if is_delete(event) {
                self.delete(&first, pending);
            } else {
                self.insert(&first, pending);
            }
            // An image without any column would go on for ever.
            if before_count == 0 && after_count == 0 {
                return None;
            }
        }
        Some(())
    }

    #[inline]
    fn cells<'a>(&self, bytes: &mut Bytes<'a>, present: &[u8], count: usize) -> Option<Cells<'a>> {
        let mut cells = [Cell::Absent; FIELDS];
        image(bytes, &self.columns, present, count, |index, cell| {
            if let Some(place) = self.fields.get(index).and_then(|field| cells.get_mut(*field)) {
                *place = cell;
            }
        })?;
        Some(cells)
    }

    fn insert(&self, cells: &Cells<'_>, pending: &mut Pending) {
        let shard = self.shard;
        match self.role {
            Role::Posts => match self.row(cells) {
                Row::Post(post) => pending.push(shard, Change::Post(post)),
                Row::Hidden(_) | Row::None => {}
                Row::Of(author) => pending.push(shard, Change::AuthorUnknown(author)),
                Row::Unknown => pending.push(shard, Change::ShardUnknown),
            },
            Role::Follows => self.follow(cells, Change::Follow, pending),
            Role::Users => self.user(cells, pending),
        }
    }

    fn delete(&self, cells: &Cells<'_>, pending: &mut Pending) {
        let shard = self.shard;
        match self.role {
            Role::Posts => match self.row(cells) {
                Row::Post(Post { key, .. }) | Row::Hidden(key) if self.single => {
                    pending.push(shard, Change::PostGone(key));
                }
                Row::Post(Post { key, .. }) | Row::Hidden(key) => {
                    pending.push(shard, Change::AuthorUnknown(key.author));
                }
                Row::None => {}
                Row::Of(author) => pending.push(shard, self.gone(cells, author)),
                Row::Unknown => pending.push(shard, Change::ShardUnknown),
            },
            Role::Follows if self.single => self.follow(cells, Change::Unfollow, pending),
            Role::Follows => {
                self.follow(cells, |follow| Change::ReaderUnknown(follow.follower), pending);
            }
            Role::Users => self.user(cells, pending),
        }
    }

    /// The row's text may be missing in a shortened image; its key is enough when it goes.
    fn gone(&self, cells: &Cells<'_>, author: UserId) -> Change {
        match self.key(cells) {
            Ok(Some(key)) if self.single => Change::PostGone(key),
            _ => Change::AuthorUnknown(author),
        }
    }

    fn update(&self, before: &Cells<'_>, after: &Cells<'_>, pending: &mut Pending) {
        if self.role != Role::Posts || !self.single {
            self.delete(before, pending);
            self.insert(after, pending);
            return;
        }
        let shard = self.shard;
        let old = self.key(before);
        match self.row(after) {
            Row::Post(post) => {
                match old {
                    Ok(Some(key)) if key != post.key => pending.push(shard, Change::PostGone(key)),
                    Ok(_) => {}
                    Err(Some(author)) => pending.push(shard, Change::AuthorUnknown(author)),
                    Err(None) => pending.push(shard, Change::ShardUnknown),
                }
                pending.push(shard, Change::Post(post));
            }
            _ => {
                self.delete(before, pending);
                self.insert(after, pending);
            }
        }
    }

    fn follow(&self, cells: &Cells<'_>, change: impl Fn(Follow) -> Change, pending: &mut Pending) {
        let (follower, followed) = (self.id(cells, FOLLOWER), self.id(cells, FOLLOWED));
        let change = match (follower, followed) {
            (Ok(Some(follower)), Ok(Some(followee))) => {
                change(Follow { follower: UserId(follower), followee: UserId(followee) })
            }
            (Ok(Some(reader)), Err(())) => Change::ReaderUnknown(UserId(reader)),
            (Err(()), _) => Change::ShardUnknown,
            (Ok(_), Ok(_)) | (Ok(None), Err(())) => return,
        };
        pending.push(self.shard, change);
    }

    fn user(&self, cells: &Cells<'_>, pending: &mut Pending) {
        match self.id(cells, 0) {
            Ok(Some(user)) => pending.push(self.shard, Change::AuthorUnknown(UserId(user))),
            Ok(None) => {}
            Err(()) => pending.push(self.shard, Change::ShardUnknown),
        }
    }

    /// An id; none where no read finds it.
    fn id(&self, cells: &Cells<'_>, field: usize) -> Result<Option<u64>, ()> {
        let (cell, declared) = self.field(cells, field);
        if cell == Cell::Null {
            return Ok(None);
        }
        let id = cell.integer(declared.unsigned).ok_or(())?;
        Ok(u64::try_from(id).ok().filter(|id| *id <= ID_MAX))
    }

    fn field<'c, 'a>(
        &'c self,
        cells: &'c Cells<'a>,
        field: usize,
    ) -> (Cell<'a>, &'c DeclaredColumn) {
        (cells[field], &self.declared[field])
    }

    /// A post's key; none where no read finds it; the author, if that is all there is.
    fn key(&self, cells: &Cells<'_>) -> Result<Option<PostKey>, Option<UserId>> {
        let author = match self.id(cells, AUTHOR) {
            Ok(Some(author)) => UserId(author),
            Ok(None) => return Ok(None),
            Err(()) => return Err(None),
        };
        let post = match self.id(cells, ID) {
            Ok(Some(post)) => PostId(post),
            Ok(None) => return Ok(None),
            Err(()) => return Err(Some(author)),
        };
        let (time, declared) = self.field(cells, TIME);
        let time = match (self.unit, time) {
            (_, Cell::Null) => return Ok(None),
            (TimeUnit::DateTime { .. }, Cell::DateTime(packed)) => Some(packed),
            (TimeUnit::DateTime { .. }, _) => None,
            (_, number) => number.integer(declared.unsigned).and_then(|n| i64::try_from(n).ok()),
        };
        Ok(Some(PostKey { author, post, time: time.ok_or(Some(author))? }))
    }

    fn row(&self, cells: &Cells<'_>) -> Row {
        let key = match self.key(cells) {
            Ok(Some(key)) => key,
            Ok(None) => return Row::None,
            Err(Some(author)) => return Row::Of(author),
            Err(None) => return Row::Unknown,
        };
        let (cell, declared) = self.field(cells, VISIBLE);
        match self.visible.as_ref().map_or(Some(true), |v| is_marked(&v.value, cell, declared)) {
            None => return Row::Of(key.author),
            Some(false) => return Row::Hidden(key),
            Some(true) => {}
        }
        match self.field(cells, CONTENT) {
            (Cell::Text(bytes), DeclaredColumn { readable: true, .. }) => {
                let content = String::from_utf8_lossy(bytes).into_owned();
                Row::Post(Post { key, content })
            }
            (Cell::Null, _) => Row::Post(Post { key, content: String::new() }),
            _ => Row::Of(key.author),
        }
    }
}

/// Whether a server would find the column equal to the mark; none where that is not certain.
fn is_marked(mark: &Mark, cell: Cell<'_>, declared: &DeclaredColumn) -> Option<bool> {
    match (mark, cell) {
        (_, Cell::Absent) | (Mark::Now, _) => None,
        (Mark::Null, cell) => Some(cell == Cell::Null),
        (_, Cell::Null) => Some(false),
        (Mark::Number(number), Cell::Bits(bits)) => Some(u64::try_from(*number) == Ok(bits)),
        (Mark::Number(number), cell) => {
            Some(cell.integer(declared.unsigned)? == i128::from(*number))
        }
        (Mark::Text(wanted), Cell::Text(bytes)) if declared.readable => {
            same_text(wanted, std::str::from_utf8(bytes).ok()?)
        }
        (Mark::Text(wanted), Cell::Label(place)) => {
            let place = usize::try_from(place).ok()?.checked_sub(1)?;
            same_text(wanted, declared.labels.get(place)?)
        }
        (Mark::Text(_), _) => None,
    }
}

/// Servers compare texts by rules of many kinds, under most of which case and blanks at the end
/// do not count, and accents neither.
fn same_text(a: &str, b: &str) -> Option<bool> {
    if a == b {
        return Some(true);
    }
    let plain = |text: &str| text.bytes().all(|b| (b' '..=b'~').contains(&b));
    let differ = !a.trim_end().eq_ignore_ascii_case(b.trim_end());
    (plain(a) && plain(b) && differ).then_some(false)
}

fn is_second_version(event: u8) -> bool {
    use kind::{DELETE, DELETE_COMPRESSED, UPDATE, UPDATE_COMPRESSED, WRITE, WRITE_COMPRESSED};
    [WRITE, UPDATE, DELETE, WRITE_COMPRESSED, UPDATE_COMPRESSED, DELETE_COMPRESSED].contains(&event)
}

fn is_update(event: u8) -> bool {
    use kind::{UPDATE, UPDATE_COMPRESSED, UPDATE_COMPRESSED_V1, UPDATE_V1};
    [UPDATE, UPDATE_V1, UPDATE_COMPRESSED, UPDATE_COMPRESSED_V1].contains(&event)
}

fn is_delete(event: u8) -> bool {
    use kind::{DELETE, DELETE_COMPRESSED, DELETE_COMPRESSED_V1, DELETE_V1};
    [DELETE, DELETE_V1, DELETE_COMPRESSED, DELETE_COMPRESSED_V1].contains(&event)
}

fn is_compressed(event: u8) -> bool {
    (kind::WRITE_COMPRESSED_V1..=kind::DELETE_COMPRESSED).contains(&event)
}
