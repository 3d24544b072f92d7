//! The state after the whole suite: rulesets that people and programs can list, no load balancer without an owner, no
//! namespace that stays, and logs without unexplained errors.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{Fixture, Scenario, nft, release};

/// Errors that scenarios cause on purpose, and what they must say: an operator that hung longer than its lease ends.
const EXPLAINED: [&str; 1] = ["the lease could not be renewed"];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::exclusive("at the end every namespace went and no load balancer is left", |s| {
            Box::pin(all_released(s))
        }),
        Scenario::exclusive("at the end every node's ruleset lists as text and as JSON", |s| {
            Box::pin(lists(s))
        }),
        Scenario::exclusive("at the end the logs hold no errors", |s| Box::pin(std::future::ready(logs(s)))),
    ]
}

async fn all_released(fixture: &Fixture) -> anyhow::Result<()> {
    let leftovers = fixture.shared.leftovers().await;
    ensure!(leftovers.is_empty(), "namespaces that stay:\n{}", leftovers.join("\n"));
    let balancers = fixture.shared.lb.list().await?;
    ensure!(balancers.is_empty(), "load balancers that nobody owns: {balancers:#?}");
    release::all_ready(&fixture.shared.cluster).await
}

async fn lists(fixture: &Fixture) -> anyhow::Result<()> {
    for node in fixture.shared.node_names() {
        let text = nft::run(&node, &["list", "ruleset"]).await?;
        ensure!(text.contains("table ip portico"), "{node} has no table of ours:\n{text}");
        let json = nft::run(&node, &["--json", "list", "ruleset"]).await?;
        let listed: Value = serde_json::from_str(&json).with_context(|| format!("nft's JSON on {node}"))?;
        ensure!(
            listed["nftables"].as_array().is_some_and(|all| all.len() > 10),
            "hardly a rule on {node}: {json}"
        );
    }
    Ok(())
}

fn logs(fixture: &Fixture) -> anyhow::Result<()> {
    let mut errors = Vec::new();
    let mut read = 0;
    for file in log_files(fixture.shared.cluster.home().dir())? {
        let name = file.display().to_string();
        if !["/operator/", "/nodeproxy/", "/portico-lb.log"].iter().any(|part| name.contains(part)) {
            continue;
        }
        read += 1;
        let text = fs::read(&file).with_context(|| format!("reading {name}"))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let bad = |line: &&str| {
            let is_error = line.contains("ERROR") || line.contains("panicked at");
            is_error && !EXPLAINED.iter().any(|words| line.contains(words))
        };
        errors.extend(text.lines().filter(bad).map(|line| format!("{name}: {line}")));
    }
    ensure!(
        read >= 4,
        "only {read} logs of Portico found: two operators, two node proxies and portico-lb have run"
    );
    ensure!(errors.is_empty(), "{} errors in {read} logs:\n{}", errors.len(), errors.join("\n"));
    Ok(())
}

/// All log files under a folder.
fn log_files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries.filter_map(Result::ok) {
            let kind = entry.file_type().context("the kind of a file")?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.path().extension().is_some_and(|extension| extension == "log") {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}
