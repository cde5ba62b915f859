//! Infers which tables hold follows, posts and users, and the role of each column, from names and
//! types. Pure: the input is the declaration of the tables, never a row.

use super::Finding;
use crate::mapping::{FollowsTable, PostsTable, Tables, UsersTable};
use crate::moment::{TimeUnit, Zone};

/// The declaration of a table.
#[derive(Clone, Debug)]
pub(super) struct TableShape {
    pub(super) name: String,
    pub(super) columns: Vec<ColumnShape>,
}

/// The declaration of a column.
#[derive(Clone, Debug)]
pub(super) struct ColumnShape {
    pub(super) name: String,
    /// The type in lower case, without its length.
    pub(super) kind: String,
    /// Fractional digits of the seconds; `None` for types that are not a date with a time.
    pub(super) digits: Option<u8>,
    pub(super) nullable: bool,
    /// The labels of an ENUM or a SET, or the values that a sample of a text column holds.
    pub(super) labels: Vec<String>,
}

// Usual names, the likeliest first. Case and underscores are ignored in comparisons.
const FOLLOWS: &[&str] = &[
    "followers",
    "follows",
    "follow",
    "following",
    "followings",
    "follower",
    "userfollows",
    "userfollowers",
    "friendships",
    "relationships",
];
const FOLLOWER: &[&str] = &[
    "followeruserid",
    "followerid",
    "follower",
    "fromuserid",
    "fromid",
    "sourceuserid",
    "sourceid",
    "subscriberid",
    "srcid",
    "userid",
    "accountid",
    "uid",
];
const FOLLOWED: &[&str] = &[
    "followeduserid",
    "followedid",
    "followed",
    "followeeuserid",
    "followeeid",
    "followee",
    "followinguserid",
    "followingid",
    "following",
    "touserid",
    "toid",
    "targetuserid",
    "targetaccountid",
    "targetid",
    "followableid",
    "destinationid",
    "dstid",
    "friendid",
    "authorid",
    "creatorid",
];
const POSTS: &[&str] =
    &["tweets", "posts", "statuses", "toots", "tweet", "post", "status", "toot", "userposts"];
const POST_ID: &[&str] = &["tweetid", "postid", "statusid", "messageid", "noteid", "entryid", "id"];
const AUTHOR: &[&str] = &[
    "userid",
    "authorid",
    "authoruserid",
    "accountid",
    "ownerid",
    "creatorid",
    "senderid",
    "postedby",
    "createdby",
    "uid",
    "author",
];
const CONTENT: &[&str] = &[
    "content",
    "body",
    "text",
    "message",
    "tweet",
    "caption",
    "contents",
    "tweettext",
    "posttext",
    "description",
];
const TIME: &[&str] = &[
    "timestamp",
    "createdat",
    "postedat",
    "publishedat",
    "created",
    "createdon",
    "createdtime",
    "createtime",
    "datecreated",
    "insertedat",
    "posted",
    "time",
    "date",
    "ts",
];
const USERS: &[&str] = &["users", "accounts", "profiles", "members", "user"];
const USER_ID: &[&str] = &["userid", "accountid", "id", "uid"];
const HANDLE: &[&str] = &["handle", "username", "screenname", "nickname", "login", "name"];
const DISPLAY_NAME: &[&str] = &["displayname", "name"];

pub(super) const INTEGERS: &[&str] = &["tinyint", "smallint", "mediumint", "int", "bigint"];
const TEXTS: &[&str] = &[
    "char",
    "varchar",
    "tinytext",
    "text",
    "mediumtext",
    "longtext",
    "binary",
    "varbinary",
    "blob",
    "tinyblob",
    "mediumblob",
    "longblob",
    "json",
];
const NAMES: &[&str] = &["char", "varchar", "tinytext", "text"];
const TIMES: &[&str] = &["datetime", "timestamp", "int", "bigint"];

/// Infers the mapping of the tables, with warnings about doubtful choices. The unit of an integer
/// time is a placeholder; the caller infers it from the values.
///
/// # Errors
/// One finding for each of follows and posts for which no table was chosen.
pub(super) fn infer(shapes: &[TableShape]) -> Result<(Tables, Vec<Finding>), Vec<Finding>> {
    let follows = choose(shapes, FOLLOWS, follows_of)
        .map_err(|found| not_found("follows", "followers and followees", shapes, &found));
    let posts = choose(shapes, POSTS, posts_of)
        .map_err(|found| not_found("posts", "an id, an author, a text and a time", shapes, &found));
    match (follows, posts) {
        (Ok((follows, other_follows)), Ok((posts, others))) => {
            let users = choose(shapes, USERS, users_of).ok();
            let users = users.filter(|(table, _)| rank(USERS, &table.name).is_some());
            let mut notes = Vec::new();
            notes.extend(other_tables("follows", &follows.name, &other_follows));
            notes.extend(other_tables("posts", &posts.name, &others));
            let users = users.map(|(users, _)| users);
            Ok((Tables { follows, posts, users, ..Tables::default() }, notes))
        }
        (follows, posts) => Err([follows.err(), posts.err()].into_iter().flatten().collect()),
    }
}

/// A warning if other tables fit as well.
fn other_tables(section: &str, chosen: &str, others: &[String]) -> Option<Finding> {
    let others = others.join("`, `");
    let text = format!("{section} are read from `{chosen}`; `{others}` could hold {section} too");
    let finding = Finding::warning("other_tables", text);
    (!others.is_empty()).then(|| finding.cure(format!("set name under [tables.{section}]")))
}

/// Of the tables that have all columns, the one with the likeliest name; and the names of other
/// candidates. A table with an unknown name is never chosen: a block list looks like a follow
/// list.
///
/// # Errors
/// If no table has a known name: the names of all tables that have the columns.
fn choose<T>(
    shapes: &[TableShape],
    names: &[&str],
    map: impl Fn(&TableShape) -> Option<T>,
) -> Result<(T, Vec<String>), Vec<String>> {
    let mut found: Vec<(Option<usize>, &str, T)> = shapes
        .iter()
        .filter_map(|shape| {
            Some((table_rank(names, &shape.name), shape.name.as_str(), map(shape)?))
        })
        .collect();
    if found.iter().all(|(rank, ..)| rank.is_none()) {
        return Err(found.into_iter().map(|(_, name, _)| name.to_owned()).collect());
    }
    found.retain(|(rank, ..)| rank.is_some());
    found.sort_by_key(|(rank, ..)| *rank);
    let mut found = found.into_iter();
    let first = found.next().map(|(_, _, table)| table).ok_or_else(Vec::new)?;
    Ok((first, found.map(|(_, name, _)| name.to_owned()).collect()))
}

/// Like [`rank`], but also accepts a prefix as frameworks add it: `app_posts`.
fn table_rank(names: &[&str], name: &str) -> Option<usize> {
    let last = || rank(names, name.rsplit('_').next()?).map(|rank| rank + names.len());
    rank(names, name).or_else(last)
}

fn not_found(section: &str, what: &str, shapes: &[TableShape], found: &[String]) -> Finding {
    let list = |names: Vec<&str>| match names.len() {
        0 => "none".to_owned(),
        _ => format!("`{}`", names.join("`, `")),
    };
    let (code, text) = if found.is_empty() {
        let all = list(shapes.iter().map(|shape| shape.name.as_str()).take(20).collect());
        ("no_table", format!("no table seems to hold {what}; the tables are: {all}"))
    } else {
        let found = list(found.iter().map(String::as_str).collect());
        ("ambiguous", format!("no table with a usual name holds {what}; candidates: {found}"))
    };
    Finding::error(code, text).cure(format!(
        "name the table in a configuration under [tables.{section}], then run check --config"
    ))
}

fn follows_of(shape: &TableShape) -> Option<FollowsTable> {
    let followed = column(shape, FOLLOWED, INTEGERS, &[])?;
    let follower = column(shape, FOLLOWER, INTEGERS, &[followed])?;
    Some(FollowsTable {
        name: shape.name.clone(),
        follower: follower.name.clone(),
        followed: followed.name.clone(),
        visible: None,
    })
}

fn posts_of(shape: &TableShape) -> Option<PostsTable> {
    let author = column(shape, AUTHOR, INTEGERS, &[])?;
    let id = column(shape, POST_ID, INTEGERS, &[author])?;
    let content = column(shape, CONTENT, TEXTS, &[])?;
    let time = column(shape, TIME, TIMES, &[author, id])?;
    let unit = match (time.kind.as_str(), time.digits) {
        ("datetime" | "timestamp", digits) => TimeUnit::DateTime { digits: digits.unwrap_or(0) },
        _ => TimeUnit::Milliseconds,
    };
    Some(PostsTable {
        name: shape.name.clone(),
        id: id.name.clone(),
        author: author.name.clone(),
        content: content.name.clone(),
        time: time.name.clone(),
        unit,
        zone: Zone::default(),
        references: None,
        edited_at: None,
        visible: None,
    })
}

fn users_of(shape: &TableShape) -> Option<UsersTable> {
    let id = column(shape, USER_ID, INTEGERS, &[])?;
    let handle = column(shape, HANDLE, NAMES, &[])?;
    let display_name = column(shape, DISPLAY_NAME, NAMES, &[handle]);
    Some(UsersTable {
        name: shape.name.clone(),
        id: id.name.clone(),
        handle: handle.name.clone(),
        display_name: display_name.map(|column| column.name.clone()),
    })
}

/// The column with the likeliest name among those with one of the types `kinds`, except `others`.
fn column<'a>(
    shape: &'a TableShape,
    names: &[&str],
    kinds: &[&str],
    others: &[&ColumnShape],
) -> Option<&'a ColumnShape> {
    let fits = |column: &&ColumnShape| {
        kinds.contains(&column.kind.as_str())
            && others.iter().all(|other| other.name != column.name)
            && rank(names, &column.name).is_some()
    };
    shape.columns.iter().filter(fits).min_by_key(|column| rank(names, &column.name))
}

/// The index of a name in the list; lower is likelier.
fn rank(names: &[&str], name: &str) -> Option<usize> {
    let name = plain(name);
    names.iter().position(|known| *known == name)
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| *c != '_').collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table from `name type, name type`. A type that ends in `?` may be NULL.
    fn table(name: &str, columns: &str) -> TableShape {
        let column = |text: &str| {
            let (name, kind) = text.trim().rsplit_once(' ').unwrap();
            ColumnShape {
                name: name.into(),
                kind: kind.trim_end_matches('?').into(),
                digits: kind.starts_with("datetime").then_some(3),
                nullable: kind.ends_with('?'),
                labels: Vec::new(),
            }
        };
        TableShape { name: name.into(), columns: columns.split(',').map(column).collect() }
    }

    #[test]
    fn tables_are_recognized_by_names_and_types() {
        let shapes = [
            table("Account", "id bigint, userName varchar"),
            table("users", "id bigint, email varchar, name varchar, username varchar"),
            table(
                "follows",
                "id bigint, account_id bigint, target_account_id bigint, created_at datetime",
            ),
            table(
                "statuses",
                "id bigint, text text, created_at datetime, accountId bigint, deletedAt datetime?",
            ),
            table("likes", "user_id bigint, status_id bigint, created_at datetime"),
        ];
        let (tables, notes) = infer(&shapes).unwrap();
        let follows = ("follows", "account_id", "target_account_id");
        let found = &tables.follows;
        assert_eq!(
            (found.name.as_str(), found.follower.as_str(), found.followed.as_str()),
            follows
        );
        let posts = &tables.posts;
        assert_eq!(
            [&posts.name, &posts.id, &posts.author, &posts.content, &posts.time],
            ["statuses", "id", "accountId", "text", "created_at"]
        );
        assert_eq!(posts.unit, TimeUnit::DateTime { digits: 3 });
        let users = tables.users.unwrap();
        assert_eq!(
            (users.handle.as_str(), users.display_name.as_deref()),
            ("username", Some("name"))
        );
        assert!(notes.is_empty());
        let polymorphic = "followable_type varchar, followable_id bigint, follower_type varchar, \
             follower_id bigint, blocked tinyint";
        let graph = "source_id bigint, target_id bigint, kind enum";
        for (shape, columns) in [
            (table("follows", polymorphic), ["follower_id", "followable_id"]),
            (table("relationships", graph), ["source_id", "target_id"]),
        ] {
            let found = follows_of(&shape).unwrap();
            assert_eq!([found.follower, found.followed], columns);
        }
    }

    #[test]
    fn our_own_tables_are_the_default() {
        let shapes = [
            table("followers", "follower_user_id bigint, followed_user_id bigint"),
            table("tweets", "tweet_id bigint, user_id bigint, content text, timestamp bigint"),
        ];
        assert_eq!(infer(&shapes).unwrap(), (Tables::default(), Vec::new()));
    }

    #[test]
    fn undecidable_tables_are_reported() {
        let posts = "id bigint, user_id bigint, body text, created int";
        let follows = table("followers", "follower_id int, followee_id int");
        let codes = |shapes: &[TableShape]| -> Vec<&str> {
            infer(shapes).unwrap_err().iter().map(|finding| finding.code).collect()
        };
        assert_eq!(codes(&[]), ["no_table", "no_table"]);
        assert_eq!(codes(&[table("posts", posts)]), ["no_table"]);
        assert_eq!(codes(&[follows.clone(), table("a", posts), table("b", posts)]), ["ambiguous"]);
        assert_eq!(
            codes(&[follows.clone(), table("posts", "id varchar, user_id varchar, body text")]),
            ["no_table"]
        );
        // An unknown name is never chosen, even if the columns fit.
        assert_eq!(codes(&[follows.clone(), table("wall", posts)]), ["ambiguous"]);
        let blocks = table("blocks", "account_id int, target_account_id int");
        assert_eq!(codes(&[blocks, table("posts", posts)]), ["ambiguous"]);
        let letters = "id bigint, sender_id int, body text, created_at datetime";
        assert_eq!(codes(&[follows.clone(), table("messages", letters)]), ["ambiguous"]);
        // A prefix is ignored.
        let django =
            [table("app_follow", "follower_id int, followee_id int"), table("app_post", posts)];
        assert_eq!(infer(&django).unwrap().0.posts.name, "app_post");
        let (tables, notes) =
            infer(&[follows, table("wall", posts), table("posts", posts), table("tweets", posts)])
                .unwrap();
        assert_eq!(tables.posts.name, "tweets");
        assert!(notes[0].text.contains("`posts` could hold posts too"), "{notes:?}");
    }
}
