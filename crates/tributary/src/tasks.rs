//! Background tasks. Each has a name and an owner, starts again after a panic, shows its state, and
//! is joined at the end.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use crate::backoff::Backoff;
use crate::problems::Occurrences;

/// First and longest pause before a task that has panicked starts again, before jitter.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A task that has not panicked for this long is sound again.
const CALM: Duration = Duration::from_secs(60);
/// Limit on the wait for one task at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The background tasks of one owner. They end at [`Tasks::close`], which waits for them, or when
/// this is dropped.
#[derive(Debug, Default)]
pub struct Tasks {
    /// Sending `true`, or dropping it, stops the tasks.
    stop: watch::Sender<bool>,
    all: Mutex<Vec<Arc<Task>>>,
    running: Mutex<Vec<(Arc<Task>, Running)>>,
}

/// The way to wait for a task.
#[derive(Debug)]
enum Running {
    OnRuntime(JoinHandle<()>),
    OnThread(thread::JoinHandle<()>),
}

/// One task.
#[derive(Debug)]
struct Task {
    name: &'static str,
    of: String,
    phase: Mutex<Phase>,
    panics: Occurrences,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It runs, and has panicked at this time.
    Running(Option<Instant>),
    /// It has panicked and waits to start again.
    Paused,
    Ended,
}

/// The state of one task, for health checks and metrics.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskStats {
    /// The work of the task.
    pub name: &'static str,
    /// The server or the shard that it works for. Empty if it works for all.
    pub of: String,
    /// Whether it runs now. A task that has done its work does not.
    pub is_running: bool,
    /// Whether it has panicked in the last minute, or waits to start again.
    pub is_failing: bool,
    /// How many times it has panicked and was started again.
    pub restarts: u64,
}

impl Tasks {
    /// Starts a task on the current runtime, which ends when its future does.
    pub fn spawn<F>(&self, name: &'static str, of: &str, task: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (state, stopped) = (self.add(name, of), self.stop.subscribe());
        let mut restarts = Restarts::new(&state);
        let run = async move {
            loop {
                // Making the future can panic, and so can running it.
                let outcome = match catch_unwind(AssertUnwindSafe(&task)) {
                    Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
                    Err(panic) => Err(panic),
                };
                let Some(pause) = restarts.after(outcome) else { return };
                sleep(pause).await;
                restarts.begin();
            }
        };
        let handle = tokio::spawn(until_stopped(stopped, run));
        locked(&self.running).push((state, Running::OnRuntime(handle)));
    }

    /// Starts a task on a thread of its own, with timers of its own: it may compute for long, and
    /// it survives the end of the current runtime.
    ///
    /// # Errors
    /// The system starts no thread.
    pub(crate) fn spawn_thread(
        &self,
        name: &'static str,
        of: &str,
        mut task: impl AsyncFnMut() + Send + 'static,
    ) -> io::Result<()> {
        let (state, stopped) = (self.add(name, of), self.stop.subscribe());
        let mut restarts = Restarts::new(&state);
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let run = move || {
            runtime.block_on(until_stopped(stopped, async move {
                loop {
                    let outcome = AssertUnwindSafe(task()).catch_unwind().await;
                    let Some(pause) = restarts.after(outcome) else { return };
                    sleep(pause).await;
                    restarts.begin();
                }
            }));
        };
        let handle = thread::Builder::new().name(format!("{name} {of}")).spawn(run)?;
        locked(&self.running).push((state, Running::OnThread(handle)));
        Ok(())
    }

    /// Starts a task that blocks, on a thread of its own. The caller ends and joins it. Unparking
    /// the thread ends the pause after a panic.
    ///
    /// # Errors
    /// The system starts no thread.
    pub(crate) fn spawn_blocking_thread(
        &self,
        name: &'static str,
        of: &str,
        mut task: impl FnMut() + Send + 'static,
    ) -> io::Result<thread::JoinHandle<()>> {
        let mut restarts = Restarts::new(&self.add(name, of));
        let run = move || {
            while let Some(pause) = restarts.after(catch_unwind(AssertUnwindSafe(&mut task))) {
                thread::park_timeout(pause);
                restarts.begin();
            }
        };
        thread::Builder::new().name(format!("{name} {of}")).spawn(run)
    }

    /// Stops all tasks and waits until they have ended.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        let running = std::mem::take(&mut *locked(&self.running));
        let join = |(task, running): (Arc<Task>, Running)| async move {
            let ended = async {
                // Panics were caught and logged when they happened.
                match running {
                    Running::OnRuntime(handle) => drop(handle.await),
                    Running::OnThread(handle) => drop(spawn_blocking(|| handle.join()).await),
                }
            };
            if timeout(CLOSE_TIMEOUT, ended).await.is_err() {
                warn!(task = task.name, of = task.of, "Background task did not end within 10 s");
            }
            task.set(Phase::Ended);
        };
        join_all(running.into_iter().map(join)).await;
    }

    /// The state of every task, in the order of their start.
    pub fn stats(&self) -> Vec<TaskStats> {
        locked(&self.all).iter().map(|task| task.stats()).collect()
    }

    fn add(&self, name: &'static str, of: &str) -> Arc<Task> {
        let task = Arc::new(Task {
            name,
            of: of.to_owned(),
            phase: Mutex::new(Phase::Running(None)),
            panics: Occurrences::default(),
        });
        locked(&self.all).push(Arc::clone(&task));
        task
    }
}

async fn until_stopped(mut stopped: watch::Receiver<bool>, run: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        // An error means that the owner was dropped.
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = run => {}
    }
}

/// Runs `work` on a thread for blocking work. Its panic becomes one of the caller.
pub async fn blocking(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = spawn_blocking(work).await
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// The result of `work`, or the text of its panic.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let caught = AssertUnwindSafe(work).catch_unwind().await;
    caught.map_err(|panic| format!("the program is at fault: {}", text_of(&*panic)))
}

/// Decides when a task starts again.
struct Restarts {
    task: Arc<Task>,
    backoff: Backoff,
    since: Instant,
}

impl Restarts {
    fn new(task: &Arc<Task>) -> Self {
        let backoff = Backoff::new(RESTART_PAUSE, RESTART_PAUSE_MAX);
        Self { task: Arc::clone(task), backoff, since: Instant::now() }
    }

    /// The pause before the next start; `None` if the task has done its work.
    fn after(&mut self, outcome: thread::Result<()>) -> Option<Duration> {
        let Err(panic) = outcome else {
            self.task.set(Phase::Ended);
            return None;
        };
        if self.since.elapsed() >= CALM {
            self.backoff.reset();
        }
        let pause = self.backoff.pause();
        let (task, panic) = (&self.task, text_of(&*panic));
        task.set(Phase::Paused);
        if task.panics.note() {
            error!(
                task = task.name,
                of = task.of,
                panic,
                restart_in = ?pause,
                "Background task failed and starts again; report this as a fault of the program"
            );
        }
        Some(pause)
    }

    fn begin(&mut self) {
        self.since = Instant::now();
        self.task.set(Phase::Running(Some(self.since)));
    }
}

impl Task {
    fn set(&self, phase: Phase) {
        *locked(&self.phase) = phase;
    }

    fn stats(&self) -> TaskStats {
        let phase = *locked(&self.phase);
        TaskStats {
            name: self.name,
            of: self.of.clone(),
            is_running: matches!(phase, Phase::Running(_)),
            is_failing: match phase {
                Phase::Paused => true,
                Phase::Running(again) => again.is_some_and(|at| at.elapsed() < CALM),
                Phase::Ended => false,
            },
            restarts: self.panics.count(),
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    async fn wait_for(tasks: &Tasks, name: &str, condition: impl Fn(&TaskStats) -> bool) {
        loop {
            let stats = tasks.stats();
            if condition(stats.iter().find(|task| task.name == name).unwrap()) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_shows_starts_again_and_is_joined() {
        let (tasks, starts) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        let ended = Arc::new(AtomicBool::new(false));
        struct NoteEnd(Arc<AtomicBool>);
        impl Drop for NoteEnd {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let (counter, note) = (Arc::clone(&starts), Arc::clone(&ended));
        tasks.spawn("test", "db0", move || {
            let (start, note) = (counter.fetch_add(1, Ordering::SeqCst), Arc::clone(&note));
            assert!(start != 1, "the second start fails before it has a future");
            async move {
                assert!(start > 0, "the first start fails");
                let _note = NoteEnd(note);
                std::future::pending::<()>().await;
            }
        });
        wait_for(&tasks, "test", |task| !task.is_running && task.is_failing).await;
        wait_for(&tasks, "test", |task| task.is_running && task.restarts == 2).await;
        let stats = tasks.stats();
        let [task] = stats.as_slice() else { panic!("{stats:?}") };
        assert_eq!((task.of.as_str(), task.is_failing), ("db0", true));
        assert_eq!(starts.load(Ordering::SeqCst), 3);
        assert!(!ended.load(Ordering::SeqCst));
        tasks.close().await;
        assert!(ended.load(Ordering::SeqCst));
        assert!(!tasks.stats()[0].is_running);
    }

    #[tokio::test]
    async fn threads_start_again_and_end_with_their_owner() {
        let tasks = Tasks::default();
        let mut starts = 0;
        let run = async move || {
            starts += 1;
            assert!(starts > 1, "the first start fails");
            std::future::pending::<()>().await;
        };
        tasks.spawn_thread("timed", "", run).unwrap();
        let mut blocked = 0;
        let work = move || {
            blocked += 1;
            assert!(blocked > 1, "the first start fails");
        };
        let thread = tasks.spawn_blocking_thread("blocking", "", work).unwrap();
        wait_for(&tasks, "blocking", |task| task.is_failing).await;
        thread.thread().unpark();
        thread.join().unwrap();
        wait_for(&tasks, "timed", |task| task.is_running && task.restarts == 1).await;
        tasks.close().await;
        assert!(tasks.stats().iter().all(|task| !task.is_running && task.restarts == 1));
    }

    #[test]
    fn threads_survive_the_runtime_silently() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (tasks, beats) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&beats);
        let beat = async move || loop {
            counter.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(1)).await;
        };
        runtime.block_on(async { tasks.spawn_thread("beat", "", beat).unwrap() });
        drop(runtime);
        let before = beats.load(Ordering::SeqCst);
        while beats.load(Ordering::SeqCst) < before + 3 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(tasks.stats()[0].restarts, 0);
    }

    #[tokio::test]
    async fn a_panic_of_blocking_work_reaches_the_task() {
        let outcome = caught(blocking(|| panic!("disk"))).await;
        assert!(outcome.unwrap_err().ends_with(": disk"));
        assert_eq!(caught(async { 7 }).await, Ok(7));
    }
}
