//! Tests fills on real servers: a fill equals the database at its log position while others write,
//! and equals the result of plain SQL. Prints the cost of a fill beside that of a plain read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mysql_async::Error;
use mysql_async::prelude::Queryable;
use tributary::graph::UserNames;
use tributary::internal::{Bounds, FillAnswer, FillRequest, LogPosition, TestLog, mysql_tables};
use tributary::{Post, PostKey, Tributary, UserId};

use crate::adopted::{TEAMS, adopt, world};
use crate::support::database::{Database, Kind, USER, mariadb, mysql};
use crate::support::fleet::{SHARDS, TestFleet};
use crate::support::{post_id, run, shard_id, user_id};

const WRITERS: u64 = 4;
/// Fills that run at the same time. There are fewer connections for fills, so some wait.
const FILLS: usize = 4;
const ROUNDS: usize = 40;

fn soon() -> Duration {
    Duration::from_secs(20)
}

fn servers() -> Vec<Arc<Database>> {
    [Some(&mariadb()[0]), mysql()].into_iter().flatten().cloned().collect()
}

/// Four shards with the default tables on one server.
async fn fleet_on(server: &Arc<Database>) -> TestFleet {
    let fleet = TestFleet::on(std::slice::from_ref(server));
    for (server, database) in &fleet.databases {
        let mut statements = vec![format!("CREATE DATABASE {database}")];
        statements.extend(mysql_tables(database));
        server.execute(&statements).await;
    }
    fleet
}

fn tail(shard: u16, user: u64, depth: u32) -> FillRequest {
    FillRequest::tail(shard_id(shard), user_id(user), depth)
}

fn follows(shard: u16, user: u64, max: u32) -> FillRequest {
    FillRequest::follows(shard_id(shard), user_id(user), max)
}

/// The last transaction that each writer has begun, and has committed.
#[derive(Default)]
struct Progress {
    begun: [AtomicU64; 4],
    committed: [AtomicU64; 4],
    stop: AtomicBool,
}

/// Successive posts of a writer that share one timestamp.
const POSTS_PER_TIME: u64 = 3;

/// A post of a writer in the state after the writer's transaction `n`.
fn post_of(writer: u64, post: u64, n: u64) -> Post {
    let time = i64::try_from(post / POSTS_PER_TIME).unwrap();
    let key = PostKey { time, post: post_id(post * 100 + writer), author: user_id(writer) };
    let content = if post == n { "new".into() } else { format!("edited by {}", post + 1) };
    Post::new(key, content)
}

/// Writes transactions until it is stopped. After each, the writer has three posts on each of two
/// shards, and three follows on a third shard.
async fn write(server: &Database, fleet: &TestFleet, writer: u64, progress: &Progress) {
    let names: Vec<&str> = fleet.databases.iter().map(|(_, name)| name.as_str()).collect();
    let mut connection = server.connect().await;
    let mut n = 1;
    while !progress.stop.load(Ordering::SeqCst) {
        let mut sql = "BEGIN;".to_owned();
        for database in &names[..2] {
            let PostKey { time, post, .. } = post_of(writer, n, n).key;
            sql +=
                &format!("INSERT INTO {database}.tweets VALUES ({post}, {writer}, 'new', {time});");
            if let Some(old) = n.checked_sub(3) {
                let PostKey { time, post, .. } = post_of(writer, old, n).key;
                let key =
                    format!("user_id = {writer} AND timestamp = {time} AND tweet_id = {post}");
                sql += &format!("DELETE FROM {database}.tweets WHERE {key};");
            }
            let PostKey { time, post, .. } = post_of(writer, n - 1, n).key;
            let key = format!("user_id = {writer} AND timestamp = {time} AND tweet_id = {post}");
            sql += &format!("UPDATE {database}.tweets SET content = 'edited by {n}' WHERE {key};");
        }
        let (graph, mark, old) = (names[2], names[3], n.saturating_sub(3));
        sql += &format!("INSERT INTO {graph}.followers VALUES ({writer}, {n});");
        sql += &format!(
            "DELETE FROM {graph}.followers WHERE follower_user_id = {writer} AND \
             followed_user_id = {old};"
        );
        sql += &format!("INSERT INTO {mark}.mark_{writer} VALUES ({n}); COMMIT");
        let index = usize::try_from(writer).unwrap();
        progress.begun[index].store(n, Ordering::SeqCst);
        if connection.query_drop(sql).await.is_err() {
            // A deadlock rolled the transaction back.
            connection.query_drop("ROLLBACK").await.unwrap();
            continue;
        }
        progress.committed[index].store(n, Ordering::SeqCst);
        n += 1;
    }
    connection.disconnect().await.unwrap();
}

fn requests_of_writers() -> Vec<FillRequest> {
    let of = |writer| [tail(0, writer, 2), tail(1, writer, 5), follows(2, writer, 3)];
    (0..WRITERS).flat_map(of).collect()
}

/// The last transaction of a writer in the answers. They must contain all of it.
fn shown(writer: u64, answers: &[FillAnswer]) -> u64 {
    let [FillAnswer::Tail { posts: two, complete: all_two, .. }, whole, followees] = answers else {
        panic!("{answers:?}");
    };
    let n = two.first().map_or(0, |post| post.key.post.get() / 100);
    let posts: Vec<Post> = (1..=n).rev().take(3).map(|post| post_of(writer, post, n)).collect();
    let label = format!("writer {writer}, transaction {n}");
    assert_eq!(*two, posts[..posts.len().min(2)], "{label}");
    assert_eq!(*all_two, posts.len() <= 2, "{label}");
    let followees_now = (1..=n).rev().take(3).map(user_id).collect::<Vec<_>>().into_iter().rev();
    assert_eq!(
        *followees,
        FillAnswer::Follows(followees_now.collect::<Vec<_>>().into()),
        "{label}"
    );
    let all = FillAnswer::Tail { posts, complete: true, names: None, blocks: Vec::new() };
    assert_eq!(*whole, all, "{label}");
    n
}

/// The log positions where each writer's transactions end, from SHOW BINLOG EVENTS.
async fn ends(server: &Database, marks: &str, from: LogPosition) -> Vec<Vec<LogPosition>> {
    let mut connection = server.connect().await;
    let files: Vec<mysql_async::Row> = connection.query("SHOW BINARY LOGS").await.unwrap();
    let mut ends = vec![Vec::new(); usize::try_from(WRITERS).unwrap()];
    let (first, mut offset) = from.file_and_offset();
    for file in files.iter().map(|row| row.get::<String, _>(0).unwrap()) {
        let number = LogPosition::file_number(&file).unwrap();
        if number < first {
            continue;
        }
        if number > first {
            offset = 4;
        }
        let sql = format!("SHOW BINLOG EVENTS IN '{file}' FROM {offset}");
        let events: Vec<(String, u64, String, u64, u64, String)> =
            connection.query(sql).await.unwrap();
        let mut writer = None;
        for (_, _, kind, _, end, info) in events {
            let marked = (0..WRITERS).find(|w| info.contains(&format!("({marks}.mark_{w})")));
            match kind.as_str() {
                "Table_map" => writer = marked.or(writer),
                "Xid" => {
                    if let Some(writer) = writer.take() {
                        let writer = usize::try_from(writer).unwrap();
                        ends[writer].push(LogPosition::in_file(number, end));
                    }
                }
                _ => {}
            }
        }
    }
    connection.disconnect().await.unwrap();
    ends
}

#[test]
fn a_fill_equals_the_database_at_its_log_position_while_others_write() {
    run(async {
        for server in servers() {
            let fleet = Arc::new(fleet_on(&server).await);
            let marks = &fleet.databases[3].1;
            let mark = |w| format!("CREATE TABLE {marks}.mark_{w} (n BIGINT PRIMARY KEY)");
            server.execute(&(0..WRITERS).map(mark).collect::<Vec<_>>()).await;
            let tributary = fleet.open().await;
            let log = TestLog::all(tributary::internal::fleet(&tributary)).remove(0);
            let (_, from) = log.end_of_log(soon()).await.unwrap();
            let (sender, mut events) = tokio::sync::mpsc::channel(16);
            let following = tokio::spawn(log.clone().follow(sender));
            let draining = tokio::spawn(async move {
                let mut received_any = false;
                while events.recv().await.is_some() {
                    received_any = true;
                }
                received_any
            });

            let progress = Arc::new(Progress::default());
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (server, fleet) = (Arc::clone(&server), Arc::clone(&fleet));
                    let progress = Arc::clone(&progress);
                    tokio::spawn(async move { write(&server, &fleet, writer, &progress).await })
                })
                .collect();
            let seen = fill_repeatedly(&server, &log, &progress).await;
            progress.stop.store(true, Ordering::SeqCst);
            join_all(writers).await.into_iter().for_each(Result::unwrap);
            following.abort();
            let received_any = draining.await.unwrap();

            let ends = ends(&server, marks, from).await;
            let known = compare(server.kind, &seen, &ends);
            // On MySQL a low bound is known only if the feed has delivered transactions.
            assert!(known > 0 || server.kind == Kind::MySql && !received_any);
        }
    });
}

/// The bounds of a snapshot, and the last transaction of each writer in it. For heads `shown`
/// holds times, and `posts_per_time` transactions share one time.
struct Seen {
    bounds: Bounds,
    shown: Vec<u64>,
    posts_per_time: u64,
}

/// Reads the heads of both shards that have posts.
async fn heads_of_writers(log: &TestLog) -> [Seen; 2] {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let send = log.heads(sender);
    let receive = async {
        let mut times = [vec![0; 4], vec![0; 4]];
        while let Some(batch) = receiver.recv().await {
            let (shard, heads) = (batch.shard, batch.heads);
            for (author, time) in heads {
                let author = usize::try_from(author.get()).unwrap();
                times[shard.index()][author] = time.unsigned_abs();
            }
        }
        times
    };
    let (bounds, times) = tokio::join!(send, receive);
    let (_, bounds) = bounds.unwrap();
    times.map(|shown| Seen { bounds, shown, posts_per_time: POSTS_PER_TIME })
}

/// Runs fills and head reads, and returns the last transaction of each writer in them.
async fn fill_repeatedly(server: &Database, log: &TestLog, progress: &Progress) -> Vec<Seen> {
    let requests = requests_of_writers();
    let now = |counts: &[AtomicU64; 4]| counts.each_ref().map(|n| n.load(Ordering::SeqCst));
    let mut seen: Vec<Seen> = Vec::new();
    let mut last = [0; 4];
    for round in 0..ROUNDS {
        let committed = now(&progress.committed);
        let (identity, visible) = log.visible(soon()).await.unwrap();
        let rotate = async {
            if round % 4 == 3 {
                server.execute(&["FLUSH BINARY LOGS".into()]).await;
            }
        };
        let fills = join_all((0..FILLS).map(|_| log.fill(&requests, soon())));
        let (filled, ()) = tokio::join!(fills, rotate);
        let begun = now(&progress.begun);
        let (same, end) = log.end_of_log(soon()).await.unwrap();
        assert!(identity == same && visible <= end);
        for filled in filled {
            let batch = filled.unwrap();
            let (same, bounds, answers) = (batch.identity, batch.bounds, batch.answers);
            assert_eq!(identity, same);
            let writers = (0..WRITERS).zip(answers.chunks(3));
            let shown: Vec<u64> = writers.map(|(w, answers)| shown(w, answers)).collect();
            for (writer, n) in shown.iter().enumerate() {
                assert!(*n >= committed[writer].max(last[writer]) && *n <= begun[writer]);
            }
            match bounds {
                Bounds::Exact(at) => assert!(visible <= at && at <= end, "{visible:?} {bounds:?}"),
                Bounds::Window { low, high } => assert!(low <= high && high <= end, "{bounds:?}"),
            }
            seen.push(Seen { bounds, shown, posts_per_time: 1 });
        }
        if round % 8 == 7 {
            seen.extend(heads_of_writers(log).await);
        }
        last = committed;
    }
    seen
}

/// Checks that each fill contains the transactions that its bounds claim. Returns the number of
/// comparisons with a known low bound.
fn compare(kind: Kind, seen: &[Seen], ends: &[Vec<LogPosition>]) -> usize {
    let (mut known, mut apart) = (0, 0);
    for Seen { bounds, shown, posts_per_time } in seen {
        for (shown, ends) in shown.iter().zip(ends) {
            let up_to =
                |at: LogPosition| ends.partition_point(|end| *end <= at) as u64 / posts_per_time;
            match *bounds {
                Bounds::Exact(at) => {
                    assert_eq!(*shown, up_to(at), "{bounds:?}, {posts_per_time}");
                    known += 1;
                }
                Bounds::Window { low, high } => {
                    assert!((up_to(low)..=up_to(high)).contains(shown), "{shown}: {bounds:?}");
                    known += usize::from(low > LogPosition(0));
                    apart += usize::from(up_to(low) < up_to(high));
                }
            }
        }
    }
    let written: usize = ends.iter().map(Vec::len).sum();
    let fills = || seen.iter().filter(|seen| seen.posts_per_time == 1);
    let done = |seen: Option<&Seen>| seen.unwrap().shown.iter().sum::<u64>();
    let moved = done(fills().next_back()) > done(fills().next()) + 50;
    assert!(moved, "{kind:?}: too little was written during the fills");
    println!(
        "{kind:?}: {} fills and heads, of {WRITERS} writers each, beside {written} transactions; \
         {known} times a low end was known, {apart} times there were transactions in a window",
        seen.len()
    );
    known
}

#[test]
fn adopted_tables_are_filled_as_they_are_read() {
    run(async {
        for server in servers() {
            for team in &TEAMS {
                let world = world(&team.times());
                let fleet = adopt(std::slice::from_ref(&server), team, &world).await;
                let tributary = fleet.open().await;
                let log = TestLog::all(tributary::internal::fleet(&tributary)).remove(0);
                let shard = |user: u64| u16::try_from(user % SHARDS).unwrap();
                for depth in [0, 1, 7, 15, 16] {
                    let requests: Vec<FillRequest> =
                        (0..14).map(|author| tail(shard(author), author, depth)).collect();
                    let filled = log.fill(&requests, soon()).await.unwrap();
                    for (author, answer) in (0..14).zip(filled.answers) {
                        let of_author = |post: &&Post| post.key.author == user_id(author);
                        let mut posts: Vec<Post> =
                            world.posts.iter().filter(of_author).cloned().collect();
                        posts.sort_by_key(|post| std::cmp::Reverse(post.key));
                        let complete = posts.len() <= depth as usize;
                        posts.truncate(depth as usize);
                        let named = author < 12 && author != 5;
                        let name = (author % 2 == 1).then(|| format!("Name {author} ü"));
                        let names =
                            named.then(|| UserNames::new(&format!("u{author}é"), name.as_deref()));
                        let blocks = Vec::new();
                        let expected = FillAnswer::Tail { posts, complete, names, blocks };
                        assert_eq!(answer, expected, "{}, {author}, {depth}", team.unit);
                    }
                }
                for reader in 0..6 {
                    let of_reader = world.follows.iter().filter(|f| f.follower == user_id(reader));
                    let mut list: Vec<UserId> = of_reader.map(|f| f.followee).collect();
                    list.sort_unstable();
                    let len = u32::try_from(list.len()).unwrap();
                    let request = |max| follows(shard(reader), reader, max);
                    let filled =
                        log.fill(&[request(len), request(len.saturating_sub(1))], soon()).await;
                    let short = if list.is_empty() {
                        FillAnswer::Follows(Vec::new().into())
                    } else {
                        FillAnswer::TooLong
                    };
                    let answers = filled.unwrap().answers;
                    // Two requests for one user share rows, but each keeps its own maximum.
                    assert_eq!(answers, [FillAnswer::Follows(list.into()), short]);
                }
                let mut newest: BTreeMap<UserId, i64> = BTreeMap::new();
                for PostKey { author, time, .. } in world.posts.iter().map(|post| post.key) {
                    let newest = newest.entry(author).or_insert(time);
                    *newest = time.max(*newest);
                }
                assert_eq!(all_heads(&log).await, newest, "{}", team.unit);
            }
        }
    });
}

/// The heads of all shards. Each must come from the shard that owns the author.
async fn all_heads(log: &TestLog) -> BTreeMap<UserId, i64> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let send = log.heads(sender);
    let receive = async {
        let mut all = BTreeMap::new();
        while let Some(batch) = receiver.recv().await {
            let (shard, heads) = (batch.shard, batch.heads);
            assert!(!heads.is_empty());
            for (author, time) in heads {
                assert_eq!(author.get() % SHARDS, u64::from(shard.get()));
                assert_eq!(all.insert(author, time), None, "{author} was sent twice");
            }
        }
        all
    };
    let (bounds, all) = tokio::join!(send, receive);
    bounds.unwrap();
    all
}

/// Authors, and posts per author, of the fleet for the cost measurement.
const AUTHORS: u64 = 800;
const POSTS: u64 = 40;

#[test]
fn fills_cost_little_more_than_reads_and_heads_one_lookup_per_author() {
    run(async {
        for kind in [Kind::MariaDb, Kind::MySql] {
            // The row counters belong to the server, so it is not shared.
            let Some(server) = Database::start(kind).map(Arc::new) else { continue };
            let fleet = fleet_on(&server).await;
            for (shard, (server, database)) in (0u64..).zip(&fleet.databases) {
                let rows: Vec<String> = (0..AUTHORS / SHARDS * POSTS)
                    .map(|n| format!("({n}, {}, 'a post', {n})", n / POSTS * SHARDS + shard))
                    .collect();
                let insert = format!("INSERT INTO {database}.tweets VALUES {}", rows.join(","));
                let old = format!(
                    "ALTER TABLE {database}.tweets DROP KEY tweets_by_id, DROP PRIMARY KEY, \
                     ADD PRIMARY KEY (tweet_id), ADD KEY tail (user_id, timestamp)"
                );
                let mut statements = vec![insert, old, format!("ANALYZE TABLE {database}.tweets")];
                if shard < 2 {
                    statements.remove(1);
                }
                server.execute(&statements).await;
            }
            let tributary = fleet.open().await;
            let log = TestLog::all(tributary::internal::fleet(&tributary)).remove(0);
            all_heads(&log).await;
            let mut counters = fleet.row_counters().await;
            let before = counters.rows().await;
            let start = Instant::now();
            let heads = all_heads(&log).await;
            let (took, rows) = (start.elapsed(), counters.rows().await - before);
            assert_eq!(heads.len() as u64, AUTHORS);
            assert!(rows < AUTHORS * 4, "{kind:?}: {rows} rows read for {AUTHORS} heads");

            let authors: Vec<UserId> = (0..50).map(|n| user_id(n * SHARDS)).collect();
            let requests: Vec<FillRequest> = (0..50).map(|n| tail(0, n * SHARDS, 32)).collect();
            let (mut reads, mut fills) = (Vec::new(), Vec::new());
            for _ in 0..60 {
                let start = Instant::now();
                let fleet = tributary::internal::fleet(&tributary);
                let read = TestLog::read_newest(fleet, shard_id(0), &authors, 33).await;
                assert_eq!(read.unwrap().len(), 50 * 33);
                reads.push(start.elapsed());
                let start = Instant::now();
                log.fill(&requests, soon()).await.unwrap();
                fills.push(start.elapsed());
            }
            let median = |times: &mut Vec<Duration>| {
                times.sort_unstable();
                times[times.len() / 2]
            };
            let (read, fill) = (median(&mut reads), median(&mut fills));
            println!(
                "{kind:?}: 50 authors, 33 posts each: keys read {read:?}, filled {fill:?} ({:.1} \
                 times as long); {AUTHORS} heads of {} posts: {rows} rows, {took:?}",
                fill.as_secs_f64() / read.as_secs_f64(),
                AUTHORS * POSTS
            );
            heads_fail_without_a_receiver(&log).await;
            fills_work_after_a_server_restart(&server, &tributary, &log, &requests).await;
        }
    });
}

async fn heads_fail_without_a_receiver(log: &TestLog) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    drop(receiver);
    let error = log.heads(sender).await.unwrap_err();
    assert!(error.to_string().contains("receiver of the heads is gone"), "{error}");
}

/// After a restart the pooled connections are dead. Fills must still succeed.
async fn fills_work_after_a_server_restart(
    server: &Database,
    tributary: &Tributary,
    log: &TestLog,
    requests: &[FillRequest],
) {
    let before = log.fill(requests, soon()).await.unwrap();
    server.kill();
    server.launch();
    let start = Instant::now();
    while tributary::internal::fleet(tributary).health().iter().any(|shard| shard.state.is_err()) {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            tributary::internal::fleet(tributary).health()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = log.fill(requests, soon()).await.unwrap();
    assert_eq!(before.identity, after.identity);
    // Nothing was committed since the restart. MariaDB reports that; on MySQL there is no feed.
    let unknown = matches!(after.bounds, Bounds::Window { low: LogPosition(0), .. });
    assert_eq!(unknown, server.kind == Kind::MySql, "{:?}", after.bounds);
    assert_eq!(before.answers, after.answers);
    let file = |bounds| match bounds {
        Bounds::Exact(at) | Bounds::Window { high: at, .. } => at.file_and_offset().0,
    };
    assert!(file(after.bounds) > file(before.bounds), "{:?}", after.bounds);
}

#[test]
fn an_abandoned_fill_leaves_no_transaction_open() {
    run(async {
        for server in servers() {
            let fleet = fleet_on(&server).await;
            let tributary = fleet.open().await;
            let log = TestLog::all(tributary::internal::fleet(&tributary)).remove(0);
            let database = &fleet.databases[0].1;
            let requests = [tail(0, 0, 5), tail(1, 1, 5)];
            log.fill(&requests, soon()).await.unwrap();
            let mut locking = server.connect().await;
            locking.query_drop(format!("LOCK TABLES {database}.tweets WRITE")).await.unwrap();
            for _ in 0..4 {
                let late = log.fill(&requests, Duration::from_millis(100)).await;
                assert!(late.is_err(), "{late:?}");
                let given_up = log.fill(&requests, soon());
                let given_up = tokio::time::timeout(Duration::from_millis(100), given_up).await;
                assert!(given_up.is_err());
            }
            let insert = format!("INSERT INTO {database}.tweets VALUES (1, 0, 'new', 7)");
            locking.query_drop(insert).await.unwrap();
            locking.query_drop("UNLOCK TABLES").await.unwrap();
            let filled = log.fill(&requests, soon()).await.unwrap();
            let FillAnswer::Tail { posts, .. } = &filled.answers[0] else { panic!("{filled:?}") };
            assert_eq!(posts.len(), 1, "an old snapshot was used");
            // Wait until no connection of this fleet has an open transaction.
            let sql = format!(
                "SELECT COUNT(*) FROM information_schema.innodb_trx AS t JOIN \
                 information_schema.processlist AS p ON p.id = t.trx_mysql_thread_id \
                 WHERE p.info LIKE '%{database}%' OR p.command = 'Sleep'"
            );
            let start = Instant::now();
            loop {
                let left: Option<u64> = match locking.query_first(&sql).await {
                    // MySQL shows statements in utf8mb3. It fails while another test runs one with
                    // other characters.
                    Err(Error::Server(error)) if error.code == 3854 => None,
                    left => left.unwrap(),
                };
                if left == Some(0) {
                    break;
                }
                assert!(start.elapsed() < Duration::from_secs(10), "{left:?} are left");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            locking.disconnect().await.unwrap();
        }
    });
}

#[test]
fn a_missing_privilege_is_named() {
    run(async {
        for server in servers() {
            let fleet = fleet_on(&server).await;
            let account = "'only_reads'@'127.0.0.1'";
            let password = crate::support::database::PASSWORD;
            let mut statements = vec![
                format!("DROP USER IF EXISTS {account}"),
                format!("CREATE USER {account} IDENTIFIED BY '{password}'"),
            ];
            for (_, database) in &fleet.databases {
                statements.push(format!("GRANT SELECT ON {database}.* TO {account}"));
            }
            server.execute(&statements).await;
            let file = fleet.config_file.clone().unwrap();
            let config = std::fs::read_to_string(&file).unwrap();
            let config = config.replace(&format!("\"{USER}\""), "\"only_reads\"");
            std::fs::write(&file, config).unwrap();
            let tributary = fleet.open().await;
            let log = TestLog::all(tributary::internal::fleet(&tributary)).remove(0);
            let error = log.end_of_log(soon()).await.unwrap_err().to_string();
            assert!(
                error.contains(&format!("GRANT REPLICATION CLIENT ON *.* TO {account}")),
                "{error}"
            );
            server.execute(&[format!("GRANT REPLICATION CLIENT ON *.* TO {account}")]).await;
            let start = Instant::now();
            while let Err(error) = log.end_of_log(soon()).await {
                assert!(start.elapsed() < Duration::from_secs(5), "{error}");
            }
            log.fill(&[tail(0, 0, 1)], soon()).await.unwrap();
            server.execute(&[format!("DROP USER {account}")]).await;
        }
    });
}
