//! Command lines that are valid, and those that are refused.

use super::*;

fn parsed(flags: &[&str]) -> Result<Args, clap::Error> {
    Args::try_parse_from(["run"].iter().chain(flags))
}

#[test]
fn the_class_follows_the_provider_unless_it_is_given() {
    let rule = |flags: &[&str]| {
        let Args { classes, provider, .. } = parsed(flags).unwrap();
        classes.rule(provider.provider).unwrap()
    };
    let plain = rule(&["--provider", "bare-metal"]);
    assert_eq!(plain, ClassRule::one("portico.dev/bare-metal", false));
    let given = rule(&["--provider=bare-metal", "--load-balancer-class=a/b", "--default-class"]);
    assert_eq!(given, ClassRule::one("a/b", true));
    let several = ["--load-balancer-class=a/b,c/d", "--load-balancer-class=e/f", "--load-balancer-class=a/b"];
    let given = rule(&[&["--provider=bare-metal"], several.as_slice()].concat());
    assert_eq!(given.all().collect::<Vec<_>>(), ["a/b", "c/d", "e/f"]);
    let Args { classes, provider, .. } =
        parsed(&["--provider=bare-metal", "--load-balancer-class=a/b,"]).unwrap();
    assert!(classes.rule(provider.provider).is_err(), "an empty one is a slip");
}

#[test]
fn the_local_provider_names_what_it_is_missing() {
    let error = parsed(&["--provider", "local"]).unwrap_err().to_string();
    assert!(error.contains("--local-endpoint") && error.contains("--local-token-file"), "{error}");
}

#[test]
fn the_aws_provider_names_what_it_is_missing() {
    let error = parsed(&["--provider", "aws"]).unwrap_err().to_string();
    assert!(error.contains("--aws-vpc-id"), "{error}");
    let flags = ["--provider=aws", "--aws-region=eu-west-1", "--aws-vpc-id=vpc-1"];
    let Args { classes, provider, .. } = parsed(&flags).unwrap();
    assert_eq!(classes.rule(provider.provider).unwrap().class, "portico.dev/aws-nlb");
}

#[test]
fn a_quota_that_aws_does_not_have_is_refused_with_those_that_it_has() {
    let flags = |quota: &str| {
        parsed(&["--provider=aws", "--aws-region=r", "--aws-vpc-id=vpc-1", "--aws-quota", quota])
    };
    assert_eq!(flags("targets-per-zone=900").unwrap().provider.aws.quotas.len(), 1);
    let error = flags("targets=900").unwrap_err().to_string();
    assert!(error.contains("targets-per-zone"), "{error}");
}

#[test]
fn the_gce_provider_names_what_it_is_missing() {
    let error = parsed(&["--provider", "gce"]).unwrap_err().to_string();
    assert!(error.contains("--gce-project") && error.contains("--gce-region"), "{error}");
    assert!(parsed(&["--provider=gce", "--gce-project=p", "--gce-region=r"]).is_ok());
}

#[test]
fn an_api_rate_is_a_sensible_number_or_refused_with_the_range() {
    let rate = |text: &str| parsed(&["--provider=bare-metal", "--api-rate", text]);
    assert_eq!(rate("0.5").unwrap().provider.api_rate, portico_limits::Pace::new(0.5).unwrap());
    for wrong in ["0", "fast", "NaN", "5000"] {
        let error = rate(wrong).unwrap_err().to_string();
        assert!(error.contains("0.01 to 1000"), "{error}");
    }
}

#[test]
fn an_election_needs_a_name_and_sane_timings() {
    let election = |flags: &[&str]| {
        let flags = [&["--provider=bare-metal"], flags].concat();
        parsed(&flags).unwrap().election.election()
    };
    assert_eq!(election(&["--leader-elect=false"]), Ok(None));
    assert!(election(&["--identity=a"]).unwrap().is_some());
    assert_eq!(election(&["--identity="]), Err(ArgsError::NoIdentity));
    let wrong = election(&["--identity=a", "--lease-duration=5s"]);
    assert!(matches!(wrong, Err(ArgsError::LeaseTimings { .. })), "{wrong:?}");
}

#[test]
fn durations_are_read_with_their_units_and_refused_without() {
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
    assert!(duration("10").is_err() && duration("-5s").is_err());
}
