//! What is written down when a scenario fails, before its namespace goes: the library's dump, and the last calls of both
//! clouds. The essence is part of the failure, the whole is in a file.

use std::{fmt::Write as _, fs};

use super::{scene::Scene, site::Cloud};

/// Calls of each cloud that are kept.
const CALLS: usize = 400;

/// Gathers it; gives the essence and the file's path. Whatever cannot be had is told in its place.
pub(crate) async fn gather(scene: &Scene, scenario: &str) -> String {
    let cluster = &scene.stage.cluster;
    let ours = scene.namespace.as_str();
    let mut essence = String::new();
    for args in [
        ["-n", ours, "get", "services,pods", "-o", "wide"],
        ["-n", ours, "get", "events", "--sort-by=.metadata.creationTimestamp", "--no-headers"],
    ] {
        let said = cluster.kubectl(&args).await.unwrap_or_else(|error| format!("({error:#})"));
        add(&mut essence, &format!("kubectl {}", args.join(" ")), &said);
    }
    let mut whole = cluster.dump(ours).await;
    for cloud in Cloud::BOTH {
        let log = scene.stage.sites.proxy(cloud).log();
        let last = log.iter().skip(log.len().saturating_sub(CALLS));
        let lines = last.map(|call| {
            let (number, at, kind) = (call.number, call.at.as_secs_f32(), &call.kind);
            let (service, fate) = (call.service.as_deref().unwrap_or("-"), call.fate);
            format!("{number} {at:.1}s {kind} {service} {fate:?} {:?}\n", call.status)
        });
        add(&mut whole, &format!("the last calls of {cloud:?}"), &lines.collect::<String>());
    }
    essence.push_str(&keep(scene, scenario, &whole));
    essence
}

fn add(text: &mut String, heading: &str, said: &str) {
    let _always_fits = write!(text, "--- {heading}\n{}\n", said.trim_end());
}

fn keep(scene: &Scene, scenario: &str, whole: &str) -> String {
    let dir = scene.stage.cluster.home().path("evidence");
    let path = dir.join(format!("{}.txt", scene.namespace));
    let written = fs::create_dir_all(&dir).and_then(|()| fs::write(&path, format!("{scenario}\n{whole}")));
    match written {
        Ok(()) => format!("--- all evidence: {}", path.display()),
        Err(error) => format!("--- evidence cannot be written to {}: {error}", path.display()),
    }
}
