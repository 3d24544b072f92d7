//! The subcommands: a question from the command line, an answer on standard output.
//!
//! Owns the source of the answer (socket or dump) and its output. Leaves exit codes to `main`: an answer that
//! the kernel disagrees with is printed, and is no success.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, bail, ensure};

use super::{Answer, Question, dump::Dump, socket};
use crate::args::command::{AskArgs, Command, Output};

/// Result of the comparison with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The kernel agrees, or the question did not include it.
    Agrees,
    /// The kernel differs.
    Differs,
}

/// Runs one subcommand and prints its answer.
pub async fn run(command: Command) -> anyhow::Result<Agreement> {
    let (question, ask) = match command {
        Command::Trace { from, to, in_interface: interface, kernel, ask } => {
            (Question::Trace { from: from.0, to: to.0, interface, kernel }, ask)
        }
        Command::Explain { service, kernel, ask } => (Question::Explain { service: service.0, kernel }, ask),
        Command::Dump { admin_socket } => {
            let source = AskArgs { admin_socket, ..AskArgs::default() };
            let answer = answer(&Question::Dump, &source).await?;
            print(&answer, Output::Json)?;
            return Ok(Agreement::Agrees);
        }
    };
    let answer = answer(&question, &ask).await?;
    print(&answer, ask.output)?;
    Ok(if answer.agrees() { Agreement::Agrees } else { Agreement::Differs })
}

async fn answer(question: &Question, ask: &AskArgs) -> anyhow::Result<Answer> {
    let AskArgs { node, dump, admin_socket, output: _ } = ask;
    if dump.is_empty() {
        let answer = socket::ask(admin_socket, question).await?;
        if let (Some(wanted), Some(found)) = (node, answer.node()) {
            ensure!(
                wanted == found,
                "the node proxy here is that of node {found}: ask on node {wanted}, or give a dump of its proxy with --dump"
            );
        }
        return Ok(answer);
    }
    let dump = choose(dump, node.as_deref())?;
    Ok(dump.answer(question)?)
}

fn choose(paths: &[PathBuf], node: Option<&str>) -> anyhow::Result<Dump> {
    let mut nodes = Vec::new();
    let mut chosen = None;
    for path in paths {
        let text = std::fs::read(path).with_context(|| format!("cannot read --dump {}", path.display()))?;
        let dump = Dump::parse(&text).with_context(|| format!("cannot use --dump {}", path.display()))?;
        nodes.push(dump.node().to_owned());
        if node.is_none_or(|node| node == dump.node()) {
            if chosen.is_some() {
                bail!("several of the dumps could answer (nodes {}); choose with --node", nodes.join(", "));
            }
            chosen = Some(dump);
        }
    }
    chosen.with_context(|| {
        format!("none of the dumps is of node {}: they are of {}", node.unwrap_or_default(), nodes.join(", "))
    })
}

impl Answer {
    fn node(&self) -> Option<&str> {
        match self {
            Self::Trace(trace) => Some(&trace.node),
            Self::Explain(explanation) => Some(&explanation.node),
            Self::Dump(dump) => Some(dump.node()),
            Self::Error(_) => None,
        }
    }
}

fn print(answer: &Answer, output: Output) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let printed = match output {
        Output::Json => json(answer).and_then(|json| Ok(writeln!(out, "{json}")?)),
        Output::Text => match answer {
            Answer::Trace(trace) => write!(out, "{trace}").map_err(Into::into),
            Answer::Explain(explanation) => write!(out, "{explanation}").map_err(Into::into),
            Answer::Dump(_) => json(answer).and_then(|json| Ok(writeln!(out, "{json}")?)),
            Answer::Error(error) => bail!("{error}"),
        },
    };
    printed.and_then(|()| Ok(out.flush()?)).context("cannot write to standard output")
}

/// The answer itself, without the name of its kind.
fn json(answer: &Answer) -> anyhow::Result<String> {
    Ok(match answer {
        Answer::Trace(trace) => serde_json::to_string_pretty(trace)?,
        Answer::Explain(explanation) => serde_json::to_string_pretty(explanation)?,
        Answer::Dump(dump) => serde_json::to_string(dump)?,
        Answer::Error(error) => bail!("{error}"),
    })
}
