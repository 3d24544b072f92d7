//! Evidence of a failed scenario, written before its namespace is deleted: the cluster's dump, and the state of the
//! suite's other parts. The essence is part of the failure, the whole is in a file.

use std::{fmt::Write as _, fs};

use super::{Setup, fixture::Fixture};

/// Gathers the evidence; gives the essence and the file's path. A part that cannot be read is replaced by its error.
pub(super) async fn gather<S: Setup>(fixture: &Fixture<S>, scenario: &str) -> String {
    let cluster = &fixture.shared.cluster;
    let ours = fixture.namespace.as_str();
    let mut essence = String::new();
    for args in [
        vec!["-n", ours, "get", "services,endpointslices,pods", "-o", "wide"],
        vec!["-n", ours, "get", "events", "--sort-by=.metadata.creationTimestamp"],
    ] {
        add(&mut essence, &format!("kubectl {}", args.join(" ")), cluster.kubectl(&args).await);
    }
    let mut whole = cluster.dump(ours).await;
    for (heading, text) in fixture.shared.evidence().await {
        add(&mut whole, &heading, text);
    }
    essence.push_str(&keep(fixture, scenario, &whole));
    essence
}

fn add(text: &mut String, heading: &str, part: anyhow::Result<String>) {
    let part = part.unwrap_or_else(|error| format!("({error:#})"));
    let _always_fits = write!(text, "--- {heading}\n{}\n", part.trim_end());
}

fn keep<S: Setup>(fixture: &Fixture<S>, scenario: &str, whole: &str) -> String {
    let dir = fixture.shared.cluster.home().path("evidence");
    let path = dir.join(format!("{}.txt", fixture.namespace));
    let written = fs::create_dir_all(&dir).and_then(|()| fs::write(&path, format!("{scenario}\n{whole}")));
    match written {
        Ok(()) => format!("--- all evidence: {}", path.display()),
        Err(error) => format!("--- evidence cannot be written to {}: {error}", path.display()),
    }
}
