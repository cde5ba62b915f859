//! Support for the tests: worlds with their oracle, fleets on every backend, servers, HTTP.

pub(crate) mod credentials;
pub(crate) mod database;
pub(crate) mod events;
pub(crate) mod fleet;
pub(crate) mod http;
pub(crate) mod link;
mod logs;
pub(crate) mod proxy;
pub(crate) mod relay;
pub(crate) mod watch;
pub(crate) mod world;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tributary::{PostId, ShardId, UserId};

/// The user with this id.
pub(crate) const fn user_id(id: u64) -> UserId {
    UserId::new(id).unwrap()
}

/// The post id with this number.
pub(crate) const fn post_id(id: u64) -> PostId {
    PostId::new(id).unwrap()
}

/// The shard with this index.
pub(crate) const fn shard_id(index: u16) -> ShardId {
    ShardId::new(index)
}

/// The root of the repository: the nearest folder with a `Cargo.lock`.
pub(crate) fn root() -> PathBuf {
    let ancestors = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    ancestors.into_iter().find(|dir| dir.join("Cargo.lock").exists()).unwrap().to_owned()
}

/// The folder of real follows and posts, if it is beside the working copy. A public checkout has
/// none, and the test is listed as skipped.
pub(crate) fn shared_data() -> Option<PathBuf> {
    let dir = root().join("../shared/data");
    if dir.join("tweets.csv.gz").exists() {
        return Some(dir);
    }
    skip("shared data: ../shared/data is missing");
    None
}

/// The folder of small files from real faults, if it is beside the working copy.
pub(crate) fn shared_cases() -> Option<PathBuf> {
    let dir = root().join("../shared/cases");
    if dir.join("README.md").exists() {
        return Some(dir);
    }
    skip("shared cases: ../shared/cases is missing");
    None
}

/// Lists a skipped test in the summary at the end of `./dev test`. No test is skipped silently.
pub(crate) fn skip(what: &str) {
    eprintln!("SKIPPED {what}");
    let Some(path) = std::env::var_os("TRIBUTARY_SKIPS") else { return };
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    writeln!(file, "{what}").unwrap();
}

/// The size of a run: the first value in `./dev test`, the second in `./dev soak`, which sets
/// `TRIBUTARY_SOAK`.
pub(crate) fn size<T>(gate: T, soak: T) -> T {
    static SOAK: LazyLock<bool> = LazyLock::new(|| std::env::var_os("TRIBUTARY_SOAK").is_some());
    if *SOAK { soak } else { gate }
}

/// The seed of random choices number `number` of a test. It is the same in every run with the same
/// `TRIBUTARY_SEED`; `./dev test` uses 0, and `./dev soak` a new one.
pub(crate) fn seed(number: u64) -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| {
        let seed = std::env::var("TRIBUTARY_SEED").unwrap_or_default();
        seed.parse().unwrap_or_else(|_| if seed.is_empty() { 0 } else { panic!("a seed: {seed}") })
    });
    number.wrapping_add(SEED.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A new folder in `TRIBUTARY_TEST_DIR`, or else in the system's temporary folder. It is deleted
/// when dropped.
pub(crate) fn scratch() -> tempfile::TempDir {
    static BASE: LazyLock<PathBuf> = LazyLock::new(|| {
        std::env::var_os("TRIBUTARY_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
    });
    std::fs::create_dir_all(&*BASE).unwrap();
    tempfile::Builder::new().prefix("tributary-test-").tempdir_in(&*BASE).unwrap()
}

/// Runs a test's future on a runtime of its own with two threads.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let output = runtime.block_on(test);
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    output
}
