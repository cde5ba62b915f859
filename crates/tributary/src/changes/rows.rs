//! Translates the rows of a log to changes of posts, follows and users. Pure.

use super::Change;
use super::binlog::{kind, unpacked};
use super::bytes::Bytes;
use super::columns::{Cell, ColumnFormat, TableMap, image};
use super::metadata::LoggedColumn;
use super::pending::Pending;
use crate::mapping::{CONDITIONS_MAX, Condition, Mark, Tables, UsersTable};
use crate::model::{
    Follow, Hide, ID_MAX, Post, PostId, PostKey, REFERENCE_COLUMNS, References, ShardId, UserId,
    UserList, edit_time,
};
use crate::moment::TimeUnit;

/// Most columns of a table that are used. The constants below are indexes into them.
const FIELDS: usize = 4 + CONDITIONS_MAX + REFERENCE_COLUMNS + 1;
const AUTHOR: usize = 0;
const ID: usize = 1;
const TIME: usize = 2;
const CONTENT: usize = 3;
/// The first condition of a post.
const POST_CONDITIONS: usize = 4;
/// The fields of an entry of a list.
const OWNER: usize = 0;
const LISTED: usize = 1;
/// The first condition of an entry.
const ENTRY_CONDITIONS: usize = 2;

/// A served table, as its server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedTable {
    pub(crate) shard: ShardId,
    pub(crate) database: String,
    pub(crate) table: String,
    pub(crate) role: Role,
    /// No two rows map to the same post or follow.
    pub(crate) single: bool,
    /// The columns in the order of the table. Empty while they are not known.
    pub(crate) columns: Vec<DeclaredColumn>,
    /// When the table was created or altered last, as the server reports it.
    pub(crate) altered: String,
    /// Why memory cannot follow the table.
    pub(crate) unfollowable: Option<Unfollowable>,
}

/// The reason why memory cannot follow a table, and what an operator can do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfollowable {
    pub(crate) reason: String,
    pub(crate) cure: String,
}

/// The kind of row that a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Posts,
    List(UserList),
    Users,
}

/// The properties of a column that the log does not contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeclaredColumn {
    pub(crate) name: String,
    pub(crate) unsigned: bool,
    /// The logged bytes equal those that a query returns: UTF-8, or binary.
    pub(crate) readable: bool,
    /// The same holds for texts of ASCII characters alone.
    pub(crate) ascii: bool,
    /// The number of the collation of a text column, if the server reports it.
    pub(crate) collation: Option<u64>,
    /// The labels of an ENUM or a SET, else empty.
    pub(crate) labels: Vec<String>,
}

/// How to decode the rows of one table.
#[derive(Debug)]
pub(crate) struct TablePlan {
    shard: ShardId,
    role: Role,
    single: bool,
    unit: TimeUnit,
    /// The conditions of a visible row.
    conditions: Vec<Condition>,
    /// The first field of the references of a post, if the table has them.
    references: Option<usize>,
    /// The field of the time of an edit, if the table has it.
    edited_at: Option<usize>,
    columns: Vec<ColumnFormat>,
    /// The number of JSON columns.
    json_columns: usize,
    /// For each column the field that it fills. [`FIELDS`] for a column that is not used.
    fields: Vec<usize>,
    declared: [DeclaredColumn; FIELDS],
}

/// The used columns of one row image.
type Cells<'a> = [Cell<'a>; FIELDS];

/// The meaning of a row of the posts table.
enum Row {
    Post(Post),
    /// A post that is not visible.
    Hidden,
    /// It has no valid author, id or time, so no query finds it.
    None,
    /// A post of this author whose other columns the log does not contain in a usable form.
    Of(UserId),
    /// Even the author cannot be decoded.
    Unknown,
}

impl TablePlan {
    /// The plan for a table with this announcement. `None` if its columns do not match the known
    /// ones, or if a needed column is missing.
    pub(crate) fn new(tables: &Tables, served: &ServedTable, map: TableMap) -> Option<Self> {
        let names = column_names(served, &map)?;
        let posts = &tables.posts;
        let list = match served.role {
            Role::List(list) => Some(tables.list(list)?),
            Role::Posts | Role::Users => None,
        };
        let (mut wanted, conditions): (Vec<&String>, _) = match served.role {
            Role::Posts => {
                (vec![&posts.author, &posts.id, &posts.time, &posts.content], posts.conditions())
            }
            Role::List(_) => {
                let list = list.as_ref()?;
                (vec![&list.follower, &list.followed], list.conditions())
            }
            Role::Users => {
                let users = tables.users.iter();
                (users.flat_map(UsersTable::columns).collect(), &[][..])
            }
        };
        if conditions.len() > CONDITIONS_MAX {
            return None;
        }
        wanted.extend(conditions.iter().map(|condition| &condition.column));
        let references = posts.references.as_ref().filter(|_| served.role == Role::Posts);
        let first_reference = references.map(|_| wanted.len());
        wanted.extend(references.iter().flat_map(|references| references.columns()));
        let edited_at = posts.edited_at.as_ref().filter(|_| served.role == Role::Posts);
        let edit_field = edited_at.map(|_| wanted.len());
        wanted.extend(edited_at);
        let field = |name: &&str| {
            wanted.iter().position(|wanted| wanted.eq_ignore_ascii_case(name)).unwrap_or(FIELDS)
        };
        let fields: Vec<usize> = names.iter().map(field).collect();
        let mut declared: [DeclaredColumn; FIELDS] = Default::default();
        for (field, name) in declared.iter_mut().zip(&wanted) {
            let is = |other: &&str| other.eq_ignore_ascii_case(name);
            let logged = map.logged.get(names.iter().position(is)?)?;
            let column = served.columns.iter().find(|column| is(&column.name.as_str()));
            *field = column?.as_logged(logged);
        }
        Some(Self {
            shard: served.shard,
            role: served.role,
            single: served.single,
            unit: posts.unit,
            conditions: conditions.to_vec(),
            references: first_reference,
            edited_at: edit_field,
            columns: map.columns,
            json_columns: map.json_columns,
            fields,
            declared,
        })
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// Adds the changes of the rows of an event to `pending`. `None` if they cannot be decoded.
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
                if event == kind::PARTIAL_UPDATE {
                    skip_value_options(&mut rows, self.json_columns)?;
                }
                let mut second = self.cells(&mut rows, after, after_count)?;
                for (after, before) in second.iter_mut().zip(first) {
                    // The second image of an update omits unchanged columns.
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
            // Images without any column consume no bytes, so the loop would never end.
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
            if let Some(field) = self.fields.get(index).and_then(|field| cells.get_mut(*field)) {
                *field = cell;
            }
        })?;
        Some(cells)
    }

    fn insert(&self, cells: &Cells<'_>, pending: &mut Pending) {
        let shard = self.shard;
        match self.role {
            Role::Posts => match self.row(cells) {
                Row::Post(post) => pending.push(shard, Change::Post(post)),
                Row::Hidden | Row::None => {}
                Row::Of(author) => pending.push(shard, Change::AuthorUnknown(author)),
                Row::Unknown => pending.push_wide(shard, Change::ShardUnknown),
            },
            Role::List(UserList::Follows) => self.follow(cells, Change::Follow, pending),
            Role::List(list) => self.hide(cells, list, Change::Hide, pending),
            Role::Users => self.user(cells, pending),
        }
    }

    fn delete(&self, cells: &Cells<'_>, pending: &mut Pending) {
        let shard = self.shard;
        match self.role {
            Role::Posts => match self.row(cells) {
                Row::Post(Post { key, .. }) if self.single => {
                    pending.push(shard, Change::PostGone(key));
                }
                Row::Post(Post { key, .. }) => {
                    pending.push(shard, Change::AuthorUnknown(key.author));
                }
                // A row that was not visible changes nothing when it is deleted.
                Row::Hidden | Row::None => {}
                Row::Of(author) => pending.push(shard, self.gone(cells, author)),
                Row::Unknown => pending.push_wide(shard, self.post_of_unknown_author(cells)),
            },
            Role::List(UserList::Follows) if self.single => {
                self.follow(cells, Change::Unfollow, pending);
            }
            Role::List(UserList::Follows) => {
                self.follow(cells, |follow| Change::ReaderUnknown(follow.follower), pending);
            }
            Role::List(list) => self.hide(cells, list, Change::Unhide, pending),
            Role::Users => self.user(cells, pending),
        }
    }

    /// The change for a deleted row whose image is incomplete. Its key suffices, if the image has
    /// it.
    fn gone(&self, cells: &Cells<'_>, author: UserId) -> Change {
        match self.key(cells) {
            Ok(Some(key)) if self.single => Change::PostGone(key),
            _ => Change::AuthorUnknown(author),
        }
    }

    fn update(&self, before: &Cells<'_>, after: &Cells<'_>, pending: &mut Pending) {
        // Programs also count likes, or when a user was last seen.
        if before == after && !before.contains(&Cell::Other) {
            return;
        }
        if self.role == Role::Posts && self.id(before, AUTHOR).is_err() {
            return self.update_of_unknown_author(before, after, pending);
        }
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
                    Ok(Some(_)) if self.is_visible(before, POST_CONDITIONS) == Some(true) => {
                        return pending.push(shard, Change::PostEdited(post));
                    }
                    Ok(_) => {}
                    Err(Some(author)) => pending.push(shard, Change::AuthorUnknown(author)),
                    Err(None) => pending.push_wide(shard, Change::ShardUnknown),
                }
                pending.push(shard, Change::Post(post));
            }
            _ => {
                self.delete(before, pending);
                self.insert(after, pending);
            }
        }
    }

    /// An update whose first image is without the author. The log has only the key of the row and
    /// the changed columns if `binlog_row_image` is MINIMAL.
    fn update_of_unknown_author(
        &self,
        before: &Cells<'_>,
        after: &Cells<'_>,
        pending: &mut Pending,
    ) {
        let same_time = after[TIME] == Cell::Absent;
        let appears = |(condition, field): (&Condition, usize)| {
            let (cell, declared) = self.field(after, field);
            cell != Cell::Absent && is_marked(&condition.value, cell, declared) != Some(false)
        };
        // Otherwise the post may become newer than the head of its author.
        let below_head = same_time && !self.conditions.iter().zip(POST_CONDITIONS..).any(appears);
        match below_head {
            true => pending.push_wide(self.shard, self.post_of_unknown_author(before)),
            false => return pending.push_wide(self.shard, Change::ShardUnknown),
        }
        if after[AUTHOR] != Cell::Absent || after[ID] != before[ID] {
            self.insert(after, pending);
        }
    }

    /// The change of a post whose author is not in the row image.
    fn post_of_unknown_author(&self, cells: &Cells<'_>) -> Change {
        match self.id(cells, ID) {
            Ok(Some(post)) => Change::PostUnknown(PostId(post)),
            Ok(None) | Err(()) => Change::ShardUnknown,
        }
    }

    fn follow(&self, cells: &Cells<'_>, change: impl Fn(Follow) -> Change, pending: &mut Pending) {
        let (follower, followed) = (self.id(cells, OWNER), self.id(cells, LISTED));
        let change = match (follower, followed) {
            (Ok(Some(follower)), Ok(Some(followee))) => {
                let follow = Follow { follower: UserId(follower), followee: UserId(followee) };
                match self.is_visible(cells, ENTRY_CONDITIONS) {
                    Some(true) => change(follow),
                    Some(false) => return,
                    None => Change::ReaderUnknown(follow.follower),
                }
            }
            (Ok(Some(reader)), Err(())) => Change::ReaderUnknown(UserId(reader)),
            (Err(()), _) => return pending.push_wide(self.shard, Change::ReadersUnknown),
            (Ok(_), Ok(_)) | (Ok(None), Err(())) => return,
        };
        pending.push(self.shard, change);
    }

    /// A row of mutes or blocks. These tables have unique rows and no conditions.
    fn hide(
        &self,
        cells: &Cells<'_>,
        list: UserList,
        change: impl Fn(Hide) -> Change,
        pending: &mut Pending,
    ) {
        match (self.id(cells, OWNER), self.id(cells, LISTED)) {
            (Ok(Some(owner)), Ok(Some(user))) => {
                let (owner, user) = (UserId(owner), UserId(user));
                pending.push(self.shard, change(Hide { list, owner, user }));
            }
            (Ok(Some(owner)), Err(())) => {
                pending.push(self.shard, Change::ReaderUnknown(UserId(owner)));
                // Memory keeps the blocks of an author with its posts.
                if list == UserList::Blocks {
                    pending.push(self.shard, Change::AuthorUnknown(UserId(owner)));
                }
            }
            (Err(()), _) if list == UserList::Blocks => {
                pending.push_wide(self.shard, Change::ShardUnknown);
            }
            (Err(()), _) => pending.push_wide(self.shard, Change::ReadersUnknown),
            (Ok(_), Ok(_)) | (Ok(None), Err(())) => {}
        }
    }

    fn user(&self, cells: &Cells<'_>, pending: &mut Pending) {
        match self.id(cells, 0) {
            Ok(Some(user)) => pending.push(self.shard, Change::AuthorUnknown(UserId(user))),
            Ok(None) => {}
            Err(()) => pending.push_wide(self.shard, Change::ShardUnknown),
        }
    }

    /// The id in a field. `Ok(None)` if the id is NULL or out of range, so that no query finds the
    /// row; an error if it cannot be decoded.
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

    /// The key of a post. `Ok(None)` if no query finds the row. If the key cannot be decoded, the
    /// error holds the author if at least that is known.
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

    /// Whether the row meets all conditions, the first of which has the field `first`. `None` if
    /// that is not certain.
    fn is_visible(&self, cells: &Cells<'_>, first: usize) -> Option<bool> {
        let mut certain = true;
        for (condition, field) in self.conditions.iter().zip(first..) {
            let (cell, declared) = self.field(cells, field);
            match is_marked(&condition.value, cell, declared) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => certain = false,
            }
        }
        certain.then_some(true)
    }

    fn row(&self, cells: &Cells<'_>) -> Row {
        let key = match self.key(cells) {
            Ok(Some(key)) => key,
            Ok(None) => return Row::None,
            Err(Some(author)) => return Row::Of(author),
            Err(None) => return Row::Unknown,
        };
        match self.is_visible(cells, POST_CONDITIONS) {
            None => return Row::Of(key.author),
            Some(false) => return Row::Hidden,
            Some(true) => {}
        }
        let content = match self.field(cells, CONTENT) {
            (Cell::Text(bytes), declared) if declared.reads(bytes) => {
                String::from_utf8_lossy(bytes).into_owned()
            }
            (Cell::Null, _) => String::new(),
            _ => return Row::Of(key.author),
        };
        match (self.references(cells), self.edited_at(cells)) {
            (Ok(references), Ok(edited_at)) => {
                Row::Post(Post { key, content, references, edited_at })
            }
            _ => Row::Of(key.author),
        }
    }

    /// The time of the last edit of a post. An error if it cannot be decoded.
    fn edited_at(&self, cells: &Cells<'_>) -> Result<Option<i64>, ()> {
        let Some(field) = self.edited_at else { return Ok(None) };
        let (cell, declared) = self.field(cells, field);
        if cell == Cell::Null {
            return Ok(None);
        }
        let stored = cell.integer(declared.unsigned).ok_or(())?;
        Ok(edit_time(i64::try_from(stored).ok()))
    }

    /// The references of a post. An error if they cannot be decoded.
    fn references(&self, cells: &Cells<'_>) -> Result<References, ()> {
        let Some(first) = self.references else { return Ok(References::default()) };
        let mut ids = [None; REFERENCE_COLUMNS];
        for (id, field) in ids.iter_mut().zip(first..) {
            *id = self.id(cells, field)?;
        }
        Ok(References::from_ids(ids))
    }
}

impl ServedTable {
    /// A table of a database whose definition is not known yet.
    pub(crate) fn undefined(
        shard: ShardId,
        (database, table): (String, String),
        role: Role,
        single: bool,
    ) -> Self {
        let (columns, altered, unfollowable) = (Vec::new(), String::new(), None);
        Self { shard, database, table, role, single, columns, altered, unfollowable }
    }

    /// The reason why the table cannot be followed if the log has columns that the server hides.
    pub(crate) fn with_hidden_columns(&self) -> Unfollowable {
        Unfollowable {
            reason: format!(
                "the log has other columns of {}.{} than the server shows, for example those of a \
                 unique hash index",
                self.database, self.table
            ),
            cure: "SET GLOBAL binlog_row_metadata = FULL, and set the same in the server's \
                   configuration"
                .into(),
        }
    }

    /// Whether the definition of the table is the same.
    pub(crate) fn is_defined_as(&self, other: &Self) -> bool {
        self.columns == other.columns && self.altered == other.altered
    }
}

impl DeclaredColumn {
    /// The properties of the column when a row was logged. The log is right where it differs.
    fn as_logged(&self, logged: &LoggedColumn) -> Self {
        // Another collation may mean another character set.
        let other = logged.collation.zip(self.collation).is_some_and(|(then, now)| then != now);
        Self {
            unsigned: logged.unsigned.unwrap_or(self.unsigned),
            readable: self.readable && !other,
            ascii: self.ascii && !other,
            labels: logged.labels.as_ref().unwrap_or(&self.labels).clone(),
            ..self.clone()
        }
    }

    /// Whether these logged bytes equal those that a query returns.
    fn reads(&self, bytes: &[u8]) -> bool {
        self.readable || (self.ascii && bytes.is_ascii())
    }
}

/// The names of the announced columns: from the log, else as declared. `None` if the log has
/// neither the names nor the declared number of columns.
fn column_names<'a>(served: &'a ServedTable, map: &'a TableMap) -> Option<Vec<&'a str>> {
    let logged: Option<Vec<&str>> =
        map.logged.iter().map(|column| column.name.as_deref()).collect();
    let declared = || served.columns.iter().map(|column| column.name.as_str()).collect();
    let names: Vec<&str> = logged.unwrap_or_else(declared);
    (names.len() == map.columns.len()).then_some(names)
}

/// Whether a server finds the column equal to the mark. `None` if that is not certain.
fn is_marked(mark: &Mark, cell: Cell<'_>, declared: &DeclaredColumn) -> Option<bool> {
    match (mark, cell) {
        (_, Cell::Absent) | (Mark::Now | Mark::Delete, _) => None,
        (Mark::Null, cell) => Some(cell == Cell::Null),
        (Mark::NotNull, cell) => Some(cell != Cell::Null),
        (_, Cell::Null) => Some(false),
        (Mark::Number(number), Cell::Bits(bits)) => Some(u64::try_from(*number) == Ok(bits)),
        (Mark::Number(number), cell) => {
            Some(cell.integer(declared.unsigned)? == i128::from(*number))
        }
        (Mark::Text(wanted), Cell::Text(bytes)) if declared.reads(bytes) => {
            same_text(wanted, std::str::from_utf8(bytes).ok()?)
        }
        (Mark::Text(wanted), Cell::Label(number)) => {
            // No two labels are equal for the server, so an identical label decides.
            let index = declared.labels.iter().position(|label| label == wanted)?;
            (number > 0 || !wanted.is_empty()).then_some(usize::try_from(number).ok()? == index + 1)
        }
        (Mark::Text(wanted), Cell::Set(bits)) => Some(set_bits(wanted, &declared.labels)? == bits),
        (Mark::Text(_), _) => None,
    }
}

/// The bits of a value of a SET column: labels in the declared order, with commas between them.
/// `None` for any other text, which the server finds equal to no value or to one in another form.
pub(crate) fn set_bits(text: &str, labels: &[String]) -> Option<u64> {
    let (mut bits, mut next) = (0, 0);
    for label in text.split(',').filter(|_| !text.is_empty()) {
        let index = next + labels.get(next..)?.iter().position(|known| known == label)?;
        bits |= 1_u64.checked_shl(u32::try_from(index).ok()?)?;
        next = index + 1;
    }
    Some(bits)
}

/// Whether a server finds two texts equal. `None` if that depends on the collation: most ignore
/// case, trailing blanks and accents.
fn same_text(a: &str, b: &str) -> Option<bool> {
    if a == b {
        return Some(true);
    }
    let plain = |text: &str| text.bytes().all(|b| (b' '..=b'~').contains(&b));
    let differ = !a.trim_end().eq_ignore_ascii_case(b.trim_end());
    (plain(a) && plain(b) && differ).then_some(false)
}

/// Skips the options in front of the second image of a partial update. They mark the JSON values
/// that are logged as their differences, which have the same length prefix as whole values.
fn skip_value_options(rows: &mut Bytes<'_>, json_columns: usize) -> Option<()> {
    const PARTIAL_JSON: usize = 1;
    match rows.length()? {
        0 => {}
        PARTIAL_JSON => drop(rows.take(json_columns.div_ceil(8))?),
        _ => return None,
    }
    Some(())
}

fn is_second_version(event: u8) -> bool {
    use kind::{DELETE, PARTIAL_UPDATE, UPDATE, WRITE};
    [WRITE, UPDATE, DELETE, PARTIAL_UPDATE].contains(&event)
        || (kind::WRITE_COMPRESSED..=kind::DELETE_COMPRESSED).contains(&event)
}

fn is_update(event: u8) -> bool {
    use kind::{PARTIAL_UPDATE, UPDATE, UPDATE_COMPRESSED, UPDATE_COMPRESSED_V1, UPDATE_V1};
    [UPDATE, UPDATE_V1, UPDATE_COMPRESSED, UPDATE_COMPRESSED_V1, PARTIAL_UPDATE].contains(&event)
}

fn is_delete(event: u8) -> bool {
    use kind::{DELETE, DELETE_COMPRESSED, DELETE_COMPRESSED_V1, DELETE_V1};
    [DELETE, DELETE_V1, DELETE_COMPRESSED, DELETE_COMPRESSED_V1].contains(&event)
}

fn is_compressed(event: u8) -> bool {
    (kind::WRITE_COMPRESSED_V1..=kind::DELETE_COMPRESSED).contains(&event)
}

#[cfg(test)]
mod tests;
