//! Fleets of four shards on every backend, filled with a world.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tempfile::TempDir;
use tributary::internal::{Fleet, mysql_tables};
use tributary::{Config, Tributary};

use super::database::{Database, PASSWORD, USER, mariadb, mysql};
use super::scratch;
use super::world::World;

pub(crate) const SHARDS: u64 = 4;

/// The databases that hold a fleet's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    /// Four servers with one shard each.
    MariaDb,
    /// One server with four shards.
    MySql,
}

pub(crate) const BACKENDS: [Backend; 3] = [Backend::Sqlite, Backend::MariaDb, Backend::MySql];

/// The schema of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tables {
    /// Our own schema, `mysql_tables`.
    Ours,
    /// As teams have them: the id is the primary key, and the index that we need was added.
    Old,
}

/// The configuration and the databases of a fleet of `SHARDS` shards.
pub(crate) struct TestFleet {
    /// `None` with SQLite, whose shards are in a folder `data` in `dir`.
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) dir: TempDir,
    /// Server and database of each shard; empty with SQLite.
    pub(crate) databases: Vec<(Arc<Database>, String)>,
}

impl TestFleet {
    /// A fleet of empty shards; `None` if the backend is not installed.
    pub(crate) async fn new(backend: Backend, tables: Tables) -> Option<Self> {
        let servers: Vec<Arc<Database>> = match backend {
            Backend::Sqlite => {
                return Some(Self { config_file: None, dir: scratch(), databases: Vec::new() });
            }
            Backend::MariaDb => mariadb().to_vec(),
            Backend::MySql => vec![Arc::clone(mysql()?)],
        };
        let fleet = Self::on(&servers);
        for (server, database) in &fleet.databases {
            let mut statements = vec![format!("CREATE DATABASE {database}")];
            statements.extend(match tables {
                Tables::Ours => mysql_tables(database),
                Tables::Old => old_tables(database),
            });
            server.execute(&statements).await;
        }
        Some(fleet)
    }

    /// A configuration of four shards, distributed round-robin over these servers. It creates no
    /// databases.
    pub(crate) fn on(servers: &[Arc<Database>]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = scratch();
        let password_file = dir.path().join("password");
        fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
        let mut text = String::new();
        for (index, server) in servers.iter().enumerate() {
            let (address, password_file) = (server.address(), password_file.display());
            write!(
                text,
                "[servers.db{index}]\naddress = \"{address}\"\nuser = \"{USER}\"\n\
                 password_file = \"{password_file}\"\n\n"
            )
            .unwrap();
        }
        let mut databases = Vec::new();
        for shard in 0..usize::try_from(SHARDS).unwrap() {
            let (server, database) = (shard % servers.len(), format!("t{number}_{shard}"));
            writeln!(
                text,
                "[[shards]]\nname = \"s{shard}\"\nserver = \"db{server}\"\ndatabase = \"{database}\""
            )
            .unwrap();
            databases.push((Arc::clone(&servers[server]), database));
        }
        let config_file = dir.path().join("tributary.toml");
        fs::write(&config_file, text).unwrap();
        Self { config_file: Some(config_file), dir, databases }
    }

    /// The command-line arguments that name the fleet: `--config FILE` or `--data FOLDER`.
    pub(crate) fn source_args(&self) -> [String; 2] {
        match &self.config_file {
            Some(file) => ["--config".into(), file.display().to_string()],
            None => ["--data".into(), self.dir.path().join("data").display().to_string()],
        }
    }

    /// The configuration with a deadline of 60 s and without memory: a busy machine makes no page
    /// incomplete, and every page comes from the databases.
    pub(crate) fn config(&self) -> Config {
        self.config_with_memory(0)
    }

    /// The same with a memory budget of `bytes`.
    pub(crate) fn config_with_memory(&self, bytes: usize) -> Config {
        let variables = [
            ("TRIBUTARY_REQUEST__DEADLINE_MS".to_owned(), "60000".to_owned()),
            ("TRIBUTARY_MEMORY__BUDGET".to_owned(), bytes.to_string()),
        ];
        match &self.config_file {
            Some(file) => Config::from_file(file, variables).unwrap(),
            None => {
                let data = self.dir.path().join("data");
                wait_until_unowned(&data);
                Config::from_folder(&data, variables).unwrap()
            }
        }
    }

    /// The configuration with writing enabled; runs `migrate` first.
    pub(crate) async fn config_for_writing(&self) -> Config {
        let mut config = self.config();
        config.write.enabled = true;
        tributary::internal::migrate(&config, drop).await.unwrap();
        config
    }

    pub(crate) async fn open_for_writing(&self) -> Tributary {
        Tributary::open(&self.config_for_writing().await).await.unwrap()
    }

    pub(crate) async fn open(&self) -> Tributary {
        Tributary::open(&self.config()).await.unwrap()
    }

    /// Opens the fleet of one server through a relay on this port.
    pub(crate) async fn open_through(&self, relay: u16) -> Tributary {
        let text = fs::read_to_string(self.config_file.as_ref().unwrap()).unwrap();
        let file = self.dir.path().join("relay.toml");
        let (own, relay) = (self.databases[0].0.address(), format!("127.0.0.1:{relay}"));
        fs::write(&file, text.replace(&own, &relay)).unwrap();
        let deadline = ("TRIBUTARY_REQUEST__DEADLINE_MS".to_owned(), "60000".to_owned());
        let memory = ("TRIBUTARY_MEMORY__BUDGET".to_owned(), "0".to_owned());
        Tributary::open(&Config::from_file(&file, [deadline, memory]).unwrap()).await.unwrap()
    }

    /// Loads a world as `import` does.
    pub(crate) async fn load(&self, world: &World) {
        load_into(&Fleet::open_to_load(&self.config()).await.unwrap(), world).await;
    }

    /// Loads a world by plain SQL, as another program would.
    pub(crate) async fn load_by_sql(&self, world: &World) {
        let shard_of = |user: u64| usize::try_from(user % SHARDS).unwrap();
        let mut statements: HashMap<usize, Vec<String>> = HashMap::new();
        for (shard, (_, database)) in self.databases.iter().enumerate() {
            let follows = world.follows.iter().filter(|f| shard_of(f.follower.get()) == shard);
            let rows: Vec<String> =
                follows.map(|f| format!("({},{})", f.follower, f.followee)).collect();
            let posts = world.posts.iter().filter(|p| shard_of(p.key.author.get()) == shard);
            let posts: Vec<String> = posts
                .map(|post| {
                    let content = mysql_async::Value::from(&post.content).as_sql(false);
                    let key = post.key;
                    format!("({},{},{content},{})", key.post, key.author, key.time)
                })
                .collect();
            let batches = statements.entry(shard).or_default();
            batches.push("BEGIN".into());
            for rows in rows.chunks(5_000) {
                let rows = rows.join(",");
                batches.push(format!("INSERT INTO {database}.followers VALUES {rows}"));
            }
            for rows in posts.chunks(1_000) {
                let rows = rows.join(",");
                batches.push(format!(
                    "INSERT INTO {database}.tweets (tweet_id, user_id, content, timestamp) \
                     VALUES {rows}"
                ));
            }
            batches.push("COMMIT".into());
        }
        for (shard, statements) in statements {
            self.databases[shard].0.execute(&statements).await;
        }
    }

    /// The row counters of the fleet's servers.
    pub(crate) async fn row_counters(&self) -> RowCounters {
        let servers: BTreeMap<u16, &Arc<Database>> =
            self.databases.iter().map(|(server, _)| (server.port, server)).collect();
        let mut connections = Vec::new();
        for server in servers.into_values() {
            connections.push(server.connect().await);
        }
        RowCounters(connections)
    }
}

/// One connection to each server of a fleet, on which rows are counted.
pub(crate) struct RowCounters(Vec<Conn>);

impl RowCounters {
    /// Row reads of the storage engine since each server started, summed over the servers.
    pub(crate) async fn rows(&mut self) -> u64 {
        let mut total = 0;
        for connection in &mut self.0 {
            let rows: Vec<(String, u64)> =
                connection.query("SHOW GLOBAL STATUS LIKE 'Handler_read_%'").await.unwrap();
            let counted = ["key", "first", "last", "next", "prev", "rnd", "rnd_next"];
            total += rows
                .iter()
                .filter(|(name, _)| counted.iter().any(|c| *name == format!("Handler_read_{c}")))
                .map(|(_, count)| count)
                .sum::<u64>();
        }
        total
    }
}

/// Waits until no `Tributary` owns the folder. The tasks of a dropped one, and of its HTTP server,
/// release the folder a moment later. If it is still owned after 30 s, the next one to open it
/// reports that.
fn wait_until_unowned(folder: &Path) {
    let Ok(lock) = fs::File::open(folder.join("lock")) else { return };
    let give_up = Instant::now() + Duration::from_secs(30);
    while lock.try_lock().is_err() && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Loads a world into an open fleet.
pub(crate) async fn load_into(fleet: &Fleet, world: &World) {
    let until = Duration::from_secs(60);
    let follows = fleet.load_follows(world.follows.clone(), until).await.unwrap();
    let posts = fleet.load_posts(world.posts.clone(), until).await.unwrap();
    assert_eq!((follows.refused.len(), posts.refused.len()), (0, 0), "{posts:?}");
}

/// An empty fleet on every backend that is installed.
pub(crate) async fn every_backend() -> Vec<(Backend, TestFleet)> {
    let mut fleets = Vec::new();
    for backend in BACKENDS {
        if let Some(fleet) = TestFleet::new(backend, Tables::Ours).await {
            fleets.push((backend, fleet));
        }
    }
    fleets
}

fn old_tables(database: &str) -> [String; 2] {
    [
        format!(
            "CREATE TABLE {database}.followers (follower_user_id BIGINT NOT NULL, \
             followed_user_id BIGINT NOT NULL, KEY (follower_user_id), KEY (followed_user_id)) \
             ENGINE=InnoDB"
        ),
        format!(
            "CREATE TABLE {database}.tweets (tweet_id BIGINT NOT NULL PRIMARY KEY, \
             user_id BIGINT NOT NULL, content TEXT, timestamp BIGINT NOT NULL, KEY (user_id), \
             KEY tail (user_id, timestamp, tweet_id)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
        ),
    ]
}
