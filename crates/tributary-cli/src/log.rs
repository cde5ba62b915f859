//! The log of the process on standard error: its level, its form, and a writer that lets no control
//! character of a client or a database through.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};
use tributary::config::{Log, LogFormat};

/// Sets the level, before and instead of the configuration.
const LEVEL_VARIABLE: &str = "TRIBUTARY_LOG";

type Form = Box<dyn Layer<Registry> + Send + Sync>;

/// Changes the log of the running process.
struct Control {
    form: Handle<Form, Registry>,
    level: Handle<LevelFilter, Filtered>,
}

type Filtered = tracing_subscriber::layer::Layered<reload::Layer<Form, Registry>, Registry>;

static CONTROL: OnceLock<Control> = OnceLock::new();

/// Starts the log: for people, at level `info` or that of the environment.
pub(crate) fn start() {
    let (form, form_handle) = reload::Layer::new(form(LogFormat::Human));
    let (level, level_handle) = reload::Layer::new(level(LevelFilter::INFO));
    tracing_subscriber::registry().with(form).with(level).init();
    let _ = CONTROL.set(Control { form: form_handle, level: level_handle });
}

/// Applies the configuration.
pub(crate) fn apply(log: &Log) {
    let Some(control) = CONTROL.get() else { return };
    // Fails only if the subscriber is gone, and then nothing is logged.
    let _ = control.form.reload(form(log.format));
    let configured = log.level.as_str().parse().unwrap_or(LevelFilter::INFO);
    let _ = control.level.reload(level(configured));
}

/// The level of the environment, else this one.
fn level(configured: LevelFilter) -> LevelFilter {
    let level = std::env::var(LEVEL_VARIABLE).ok().and_then(|level| level.parse().ok());
    level.unwrap_or(configured)
}

/// Lines for people, in colour on a terminal unless `NO_COLOR` is set, or JSON objects.
fn form(format: LogFormat) -> Form {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match format {
        LogFormat::Human => {
            let layer = fmt::layer().with_writer(CleanErrors { colour });
            layer.with_ansi(colour).with_target(false).boxed()
        }
        LogFormat::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_current_span(true);
            layer.with_span_list(false).with_writer(CleanErrors { colour: false }).boxed()
        }
    }
}

/// Writes to standard error.
#[derive(Clone, Copy, Debug)]
struct CleanErrors {
    /// Lines contain the escape sequences of colours.
    colour: bool,
}

impl<'a> MakeWriter<'a> for CleanErrors {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for CleanErrors {
    /// `line` is one whole line of the log.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        io::stderr().lock().write_all(clean(&text, self.colour).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The line with every control character escaped as in JSON, except its end. The formatter itself
/// escapes those of values that it quotes, and every escape character of a message.
fn clean(line: &str, colour: bool) -> String {
    let body = line.strip_suffix('\n').unwrap_or(line);
    let mut clean = String::with_capacity(line.len());
    for c in body.chars() {
        match c {
            '\u{1b}' if colour => clean.push(c),
            c if c.is_control() => clean.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => clean.push(c),
        }
    }
    clean.push_str(&line[body.len()..]);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(clean("a line\n", false), "a line\n");
        let forged = "x\r\n2026 ERROR forged\u{9b}31m\u{7f}\u{1b}[0m\n";
        let escaped = "x\\u000d\\u000a2026 ERROR forged\\u009b31m\\u007f\\u001b[0m\n";
        assert_eq!(clean(forged, false), escaped);
        assert_eq!(
            clean("\u{1b}[2mdim\u{1b}[0m gr\u{fc}\u{df}e\n", true),
            "\u{1b}[2mdim\u{1b}[0m gr\u{fc}\u{df}e\n"
        );
    }
}
