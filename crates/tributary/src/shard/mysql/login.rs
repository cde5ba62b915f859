//! The options with which connections to a server log in. They change when the configuration is
//! read again, and when the command of the configuration prints another password.

use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::{Opts, OptsBuilder};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::shard::ShardError;

/// Time limit of the command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest output of the command, in bytes. Known credentials have less than 4 KiB.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;

/// The options and, for credentials that expire, the command that prints the password.
pub(in crate::shard) struct Login {
    state: Mutex<State>,
    /// Held while the command runs, so that one runs at a time.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    options: Opts,
    command: Option<Vec<String>>,
    /// When the command printed the password of the options.
    printed: Option<Instant>,
}

impl Login {
    pub(super) fn new(options: Opts, command: Option<Vec<String>>) -> Self {
        let state = Mutex::new(State { options, command, printed: None });
        Self { state, turn: tokio::sync::Mutex::default() }
    }

    /// The options in effect.
    pub(super) fn options(&self) -> Opts {
        self.state().options.clone()
    }

    /// Whether connections log in in this way already.
    pub(super) fn is_same(&self, next: &Self) -> bool {
        let (now, next) = (self.state(), next.state());
        match (&now.command, &next.command) {
            // The options have the password that it has printed.
            (Some(command), Some(other)) => {
                let without = |options: &Opts| {
                    Opts::from(OptsBuilder::from_opts(options.clone()).pass(None::<String>))
                };
                command == other && without(&now.options) == without(&next.options)
            }
            (None, None) => now.options == next.options,
            _ => false,
        }
    }

    /// From now on, connections log in in this way.
    pub(super) fn replace(&self, next: Self) {
        *self.state() = next.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    }

    /// Runs the command, unless the password was printed less than `age_max` ago. Returns whether
    /// the password has changed.
    ///
    /// # Errors
    /// The command prints no password, or not in time.
    pub(super) async fn refresh(&self, age_max: Duration) -> Result<bool, ShardError> {
        if self.due(age_max).is_none() {
            return Ok(false);
        }
        let _turn = self.turn.lock().await;
        // Another caller may have run it during the wait.
        let Some(command) = self.due(age_max) else { return Ok(false) };
        let password = Box::pin(output_of(&command)).await?;
        let mut state = self.state();
        // The configuration was read again while the command ran.
        if state.command.as_ref() != Some(&command) {
            return Ok(true);
        }
        let changed = state.options.pass() != Some(password.as_str());
        state.options = OptsBuilder::from_opts(state.options.clone()).pass(Some(password)).into();
        state.printed = Some(Instant::now());
        Ok(changed)
    }

    /// The command, if there is one and its last output is too old.
    fn due(&self, age_max: Duration) -> Option<Vec<String>> {
        let state = self.state();
        let is_young = state.printed.is_some_and(|printed| printed.elapsed() < age_max);
        state.command.clone().filter(|_| !is_young)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The output of the command without line ends. Its error output is that of this process.
async fn output_of(command: &[String]) -> Result<String, ShardError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(ShardError::Faulty("password_command is empty".into()));
    };
    let faulty = |text: String| ShardError::Faulty(format!("password_command `{program}` {text}"));
    let unavailable =
        |text: String| ShardError::Unavailable(format!("password_command `{program}` {text}"));
    let mut process = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        // Only this process may report to systemd.
        .env_remove("NOTIFY_SOCKET")
        .spawn()
        .map_err(|error| faulty(format!("cannot be started: {error}")))?;
    let mut output = Vec::new();
    let run = async {
        if let Some(stdout) = process.stdout.take() {
            stdout.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut output).await?;
        }
        if output.len() as u64 > OUTPUT_BYTES_MAX {
            return Ok(None);
        }
        process.wait().await.map(Some)
    };
    let status = match timeout(COMMAND_TIMEOUT, run).await {
        Err(_) => return Err(unavailable("did not end within 5 s".into())),
        Ok(Err(error)) => return Err(unavailable(format!("cannot be read: {error}"))),
        Ok(Ok(None)) => {
            return Err(faulty(format!("prints more than {OUTPUT_BYTES_MAX} bytes")));
        }
        Ok(Ok(Some(status))) => status,
    };
    // The service that issues the credential may be unreachable for a while.
    if !status.success() {
        return Err(unavailable(format!("failed ({status}); its error output is above")));
    }
    let password = String::from_utf8(output).map_err(|_| faulty("prints no UTF-8 text".into()))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(faulty("prints no password".into()));
    }
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_AGE: Duration = Duration::ZERO;

    fn login(script: &str) -> Login {
        let options = Opts::from_url("mysql://user@127.0.0.1:1/").unwrap();
        let command = ["sh", "-c", script].map(str::to_owned);
        Login::new(options, Some(command.to_vec()))
    }

    #[tokio::test]
    async fn the_command_prints_the_password_of_new_connections() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runs");
        let login = login(&format!("echo >> {0}; wc -l < {0}", file.display()));
        assert!(login.refresh(NO_AGE).await.unwrap());
        assert_eq!(login.options().pass(), Some("1"));
        assert!(!login.refresh(Duration::from_secs(60)).await.unwrap());
        assert!(login.refresh(NO_AGE).await.unwrap());
        assert_eq!(login.options().pass(), Some("2"));
        let plain = Login::new(login.options(), None);
        assert!(!plain.refresh(NO_AGE).await.unwrap());
        assert!(!plain.is_same(&login) && plain.is_same(&Login::new(login.options(), None)));
    }

    #[tokio::test]
    async fn a_command_that_fails_or_prints_too_much_leaves_the_password() {
        for (script, reason) in [
            ("exit 3", "exit status: 3"),
            ("true", "prints no password"),
            ("yes", "prints more than 65536 bytes"),
            ("printf '\\377'", "no UTF-8"),
        ] {
            let login = login(script);
            let error = login.refresh(NO_AGE).await.unwrap_err().to_string();
            assert!(error.contains(reason), "{script}: {error}");
            assert_eq!(login.options().pass(), None);
        }
        let options = Opts::from_url("mysql://user@127.0.0.1:1/").unwrap();
        let absent = Login::new(options, Some(vec!["/no/such/program".into()]));
        let error = absent.refresh(NO_AGE).await.unwrap_err().to_string();
        assert!(error.contains("cannot be started"), "{error}");
    }
}
