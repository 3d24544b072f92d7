//! `--running`: the settings of the operator that is process 1, as if they had been given.
//!
//! Owns: reading its command line, which of its flags a subcommand takes, and that flags alone mean `run`. Leaves to others: what the flags mean.
//! Invariant: a flag that is given wins; a flag that the subcommand does not have is left out.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Error};

/// The flag that asks for it.
const FLAG: &str = "running";

/// The command line of process 1 of this container.
pub(super) fn first_process() -> std::io::Result<Vec<OsString>> {
    let line = std::fs::read("/proc/1/cmdline")?;
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    Ok(line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect())
}

/// `arguments`, completed by those of the operator that runs as `running`, where a subcommand asks for it.
pub(super) fn complete(
    cli: &Command,
    mut arguments: Vec<OsString>,
    running: impl FnOnce() -> std::io::Result<Vec<OsString>>,
) -> Result<Vec<OsString>, Error> {
    let subcommand = arguments.get(1).and_then(|name| cli.find_subcommand(name));
    let Some(subcommand) = subcommand.filter(|_| is_given(&arguments, FLAG)) else { return Ok(arguments) };
    let refused =
        |why: String| cli.clone().error(ErrorKind::Io, format!("--running: process 1 is no operator: {why}"));
    let running = running().map_err(|error| refused(error.to_string()))?;
    let matches = cli.clone().try_get_matches_from(with_default(running));
    let matches = matches.map_err(|error| refused(error.kind().to_string()))?;
    let Some(("run", settings)) = matches.subcommand() else {
        return Err(refused("it does not run one".into()));
    };
    let run = cli.find_subcommand("run").map(Command::get_arguments);
    for flag in run.into_iter().flatten() {
        let Some(name) = flag.get_long() else { continue };
        let takes = subcommand.get_arguments().any(|other| other.get_long() == Some(name));
        if takes && !is_given(&arguments, name) {
            arguments.extend(given(flag, name, settings));
        }
    }
    Ok(arguments)
}

/// Whether a flag is on a command line.
fn is_given(arguments: &[OsString], name: &str) -> bool {
    arguments
        .iter()
        .filter_map(|word| word.as_bytes().strip_prefix(b"--")?.strip_prefix(name.as_bytes()))
        .any(|rest| rest.is_empty() || rest.starts_with(b"="))
}

/// A flag as the running operator has it on its command line; its environment is this process's, too.
fn given(flag: &Arg, name: &str, settings: &ArgMatches) -> Vec<OsString> {
    let id = flag.get_id().as_str();
    if settings.value_source(id) != Some(ValueSource::CommandLine) {
        return Vec::new();
    }
    if matches!(flag.get_action(), ArgAction::SetTrue) {
        return vec![format!("--{name}").into()];
    }
    let word = |value: &OsStr| {
        let mut word = OsString::from(format!("--{name}="));
        word.push(value);
        word
    };
    settings.get_raw(id).into_iter().flatten().map(word).collect()
}

/// Puts `run` where no subcommand is named.
pub(super) fn with_default(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let first = arguments.get(1).map(|first| first.to_string_lossy().into_owned());
    let flags_only =
        first.is_some_and(|it| it.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&&*it));
    if flags_only {
        arguments.insert(1, "run".into());
    }
    arguments
}
