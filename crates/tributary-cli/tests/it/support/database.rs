//! Real MariaDB and MySQL servers on free loopback ports, with temporary data.
//!
//! Every server runs under a small shell that waits on a pipe from this process. However this
//! process ends, the pipe closes and the shell kills the server, so no server outlives the tests.
//!
//! Servers share nothing. Each has a folder for temporary files of its own, because a starting
//! MariaDB server deletes all files `#sql*` in that folder, and a server that loses such a file
//! crashes. Each reserves its port until it is dropped, so no one can take it during a restart.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::{logs, run, scratch, size, skip};

pub(crate) const USER: &str = "tributary";
pub(crate) const PASSWORD: &str = "a secret, not logged";

/// Runs a server until it exits or standard input closes; in the second case it is killed. Writes
/// the server's exit code to its log: 137 after a kill, 139 after a segmentation fault.
const SUPERVISOR: &str = r#"trap "" INT; exec 3<&0; "$@" </dev/null 3<&- & pid=$!
(read -r _ <&3; kill -9 $pid) & reader=$!; exec 3<&-; wait $pid; code=$?
kill $reader 2>&-; echo "exit code $code""#;

/// The two kinds of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    MariaDb,
    MySql,
}

impl Kind {
    /// Options that keep the server from syncing files. The tests kill servers, never the machine,
    /// so nothing has to reach the disk. Soak runs use servers as they are.
    fn without_syncs(self) -> &'static [&'static str] {
        let options: &[&str] = match self {
            Self::MariaDb => &["--innodb-flush-method=nosync", "--debug-no-sync"],
            Self::MySql => &["--innodb-flush-method=nosync"],
        };
        size(options, &[])
    }
}

/// One server. Killed when dropped.
pub(crate) struct Database {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    dir: TempDir,
    /// Bound to the port, but not listening. No other process gets the port, and the server can
    /// bind it too, because both sockets set SO_REUSEADDR.
    _port: TcpSocket,
    /// Command-line options in addition to those of every server.
    options: Vec<String>,
    process: Mutex<Option<Child>>,
}

/// The four MariaDB servers that most tests share. Each test uses databases of its own.
pub(crate) fn mariadb() -> &'static [Arc<Database>] {
    static SERVERS: LazyLock<Vec<Arc<Database>>> = LazyLock::new(|| Database::start_mariadb(4));
    &SERVERS
}

/// The MySQL server that most tests share; `None`, listed as a skip, if MySQL is not installed.
pub(crate) fn mysql() -> Option<&'static Arc<Database>> {
    static SERVER: LazyLock<Option<Arc<Database>>> =
        LazyLock::new(|| Database::start(Kind::MySql).map(Arc::new));
    SERVER.as_ref()
}

impl Database {
    /// A new server; `None`, listed as a skip, if MySQL is not installed.
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        Self::start_with(kind, &[])
    }

    /// This many new MariaDB servers, started at the same time.
    pub(crate) fn start_mariadb(count: usize) -> Vec<Arc<Self>> {
        let start = || Arc::new(Self::start(Kind::MariaDb).unwrap());
        std::thread::scope(|scope| {
            let starting: Vec<_> = (0..count).map(|_| scope.spawn(start)).collect();
            starting.into_iter().map(|server| server.join().unwrap()).collect()
        })
    }

    /// A new server with further command-line options.
    pub(crate) fn start_with(kind: Kind, options: &[&str]) -> Option<Self> {
        let template = template(kind)?;
        let dir = scratch();
        let data = dir.path().join("data");
        copy(&template.join("data"), &data);
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        let socket = reserved_port();
        let port = socket.local_addr().unwrap().port();
        let process = Mutex::new(None);
        let database = Self { kind, port, dir, _port: socket, options, process };
        logs::add(database.dir.path());
        database.launch();
        Some(database)
    }

    /// Starts the process again, on the same port with the same data.
    pub(crate) fn launch(&self) {
        self.try_launch().unwrap_or_else(|log| panic!("{:?} does not start:\n{log}", self.kind));
    }

    /// Starts the process. The error is its log, if it exits or is not ready within 90 s.
    fn try_launch(&self) -> Result<(), String> {
        let binary = match self.kind {
            Kind::MariaDb => mariadbd(),
            Kind::MySql => mysqld().expect("`start` returned no server without mysqld"),
        };
        let dir = self.dir.path();
        let init = dir.join("init.sql");
        let account = format!("'{USER}'@'127.0.0.1'");
        let sql = format!(
            "CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO {account} WITH GRANT OPTION;\n"
        );
        fs::write(&init, sql).unwrap();
        let log = logs::open(dir, &format!("{:?} on port {} starts", self.kind, self.port));
        let child = Command::new("sh")
            .arg("-c")
            .arg(SUPERVISOR)
            .arg("sh")
            .arg(binary)
            .arg(flag("datadir", &dir.join("data")))
            .arg(flag("socket", &dir.join("sock")))
            // A server that starts deletes the temporary tables of all servers in the same folder.
            .arg(flag("tmpdir", dir))
            .arg(flag("pid-file", &dir.join("pid")))
            .arg(flag("init-file", &init))
            .arg(flag("tmpdir", &dir.join("tmp")))
            .arg(format!("--port={}", self.port))
            .args(self.settings())
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.process.lock().unwrap() = Some(child);
        self.wait_ready()
    }

    fn settings(&self) -> Vec<String> {
        let id = u32::from(self.port);
        let mut settings = vec![
            format!("--server-id={id}"),
            "--bind-address=127.0.0.1".into(),
            "--skip-name-resolve".into(),
            "--log-bin=binlog".into(),
            "--binlog-format=ROW".into(),
            "--innodb-buffer-pool-size=128M".into(),
            "--innodb-flush-log-at-trx-commit=2".into(),
            "--sync-binlog=0".into(),
            "--character-set-server=utf8mb4".into(),
        ];
        settings.extend(match self.kind {
            Kind::MariaDb => ["--gtid-strict-mode=ON".into(), "--innodb-log-file-size=32M".into()],
            Kind::MySql => ["--gtid-mode=ON".into(), "--enforce-gtid-consistency=ON".into()],
        });
        settings.push("--performance-schema=OFF".into());
        settings.extend(self.kind.without_syncs().iter().map(|option| (*option).to_owned()));
        settings
    }

    fn wait_ready(&self) -> Result<(), String> {
        let give_up = Instant::now() + Duration::from_secs(90);
        while !self.answers() {
            let mut process = self.process.lock().unwrap();
            let ended = process.as_mut().unwrap().try_wait().unwrap().is_some();
            if ended || Instant::now() > give_up {
                return Err(logs::end(self.dir.path()));
            }
            drop(process);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// True if the server accepts a connection. Runs on a thread of its own: the caller may be
    /// inside a runtime.
    fn answers(&self) -> bool {
        let connect = || {
            run(async {
                let connect = Conn::new(self.options());
                match tokio::time::timeout(Duration::from_secs(2), connect).await {
                    Ok(Ok(connection)) => connection.disconnect().await.is_ok(),
                    _ => false,
                }
            })
        };
        std::thread::scope(|scope| scope.spawn(connect).join().unwrap())
    }

    /// Kills the server with SIGKILL, as in a crash, and waits until it has exited.
    pub(crate) fn kill(&self) {
        let Some(mut child) = self.process.lock().unwrap().take() else { return };
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    /// Copies the data of the server to the folder `to`. The server must not run.
    pub(crate) fn back_up(&self, to: &Path) {
        copy(&self.dir.path().join("data"), to);
    }

    /// Replaces the data of the server by a back-up. The server must not run.
    pub(crate) fn restore(&self, from: &Path) {
        let data = self.dir.path().join("data");
        fs::remove_dir_all(&data).unwrap();
        copy(from, &data);
    }

    /// Sends a signal, such as `STOP` or `CONT`, to the server itself.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = fs::read_to_string(self.dir.path().join("pid")).unwrap();
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(pid.trim()).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The path of a file in the data folder, such as the TLS certificates that MySQL makes there.
    pub(crate) fn data_file(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    pub(crate) fn options(&self) -> OptsBuilder {
        OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some(USER))
            .pass(Some(PASSWORD))
            .prefer_socket(false)
    }

    /// A connection with all rights.
    pub(crate) async fn connect(&self) -> Conn {
        Conn::new(self.options()).await.unwrap()
    }

    /// Runs statements one by one on one connection; panics at the first error.
    pub(crate) async fn execute(&self, statements: &[String]) {
        let mut connection = self.connect().await;
        for sql in statements {
            let done = connection.query_drop(sql).await;
            done.unwrap_or_else(|error| panic!("{error}: {}", &sql[..sql.len().min(300)]));
        }
        connection.disconnect().await.unwrap();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.kill();
        if logs::remove(self.dir.path()) {
            self.dir.disable_cleanup(true);
        }
    }
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(path);
    flag
}

/// A socket on a free port of its own.
fn reserved_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}

pub(crate) fn mariadbd() -> PathBuf {
    let path = std::env::var_os("TRIBUTARY_MARIADBD");
    path.expect("real MariaDB servers are needed; run `./dev test`").into()
}

fn mysqld() -> Option<PathBuf> {
    std::env::var_os("TRIBUTARY_MYSQLD").map(PathBuf::from)
}

/// An initialised data folder, made once per run for each kind and copied for every server.
fn template(kind: Kind) -> Option<&'static Path> {
    static MARIADB: LazyLock<TempDir> = LazyLock::new(|| {
        let install = std::env::var_os("TRIBUTARY_MARIADB_INSTALL_DB");
        let install = install.expect("real MariaDB servers are needed; run `./dev test`");
        initialised(Kind::MariaDb, Command::new(install), "--innodb-log-file-size=32M")
    });
    static MYSQL: LazyLock<Option<TempDir>> = LazyLock::new(|| {
        let Some(binary) = mysqld() else {
            let reason = std::env::var("TRIBUTARY_MYSQL_MISSING");
            let reason = reason.expect("a real MySQL server is needed; run `./dev test`");
            skip(&format!("mysql: {reason}"));
            return None;
        };
        Some(initialised(Kind::MySql, Command::new(binary), "--initialize-insecure"))
    });
    match kind {
        Kind::MariaDb => Some(MARIADB.path()),
        Kind::MySql => MYSQL.as_ref().map(TempDir::path),
    }
}

fn initialised(kind: Kind, mut command: Command, option: &str) -> TempDir {
    let dir = scratch();
    let data = dir.path().join("data");
    let tmp = dir.path().join("tmp");
    fs::create_dir(&tmp).unwrap();
    let output = command
        .arg(option)
        .args(kind.without_syncs())
        .arg(flag("datadir", &data))
        .arg(flag("tmpdir", &tmp))
        .output()
        .unwrap();
    if !output.status.success() {
        std::io::stderr().write_all(&output.stdout).unwrap();
        std::io::stderr().write_all(&output.stderr).unwrap();
        panic!("{command:?} failed");
    }
    // It holds MySQL's `server_uuid`, which two servers must not share.
    let _ = fs::remove_file(data.join("auto.cnf"));
    dir
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
