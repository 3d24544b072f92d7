//! The subcommands: `run`, the default, and three that read.
//!
//! Owns: parsing them, and their flags. Leaves to others: doing them (`run`, `cli`), the settings of a running operator (`running`).
//! Invariant: a command line of flags only means what it meant before there were subcommands.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args as Group, CommandFactory, Parser, Subcommand, ValueEnum};

use portico_runtime::log::LogFormat;

use super::running::{self, with_default};
use super::work::NodeArgs;
use super::{Args, ClassArgs, ProviderArgs, duration};
use crate::cache::service::ServiceKey;

/// Takes Services through their stages, and provisions their load balancers.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "portico-operator",
    version,
    after_help = "Without a subcommand, flags are those of `run`.\n\n\
    Exit codes of plan, gc and status: 0 nothing to do, 1 it failed, 2 wrong flags, 3 there is something to do."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program is asked to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the operator (the default)
    Run(Box<Args>),
    /// Print what would be done for each Service, by the live cluster and provider, and change nothing
    Plan(Box<PlanArgs>),
    /// List load balancers that no Service claims, or delete them
    Gc(Box<GcArgs>),
    /// Print a line for each Service with a load balancer, by its status alone
    Status(StatusArgs),
}

/// How a subcommand prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table for people, whose form may change.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Which Services and which provider: the flags of the operator that runs.
#[derive(Clone, Debug, Group)]
pub(crate) struct Reach {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    #[command(flatten)]
    pub(crate) classes: ClassArgs,
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
    #[command(flatten)]
    pub(crate) nodes: NodeArgs,
}

/// Where flags come from that are not given.
#[derive(Clone, Copy, Debug, Group)]
pub(crate) struct RunningArgs {
    /// Take the settings of the operator that is process 1 here, for those that are not given: in its container, by `kubectl exec`
    #[arg(long)]
    running: bool,
}

/// Flags of `plan`.
#[derive(Clone, Debug, Group)]
pub struct PlanArgs {
    /// Services, as namespace/name; none: all that are ours
    pub(crate) services: Vec<ServiceName>,
    /// Only Services of this namespace
    #[arg(long, conflicts_with = "services")]
    pub(crate) namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Flags of `gc`.
#[derive(Clone, Debug, Group)]
pub struct GcArgs {
    /// List what would be deleted, and delete nothing (the default)
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// Delete what is unclaimed now and still is after --orphan-grace, however much that is
    #[arg(long)]
    pub(crate) yes: bool,
    /// How long a load balancer may be claimed by no Service before it is deleted
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub(crate) orphan_grace: Duration,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Flags of `status`.
#[derive(Clone, Debug, Group)]
pub struct StatusArgs {
    /// Services, as namespace/name; none: all with a load balancer of Portico's, or that ask for one
    pub(crate) services: Vec<ServiceName>,
    /// Only Services of this namespace
    #[arg(long, conflicts_with = "services")]
    pub(crate) namespace: Option<String>,
    /// Classes of Portico's operators that do not begin with portico.dev/: their --load-balancer-class
    #[arg(long = "load-balancer-class", value_name = "CLASS", value_delimiter = ',')]
    pub(crate) classes: Vec<String>,
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// `namespace/name` on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceName(pub(crate) ServiceKey);

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self(ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() }))
            }
            _ => Err(format!("{text:?} is no namespace/name such as default/web")),
        }
    }
}

impl Command {
    /// Reads the command line of this process; ends it, with usage, where it is wrong.
    pub fn parse() -> Self {
        let arguments = with_default(std::env::args_os().collect());
        let complete = running::complete(&Cli::command(), arguments, running::first_process);
        let Cli { command } = complete.and_then(Cli::try_parse_from).unwrap_or_else(|error| error.exit());
        command
    }

    /// How log lines look: subcommands that print say only what went wrong.
    pub fn log(&self) -> (LogFormat, String) {
        match self {
            Self::Run(args) => (args.process.logs.log_format, args.process.logs.filter()),
            // It waits for minutes, and says for what.
            Self::Gc(_) => (LogFormat::Human, "error,portico_operator::cli=info".to_owned()),
            Self::Plan(_) | Self::Status(_) => (LogFormat::Human, "error".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        let arguments = line.split_whitespace().map(OsString::from).collect();
        Cli::try_parse_from(with_default(arguments)).map(|cli| cli.command)
    }

    #[test]
    fn flags_alone_run_the_operator_and_subcommands_have_their_own() {
        Cli::command().debug_assert();
        assert!(matches!(parsed("portico-operator --provider bare-metal"), Ok(Command::Run(_))));
        assert!(matches!(parsed("portico-operator run --provider bare-metal"), Ok(Command::Run(_))));
        let Ok(Command::Plan(plan)) = parsed("portico-operator plan a/b c/d -o json --provider bare-metal")
        else {
            panic!("no plan")
        };
        assert_eq!((plan.services.len(), plan.output), (2, Output::Json));
        assert!(matches!(parsed("portico-operator status default/web"), Ok(Command::Status(_))));
        let error = parsed("portico-operator plan web --provider bare-metal").unwrap_err().to_string();
        assert!(error.contains("namespace/name such as default/web"), "{error}");
        let help = parsed("portico-operator --help").unwrap_err().to_string();
        assert!(help.contains("plan") && help.contains("Exit codes"), "{help}");
    }

    /// The command line with the settings of an operator that runs with these flags.
    fn beside(running: &'static str, line: &str) -> Result<Command, clap::Error> {
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let arguments = running::complete(&Cli::command(), words(line), || Ok(words(running)))?;
        Cli::try_parse_from(arguments).map(|cli| cli.command)
    }

    #[test]
    fn a_subcommand_takes_the_settings_of_the_running_operator_and_what_is_given_wins() {
        const RUNNING: &str = "/usr/local/bin/portico-operator --provider=local --local-endpoint=http://10.0.0.1:9440 \
            --local-token-file /token --default-class --load-balancer-class=a/b,c/d --lease-name=x --orphan-grace=7m \
            --unready-grace=1m --admin-address=[::]:8080";
        let Ok(Command::Plan(plan)) = beside(RUNNING, "portico-operator plan --running web/a -o json") else {
            panic!("no plan")
        };
        assert_eq!((plan.services.len(), plan.output), (1, Output::Json));
        let Reach { running: _, classes, provider, nodes: _ } = plan.reach;
        assert_eq!(provider.local.token_file.as_deref(), Some(std::path::Path::new("/token")));
        let rule = classes.rule(provider.provider).unwrap();
        assert!(rule.default);
        assert_eq!(rule.all().collect::<Vec<_>>(), ["a/b", "c/d"]);
        let grace = |line: &str| match beside(RUNNING, line) {
            Ok(Command::Gc(args)) => args.orphan_grace,
            other => panic!("{other:?}"),
        };
        assert_eq!(grace("portico-operator gc --running"), Duration::from_mins(7));
        assert_eq!(grace("portico-operator gc --running --orphan-grace 0s"), Duration::ZERO);
        let Ok(Command::Status(status)) = beside(RUNNING, "portico-operator status --running") else {
            panic!("no status")
        };
        assert_eq!(status.classes, ["a/b", "c/d"]);
        let alone = beside("sleep 1000", "portico-operator plan --running").unwrap_err().to_string();
        assert!(alone.contains("--running") && alone.contains("process 1"), "{alone}");
        assert!(beside("never read", "portico-operator plan --provider bare-metal").is_ok());
    }

    #[test]
    fn gc_deletes_only_with_yes() {
        let gc = |flags: &str| parsed(&format!("portico-operator gc --provider bare-metal {flags}"));
        let deletes = |flags: &str| match gc(flags) {
            Ok(Command::Gc(args)) => Some(args.yes),
            _ => None,
        };
        assert_eq!([deletes(""), deletes("--dry-run")], [Some(false); 2]);
        assert_eq!(deletes("--yes --orphan-grace 0s"), Some(true));
        assert_eq!(deletes("--dry-run --yes"), None, "which of them is meant?");
        assert_eq!(deletes("--yes --orphan-limit 3"), None, "a limit that would not hold is no flag");
    }
}
