//! Log lines on standard error, for people or as JSON.
//!
//! Owns: setting logging up. Leaves to others: what is logged. Invariant: set up once, before anything is logged.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text an event, coloured on a terminal
    Human,
    /// One JSON object an event
    Json,
}

/// `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// What failed
    Error,
    /// What somebody should look at, too
    Warn,
    /// What was done, too
    Info,
    /// Each decision, too
    Debug,
    /// Everything
    Trace,
}

/// Flags of logs.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
    /// How much Portico logs; libraries log warnings. Environment variable `RUST_LOG` overrides both
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
}

impl LogArgs {
    /// The `EnvFilter` directives of these flags.
    pub fn filter(self) -> String {
        let level = match self.log_level {
            LogLevel::Error => return "error".to_owned(),
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        };
        format!("warn,portico={level}")
    }
}

/// Sets logging up. `filter`: `EnvFilter` directives such as `warn,portico=info`; the variable `RUST_LOG` overrides them.
pub fn init(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(filter));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let subscriber = subscriber.with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Human => subscriber.init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;
    use tracing_subscriber::EnvFilter;

    use super::{LogArgs, LogFormat, LogLevel};

    /// The messages that a process with this level logs, of those that Portico and a library have.
    fn logged(log_level: LogLevel) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let filter = EnvFilter::new(LogArgs { log_format: LogFormat::Human, log_level }.filter());
        let writer = Mutex::new(Into(Arc::clone(&written)));
        let subscriber =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
        with_default(subscriber.finish(), || {
            tracing::error!(target: "hyper::client", "library error");
            tracing::warn!(target: "hyper::client", "library warning");
            tracing::info!(target: "hyper::client", "library info");
            tracing::warn!(target: "portico_provider_aws::cache", "our warning");
            tracing::info!(target: "portico_operator::reconcile", "our info");
            tracing::debug!(target: "portico_operator::reconcile", "our debug");
        });
        let bytes = written.lock().expect("no panic").clone();
        let text = String::from_utf8(bytes).expect("text");
        let message = |line: &str| line.rsplit_once(": ").map(|(_, message)| message.to_owned());
        text.lines().filter_map(message).collect::<Vec<_>>().join(", ")
    }

    struct Into(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Into {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_level_is_portico_s_own_and_libraries_log_warnings() {
        assert_eq!(logged(LogLevel::Error), "library error");
        assert_eq!(logged(LogLevel::Info), "library error, library warning, our warning, our info");
        assert_eq!(
            logged(LogLevel::Debug),
            "library error, library warning, our warning, our info, our debug"
        );
    }

    fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a source") {
            let path = entry.expect("a source").path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|it| it == "rs") {
                into.push(path);
            }
        }
    }

    /// The arguments of each macro of `tracing` in a text.
    fn events(text: &str) -> Vec<&str> {
        let begins = text.match_indices("tracing::").map(|(at, word)| &text[at + word.len()..]);
        let calls = begins.filter_map(|rest| {
            let (name, arguments) = rest.split_once("!(")?;
            ["error", "warn", "info", "debug", "trace"].contains(&name).then_some(arguments)
        });
        calls.filter_map(|arguments| Some(arguments.split_once(");")?.0)).collect()
    }

    #[test]
    fn no_event_has_a_field_that_its_json_line_has_already() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        for part in ["operator/src", "nodeproxy/src", "providers", "runtime/src"] {
            sources(&root.join(part), &mut files);
        }
        let mut seen = 0;
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source");
            for arguments in events(&text) {
                seen += 1;
                let mut fields =
                    arguments.split(',').map(|field| field.split('=').next().unwrap_or_default());
                let taken = fields.find(|field| {
                    ["message", "level", "target", "timestamp"]
                        .contains(&field.trim().trim_start_matches(['%', '?']))
                });
                assert_eq!(taken, None, "{}: {arguments}", file.display());
            }
        }
        assert!(seen > 30, "{seen}");
    }
}
