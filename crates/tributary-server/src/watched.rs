//! Values that are made from files, and made again when the files change: credentials and the
//! certificate. If the files cannot be used, the earlier value stays in effect.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use tokio::time::sleep;
use tributary::internal::tasks::{TaskStats, Tasks, blocking};

/// The pause between two looks at the files. A change takes effect within it.
const RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// Pause between two reads of files that have changed. A program that writes a file in place first
/// empties it, and then writes it within this time.
const WRITE_PAUSE: Duration = Duration::from_millis(50);
/// Reads of files that change, at most.
const READS_MAX: usize = 10;

/// Files, and the value that they contain.
pub(crate) trait Files: Send + Sync + 'static {
    /// The name of the task that reads them again.
    const NAME: &'static str;
    type Texts: PartialEq + Send + Sync;
    type Value: Send + Sync;

    /// Reads the files.
    ///
    /// # Errors
    /// The reason, with the name of the file.
    fn read(&self) -> Result<Self::Texts, String>;

    /// Makes the value.
    ///
    /// # Errors
    /// As [`Files::read`].
    fn parse(&self, texts: &Self::Texts) -> Result<Self::Value, String>;

    /// Checks whether files with these texts may replace the earlier ones.
    ///
    /// # Errors
    /// As [`Files::read`].
    fn check_change(&self, _old: &Self::Texts, _new: &Self::Texts) -> Result<(), String> {
        Ok(())
    }

    /// Logs that a value takes effect, in place of an earlier one or as the first.
    fn log_read(&self, old: Option<&Self::Value>, new: &Self::Value);

    /// Logs why the earlier value stays in effect.
    fn log_kept(&self, problem: &str);

    /// Looks at the value in effect once a second, for what time alone changes.
    fn look(&self, _value: &Self::Value) {}
}

/// The value of files.
pub(crate) struct Watched<F: Files> {
    files: F,
    current: ArcSwap<Current<F>>,
    /// Changes after `current`.
    changes: watch::Sender<()>,
    /// The problem with the files at the last look, so that each is logged once.
    problem: Mutex<Option<String>>,
    /// Locked from a look until its value is in effect.
    turn: Mutex<()>,
    /// Reads the files again.
    tasks: Tasks,
}

/// A value, and the texts that it was made from.
pub(crate) struct Current<F: Files> {
    texts: F::Texts,
    pub(crate) value: F::Value,
}

impl<F: Files> Watched<F> {
    /// Reads the files, and starts a task on the current tokio runtime that reads them again, until
    /// the last reference is dropped.
    ///
    /// # Errors
    /// The files cannot be used.
    pub(crate) fn open(files: F) -> Result<Arc<Self>, String> {
        let texts = files.read()?;
        let value = files.parse(&texts)?;
        files.log_read(None, &value);
        let current = ArcSwap::from_pointee(Current { texts, value });
        let (problem, turn, tasks) = (Mutex::new(None), Mutex::new(()), Tasks::default());
        let changes = watch::Sender::new(());
        let watched = Arc::new(Self { files, current, changes, problem, turn, tasks });
        let weak = Arc::downgrade(&watched);
        watched.tasks.spawn(F::NAME, "", move || look(Weak::clone(&weak)));
        Ok(watched)
    }

    /// The task that reads the files again.
    pub(crate) fn tasks(&self) -> Vec<TaskStats> {
        self.tasks.stats()
    }

    /// Ends this task.
    pub(crate) async fn close(&self) {
        self.tasks.close().await;
    }

    /// The value in effect.
    pub(crate) fn current(&self) -> Guard<Arc<Current<F>>> {
        self.current.load()
    }

    /// Changes whenever another value takes effect.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Why the files could not be used at the last look.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files, and replaces the value if they have changed. Returns whether they have.
    ///
    /// # Errors
    /// The files cannot be used. The earlier value stays in effect.
    pub(crate) fn reload(&self) -> Result<bool, String> {
        self.prepare().map(Prepared::commit)
    }

    /// Reads the files. Nothing changes until [`Prepared::commit`]. Only one caller can be between
    /// the two, so that an earlier content never replaces a later one.
    ///
    /// # Errors
    /// As [`Watched::reload`].
    pub(crate) fn prepare(&self) -> Result<Prepared<'_, F>, String> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let made = self.make();
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(made) => {
                *problem = None;
                Ok(Prepared { watched: self, made, _turn: turn })
            }
            Err(text) => {
                if problem.as_ref() != Some(&text) {
                    self.files.log_kept(&text);
                }
                *problem = Some(text.clone());
                Err(text)
            }
        }
    }

    /// The value of the files, if they have changed.
    fn make(&self) -> Result<Option<Current<F>>, String> {
        let current = self.current.load();
        let texts = self.files.read()?;
        if texts == current.texts {
            return Ok(None);
        }
        let texts = self.read_whole(texts)?;
        self.files.check_change(&current.texts, &texts)?;
        let value = self.files.parse(&texts)?;
        Ok(Some(Current { texts, value }))
    }

    /// The files after another program has written them: two reads return the same.
    fn read_whole(&self, mut texts: F::Texts) -> Result<F::Texts, String> {
        for _ in 0..READS_MAX {
            std::thread::sleep(WRITE_PAUSE);
            let again = self.files.read()?;
            if again == texts {
                return Ok(texts);
            }
            texts = again;
        }
        Err(format!("the files of the {} change while they are read; try again", F::NAME))
    }
}

/// A value that can take effect, or the earlier one if the files have not changed.
pub(crate) struct Prepared<'a, F: Files> {
    watched: &'a Watched<F>,
    made: Option<Current<F>>,
    _turn: MutexGuard<'a, ()>,
}

impl<F: Files> Prepared<'_, F> {
    /// Replaces the value. Returns whether the files have changed.
    pub(crate) fn commit(self) -> bool {
        let Some(made) = self.made else { return false };
        self.watched.files.log_read(Some(&self.watched.current.load().value), &made.value);
        self.watched.current.store(Arc::new(made));
        self.watched.changes.send_replace(());
        true
    }
}

/// Reads the files again and again, until the value is dropped.
async fn look<F: Files>(watched: Weak<Watched<F>>) {
    loop {
        sleep(RELOAD_PAUSE).await;
        let Some(watched) = watched.upgrade() else { return };
        // A panic, as every other fault of one look, leaves the earlier value in effect.
        let look = move || {
            drop(watched.reload());
            watched.files.look(&watched.current().value);
        };
        blocking(look).await;
    }
}
