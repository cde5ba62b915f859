//! Background tasks: one that panics starts again and shows, and none outlives its owner noisily.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tributary::internal::fleet;
use tributary::{Config, Tributary};

use crate::support::http::TestServer;
use crate::support::{run, scratch};

/// Set for the process that [`a_runtime_that_ends_without_close_is_silent`] starts.
const CHILD: &str = "TRIBUTARY_TEST_RUNTIME_ENDS";

fn config(dir: &TempDir) -> Config {
    Config::from_folder(dir.path(), []).unwrap()
}

#[test]
fn a_task_that_panics_starts_again_and_shows_until_it_is_sound() {
    run(async {
        let dir = scratch();
        let tributary = Tributary::open(&config(&dir)).await.unwrap();
        let server = TestServer::start(tributary.clone()).await;
        let ready = server.get("/readyz?strict").await;
        assert!(ready.status.is_success() && !ready.body.contains("failing"), "{}", ready.body);
        let metrics = server.get("/metrics").await.body;
        for task in ["feed", "memory", "writer", "watch_files"] {
            let line = format!("tributary_task_running{{task=\"{task}\",of=\"");
            let running = metrics.lines().filter(|text| text.starts_with(&line));
            assert!(running.clone().count() > 0, "{task} is absent: {metrics}");
            assert!(running.clone().all(|line| line.ends_with(" 1")), "{metrics}");
        }

        let starts = AtomicUsize::new(0);
        fleet(&tributary).tasks().spawn("test", "db0", move || {
            let is_first = starts.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                assert!(!is_first, "the first start fails");
                std::future::pending::<()>().await;
            }
        });
        let restarted = "tributary_task_restarts_total{task=\"test\",of=\"db0\"} 1";
        let running = "tributary_task_running{task=\"test\",of=\"db0\"} 1";
        loop {
            let metrics = server.get("/metrics").await.body;
            if metrics.contains(restarted) && metrics.contains(running) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ready = server.get("/readyz").await.json();
        assert_eq!(ready["status"], "degraded", "{ready}");
        let failing = &ready["failing"][0];
        assert_eq!((&failing["task"], &failing["of"]), (&"test".into(), &"db0".into()));
        assert_eq!((&failing["running"], &failing["restarts"]), (&true.into(), &1.into()));
        assert_eq!(server.get("/readyz?strict").await.status, 503);

        tributary.clone().close().await;
        let stats = fleet(&tributary).tasks().stats();
        assert!(stats.iter().all(|task| !task.is_running), "{stats:?}");
    });
}

#[test]
fn a_runtime_that_ends_without_close_is_silent() {
    let test = "tasks::a_runtime_that_ends_without_close_is_silent";
    if std::env::var_os(CHILD).is_some() {
        return end_runtime();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", test, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("panicked"), "{text}");
}

fn end_runtime() {
    let dir = scratch();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let tributary = runtime.block_on(Tributary::open(&config(&dir))).unwrap();
    // The threads of memory work, also after the end of the runtime.
    std::thread::sleep(Duration::from_millis(300));
    drop(runtime);
    std::thread::sleep(Duration::from_millis(300));
    drop(tributary);
}
