//! The operator's subcommands for administrators, and the audit, which repairs changes that others made at the provider.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::{
    fabric::LOAD_BALANCER,
    load_balancer,
    portico::NAMESPACE,
    scenario::{
        objects::{Workload, mk_service},
        traffic::By,
    },
};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{super::images, Fixture, Scenario, release};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("plan and status show what is, what would be and how to consent", |s| {
            Box::pin(subcommands(s))
        }),
        Scenario::new("a change at the provider that others made is found and repaired", |s| {
            Box::pin(repaired(s))
        }),
    ]
}

/// Standard output and the exit code of the operator's own binary, as the cluster's administrator.
async fn operator(fixture: &Fixture, args: &[&str]) -> anyhow::Result<(String, Option<i32>)> {
    let cluster = &fixture.shared.cluster;
    let ran = Command::new(cluster.tools().operator())
        .args(args)
        .env("KUBECONFIG", cluster.home().admin_kubeconfig())
        .output()
        .await
        .context("running portico-operator")?;
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    ensure!(err.is_empty(), "portico-operator {args:?} complains: {err}");
    Ok((out.into_owned(), ran.status.code()))
}

/// Standard output of the operator's program in the operator's pod, where it can take the settings of the one that runs.
async fn in_its_pod(fixture: &Fixture, args: &[&str]) -> anyhow::Result<String> {
    let cluster = &fixture.shared.cluster;
    // An image has it in its PATH, as the docs say.
    let program = match images() {
        Some(_) => release::OPERATOR.to_owned(),
        None => cluster.tools().operator().display().to_string(),
    };
    let operator = format!("deployment/{}", release::OPERATOR);
    let command = [&["-n", NAMESPACE, "exec", &operator, "--", &program], args].concat();
    cluster.kubectl(&command).await.with_context(|| format!("asking the operator in its pod: {args:?}"))
}

async fn plan(fixture: &Fixture, service: &str, output: &str) -> anyhow::Result<(String, Option<i32>)> {
    let endpoint = format!("--local-endpoint=http://{LOAD_BALANCER}:{}", load_balancer::PORT);
    let token = fixture.shared.cluster.home().path("lb").join("token");
    let token = format!("--local-token-file={}", token.display());
    let flags = ["plan", service, "-o", output, "--provider=local", "--default-class", &endpoint, &token];
    operator(fixture, &flags).await
}

async fn subcommands(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    let address = fixture.provisioned("web").await?;
    let name = format!("{}/web", fixture.namespace);
    // Targets that were not asked for their health at the first read are read again within 45 seconds.
    fixture
        .within(Duration::from_mins(1), "nothing to do, and said so", async || {
            let (text, code) = plan(fixture, &name, "text").await?;
            ensure!(code == Some(0) && text.contains("nothing to do, because"), "{code:?}: {text}");
            let (text, code) = operator(fixture, &["status", &name]).await?;
            ensure!(code == Some(0) && text.contains("as wanted"), "{code:?}: {text}");
            ensure!(text.contains(&address.ip().to_string()), "{text}");
            Ok(())
        })
        .await?;
    let text = in_its_pod(fixture, &["plan", &name, "--running"]).await?;
    ensure!(text.contains("nothing to do, because"), "{text}");
    let text = in_its_pod(fixture, &["status", "--namespace", &fixture.namespace]).await?;
    ensure!(text.lines().filter(|line| line.contains("/web")).count() == 1, "{text}");

    // Another address is another load balancer, which needs consent.
    let annotations = json!({"portico.dev/addresses": "172.30.10.250"});
    fixture.patch::<Service>("web", &json!({"metadata": {"annotations": annotations}})).await?;
    fixture
        .eventually("blocked, with the way to consent", async || {
            let (text, code) = plan(fixture, &name, "json").await?;
            ensure!(code == Some(3), "{code:?}: {text}");
            let plans: Value = serde_json::from_str(&text)?;
            let blocked = &plans[0]["plan"]["blocked"][0];
            ensure!(blocked["reason"] == "ReplacementRequired", "{plans}");
            ensure!(blocked["consent"] == "portico.dev/allow-replacement=true", "{plans}");
            let (text, code) = operator(fixture, &["status", &name]).await?;
            ensure!(code == Some(3) && text.contains("ReplacementRequired"), "{code:?}: {text}");
            Ok(())
        })
        .await
}

async fn repaired(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    let address = fixture.provisioned("web").await?;
    fixture.answered(&fixture.everybody(), By::Http, address).await?;
    fixture.shared.lb.deny_all_clients(fixture).await?;
    fixture
        .eventually("the audit to find it and put it right", async || {
            let found = fixture.shared.lb.of(fixture).await?;
            let ranges = found[0]["spec"]["source_ranges"].as_array().context("no source ranges")?;
            ensure!(ranges.is_empty(), "nobody is let in but {ranges:?}");
            let events = fixture.events("web").await?;
            let warned = events.iter().any(|event| event.starts_with("Warning") && event.contains("Drifted"));
            ensure!(warned, "no warning among {events:#?}");
            Ok(())
        })
        .await?;
    fixture.answered(&fixture.everybody(), By::Http, address).await?;
    Ok(())
}
