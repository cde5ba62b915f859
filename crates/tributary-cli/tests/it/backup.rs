//! `tributary backup` and `tributary restore`: a copy of a folder in use is complete and verified,
//! nothing is overwritten, and no token of the original is fresh on the copy.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tributary::internal::Fleet;
use tributary::{Config, Freshness, Limit, PageRequest, Tributary};

use crate::commands::{output, tributary};
use crate::support::fleet::{Backend, Tables, TestFleet, load_into};
use crate::support::watch::at_least;
use crate::support::world::World;
use crate::support::{run, scratch, user_id};

/// Every shard has posts of one of these authors.
const AUTHORS: [u64; 4] = [8, 9, 10, 11];

/// The configuration of a folder. A busy machine makes no page incomplete.
pub(crate) fn config(dir: &Path) -> Config {
    let deadline = ("TRIBUTARY_REQUEST__DEADLINE_MS".to_owned(), "60000".to_owned());
    Config::from_folder(dir, [deadline]).unwrap()
}

/// Runs `backup DIR --data DATA` or `restore DIR --data DATA`.
fn copy(command: &str, dir: &Path, data: &Path) -> (i32, String, String) {
    output(tributary(&[command]).arg(dir).arg("--data").arg(data))
}

/// The ids of all posts of the authors.
async fn posts(tributary: &Tributary) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for author in AUTHORS {
        let mut request = PageRequest::default().limit(Limit::new(Limit::MAX).unwrap());
        loop {
            let page = tributary.author_timeline(user_id(author), &request).await.unwrap();
            assert!(page.is_complete());
            found.extend(page.posts.iter().map(|post| post.key.post.get()));
            match page.next {
                Some(next) => request = request.from(next),
                None => break,
            }
        }
    }
    found
}

/// Publishes until `ended`, one post after the other. Returns the ids and the last token.
async fn publish(tributary: &Tributary, ended: &AtomicBool) -> (BTreeSet<u64>, Freshness) {
    let (mut stored, mut token) = (BTreeSet::new(), Freshness::default());
    while !ended.load(Ordering::Relaxed) {
        for author in AUTHORS {
            let text = "x".repeat(2_000);
            let published = tributary.publish(user_id(author), &text, None).await.unwrap();
            stored.insert(published.post.key.post.get());
            token = published.freshness;
        }
    }
    (stored, token)
}

#[test]
fn a_folder_is_backed_up_while_it_is_served_and_restored_without_its_tokens() {
    run(async {
        let dir = scratch();
        let path = |name: &str| dir.path().join(name);
        let (data, saved, restored) = (path("data"), path("saved"), path("restored"));
        let reader = user_id(4);
        let fleet = Fleet::open_to_load(&config(&data)).await.unwrap();
        load_into(&fleet, &World::followed_by(reader)).await;
        drop(fleet);
        fs::write(data.join("cursor-keys"), "secret").unwrap();
        fs::set_permissions(data.join("cursor-keys"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(data.join("shard-1.sqlite"), fs::Permissions::from_mode(0o600))
            .unwrap();

        let tributary = Tributary::open(&config(&data)).await.unwrap();
        let before = posts(&tributary).await;
        let ended = AtomicBool::new(false);
        let work = async {
            let copied = {
                let (saved, data) = (saved.clone(), data.clone());
                tokio::task::spawn_blocking(move || copy("backup", &saved, &data)).await.unwrap()
            };
            ended.store(true, Ordering::Relaxed);
            copied
        };
        let ((code, text, error), (stored, token)) =
            tokio::join!(work, publish(&tributary, &ended));
        assert_eq!(code, 0, "{text}{error}");
        assert!(text.contains("shard-3: ") && text.contains("8 followers"), "{text}");
        // Without memory, pages contain every write.
        let after = posts(&Tributary::open_read_only(&config(&data)).await.unwrap()).await;
        // The folder is in use.
        let (code, _, error) = copy("restore", &saved, &data);
        assert!(code == 3 && error.contains("another process owns the folder"), "{error}");
        tributary.close().await;

        let (code, text, error) = copy("restore", &saved, &restored);
        assert_eq!(code, 0, "{text}{error}");
        let copy_of = Tributary::open(&config(&restored)).await.unwrap();
        let found = posts(&copy_of).await;
        assert!(found.is_superset(&before) && found.is_subset(&after), "{}", found.len());
        assert!(!stored.is_empty() && after.is_superset(&stored));
        let page = copy_of.home_timeline(reader, &at_least(&token, Limit::DEFAULT)).await.unwrap();
        assert!(page.is_complete() && !page.fresh_enough, "the token is of another log");
        let followees = copy_of.following(reader, user_id(0), Limit::DEFAULT).await.unwrap();
        assert_eq!(followees.followees.len(), 8);
        copy_of.close().await;
        for name in ["cursor-keys", "shard-1.sqlite"] {
            let mode = fs::metadata(restored.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert!(!dir.path().join("saved.making").exists());
    });
}

/// The log identities of a folder's files.
fn identities(dir: &Path) -> BTreeSet<i64> {
    let identity = |shard: u16| {
        let file = dir.join(format!("shard-{shard}.sqlite"));
        let connection = rusqlite::Connection::open(file).unwrap();
        let read = "SELECT history FROM tributary_history";
        connection.query_row(read, [], |row| row.get(0)).unwrap()
    };
    (0..4).map(identity).collect()
}

#[test]
fn nothing_is_overwritten_and_a_damaged_or_foreign_file_is_refused() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    let (data, saved) = (path("data"), path("saved"));
    let reader = user_id(4);
    run(async {
        let fleet = Fleet::open_to_load(&config(&data)).await.unwrap();
        load_into(&fleet, &World::followed_by(reader)).await;
    });
    let refused = |command: &str, to: &Path, of: &Path, message: &str| {
        let (code, _, error) = copy(command, to, of);
        assert!(code == 3 && error.contains(message), "{code}: {error}");
    };
    refused("backup", &saved, &path("nowhere"), "has no shards");
    refused("backup", &data, &data, "it exists already");
    // A back-up that was interrupted leaves a lock and files, which the next one removes. A folder
    // of something else stays.
    fs::create_dir(path("saved.making")).unwrap();
    fs::write(path("saved.making/shard-0.sqlite"), "half").unwrap();
    refused("backup", &saved, &data, "it is not an interrupted back-up");
    assert!(path("saved.making/shard-0.sqlite").exists() && !saved.exists());
    fs::write(path("saved.making/lock"), "").unwrap();
    let (code, text, error) = copy("backup", &saved, &data);
    assert_eq!(code, 0, "{text}{error}");
    refused("backup", &saved, &data, "it exists already");
    refused("restore", &saved, &data, "it is not empty");
    fs::create_dir(path("other")).unwrap();
    fs::write(path("other/notes"), "of something else").unwrap();
    refused("restore", &saved, &path("other"), "it is not empty");
    assert_eq!(fs::read_dir(path("other")).unwrap().count(), 1);
    refused("restore", &path("nowhere"), &path("new"), "has no shards");
    assert!(!path("new").exists());

    // A back-up can be restored from a disk that cannot be written, also more than once.
    let files = || fs::read_dir(&saved).unwrap().map(|entry| entry.unwrap().path());
    files().for_each(|file| fs::set_permissions(file, fs::Permissions::from_mode(0o400)).unwrap());
    fs::set_permissions(&saved, fs::Permissions::from_mode(0o500)).unwrap();
    let mut seen = identities(&data);
    for name in ["first", "second"] {
        fs::create_dir(path(name)).unwrap();
        let (code, text, error) = copy("restore", &saved, &path(name));
        assert_eq!(code, 0, "{text}{error}");
        run(async { Tributary::open(&config(&path(name))).await.unwrap().close().await });
        let new = identities(&path(name));
        assert!(new.len() == 4 && seen.is_disjoint(&new), "{seen:?} {new:?}");
        seen.extend(new);
    }
    fs::set_permissions(&saved, fs::Permissions::from_mode(0o700)).unwrap();
    files().for_each(|file| fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap());

    fs::copy(saved.join("shard-1.sqlite"), path("one")).unwrap();
    fs::copy(saved.join("shard-2.sqlite"), saved.join("shard-1.sqlite")).unwrap();
    refused("restore", &saved, &path("third"), "holds shard 2, not shard 1");
    fs::copy(path("one"), saved.join("shard-1.sqlite")).unwrap();
    // The newest pages of the file are an index, which no count of rows reads.
    let damaged = fs::File::options().write(true).open(saved.join("shard-2.sqlite")).unwrap();
    let bytes = damaged.metadata().unwrap().len();
    damaged.write_all_at(&[0xa5; 4_096], bytes / 4_096 / 2 * 4_096).unwrap();
    let (code, _, error) = copy("restore", &saved, &path("third"));
    assert!(code == 3 && error.contains("shard-2.sqlite"), "{code}: {error}");
    assert!(!path("third").exists(), "no part of a copy is left");
    fs::create_dir(path("third")).unwrap();
    copy("restore", &saved, &path("third"));
    assert_eq!(fs::read_dir(path("third")).unwrap().count(), 0, "no part of a copy is left");
}

#[test]
fn shards_on_servers_are_refused_with_the_tools_that_copy_them() {
    run(async {
        let fleet = TestFleet::new(Backend::MariaDb, Tables::Ours).await.unwrap();
        for command in ["backup", "restore"] {
            let mut command = tributary(&[command]);
            let command = command.arg(fleet.dir.path().join("saved")).args(fleet.source_args());
            let (code, _, error) = output(command);
            assert!(code == 3 && error.contains("mysqldump --single-transaction"), "{error}");
        }
    });
}
