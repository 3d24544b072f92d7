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

/// Sets logging up. `level` is an `EnvFilter` directive such as `info`; the variable `RUST_LOG` overrides it.
pub fn init(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(level));
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
