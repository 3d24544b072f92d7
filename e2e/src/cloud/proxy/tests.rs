//! The proxy against a tiny upstream that counts, on loopback.
//!
//! Owns: what a caller sees of each fault, and what the upstream sees of it. Leaves to others: which call meets which
//! fault (`faults`).

use std::sync::atomic::{AtomicU64, Ordering};

use axum::{Router, extract::State as Extract, routing::any};

use super::*;
use crate::cloud::{Limits, free_address};

const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/elasticloadbalancing/aws4_request";

/// An upstream that answers how often it was asked.
struct Stage {
    proxy: FaultProxy,
    asked: Arc<AtomicU64>,
    client: reqwest::Client,
    upstream: JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.upstream.abort();
    }
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let asked = Arc::new(AtomicU64::new(0));
        let counting = |Extract(asked): Extract<Arc<AtomicU64>>| async move {
            format!("<n>{}</n>", asked.fetch_add(1, Ordering::SeqCst) + 1)
        };
        let router = Router::new().fallback(any(counting)).with_state(Arc::clone(&asked));
        let listener = TcpListener::bind(free_address()?).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let upstream = tokio::spawn(async move { axum::serve(listener, router).await.unwrap_or_default() });
        let proxy = FaultProxy::start(free_address()?, &url, 1).await?;
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
        Ok(Self { proxy, asked, client, upstream })
    }

    async fn call(&self, form: &'static str) -> reqwest::Result<(u16, String)> {
        let request = self.client.post(self.proxy.url()).header("authorization", SIGNED).body(form);
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

const READ: &str = "Action=DescribeTags";
const WRITE: &str = "Action=DeleteListener";

#[tokio::test]
async fn without_faults_a_call_goes_through_and_is_counted_by_kind_and_service() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let made = "Action=CreateListener&Tags.member.1.Key=portico.dev/service&Tags.member.1.Value=a/b";
    assert_eq!(stage.call(made).await?, (200, "<n>1</n>".to_owned()));
    stage.call(READ).await?;
    let counts = stage.proxy.take_counts();
    assert_eq!((counts.of(Effect::Read), counts.of(Effect::Write)), (1, 1));
    assert_eq!(counts.services[&Some("a/b".to_owned())].calls, 1);
    assert_eq!(stage.proxy.counts().calls(), 0, "taken");
    let log = stage.proxy.log();
    assert_eq!((log[0].kind.to_string().as_str(), log[0].status), ("elb:CreateListener", Some(200)));
    Ok(())
}

#[tokio::test]
async fn an_error_never_reaches_the_cloud() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    stage.proxy.set(Faults { errors: 1_000, ..Faults::none() });
    let (status, text) = stage.call(WRITE).await?;
    assert!(status == 500 && text.contains("<Code>InternalFailure</Code>"), "{status} {text}");
    assert_eq!(stage.asked(), 0);
    Ok(())
}

#[tokio::test]
async fn a_dropped_connection_gives_no_answer_before_or_after_the_effect() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    stage.proxy.set(Faults { drops_before: 1_000, ..Faults::none() });
    assert!(stage.call(WRITE).await.is_err());
    assert_eq!(stage.asked(), 0);
    stage.proxy.set(Faults { drops_after: 1_000, ..Faults::none() });
    assert!(stage.call(WRITE).await.is_err());
    assert_eq!(stage.asked(), 1);
    let counts = stage.proxy.counts();
    assert_eq!((counts.met(Fate::DroppedBefore), counts.met(Fate::DroppedAfter)), (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_stale_read_is_an_earlier_answer_and_the_first_read_is_fresh() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    stage.proxy.set(Faults { stale: 1_000, stale_ms: 600_000, ..Faults::none() });
    assert_eq!(stage.call(READ).await?.1, "<n>1</n>");
    assert_eq!(stage.call(WRITE).await?.1, "<n>2</n>");
    assert_eq!(stage.call(READ).await?.1, "<n>1</n>", "as before the write");
    assert_eq!(stage.call("Action=DescribeTags&Other=1").await?.1, "<n>3</n>", "another read");
    stage.proxy.set(Faults { stale: 1_000, stale_ms: 0, ..Faults::none() });
    assert_eq!(stage.call(READ).await?.1, "<n>4</n>", "too old to be told");
    assert_eq!(stage.proxy.counts().met(Fate::Stale), 1, "only what was stale is counted as such");
    Ok(())
}

#[tokio::test]
async fn a_throttled_call_is_refused_in_the_words_of_its_api() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let mut limits = Limits::documented();
    limits.elb_reads = crate::cloud::faults::Rate { burst: 1.0, per_second: 0.0 };
    stage.proxy.set(Faults { throttle: Some(limits), ..Faults::none() });
    assert_eq!(stage.call(READ).await?.0, 200);
    let (status, text) = stage.call(READ).await?;
    assert!(status == 400 && text.contains("<Code>Throttling</Code>"), "{status} {text}");
    assert_eq!(stage.call(WRITE).await?.0, 200, "writes have a bucket of their own");
    let compute = format!("{}/compute/v1/projects/p/global/firewalls", stage.proxy.url());
    limits.compute_reads = crate::cloud::faults::Rate { burst: 0.0, per_second: 0.0 };
    stage.proxy.set(Faults { throttle: Some(limits), ..Faults::none() });
    let refused = stage.client.get(compute).send().await?;
    assert_eq!(refused.status().as_u16(), 403);
    assert!(refused.text().await?.contains("rateLimitExceeded"));
    Ok(())
}

#[tokio::test]
async fn a_trap_holds_the_chosen_write_and_its_caller_never_hears() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    for (moment, asked) in [(Moment::Before, 1), (Moment::After, 3)] {
        let mut trap = stage.proxy.trap(2, moment);
        assert_eq!(stage.call(WRITE).await?.0, 200, "the first write passes");
        let held = stage.call(WRITE);
        tokio::pin!(held);
        tokio::select! {
            () = trap.sprung() => {}
            answer = &mut held => panic!("{answer:?}"),
        }
        assert_eq!(stage.asked(), asked, "{moment:?}");
        drop(trap);
        assert!(held.await.is_err(), "{moment:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_control_endpoint_switches_faults_and_shows_counts() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let url = |path: &str| format!("{}/_faults/{path}", stage.proxy.url());
    let set = stage.client.put(url("faults")).body(r#"{"errors": 1000}"#).send().await?;
    assert_eq!(set.status().as_u16(), 200);
    assert_eq!(stage.call(READ).await?.0, 500);
    let counts: serde_json::Value = stage.client.get(url("counts")).send().await?.json().await?;
    assert_eq!(counts["calls"]["elb:DescribeTags"]["fates"]["failed"], 1);
    let wrong = stage.client.put(url("faults")).body(r#"{"error": 1}"#).send().await?;
    assert_eq!(wrong.status().as_u16(), 400, "a switch that there is not");
    Ok(())
}
