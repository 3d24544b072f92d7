//! Requests to a cloud's API: the kind of call, whether it changes anything, and the words in it.
//!
//! Owns: reading AWS's Query protocol (ELB, EC2), AWS's JSON protocol (tagging) and Compute Engine's REST. Leaves to others:
//! what follows from it. Pure. Invariant: every request is some call, a strange one too, so that none goes uncounted.

use std::fmt;

use axum::http::{HeaderMap, Method, Uri};
use reqwest::Url;
use serde::Serialize;
use serde_json::Value;

/// Which API is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// Elastic Load Balancing, version 2.
    Elb,
    /// Elastic Compute Cloud.
    Ec2,
    /// Resource Groups Tagging.
    Tagging,
    /// Google's Compute Engine.
    Compute,
    /// Something else of AWS, or nothing known.
    Other,
}

/// Whether a call changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The call changes nothing.
    Read,
    /// The call may change something.
    Write,
}

/// A kind of call: `elb:DescribeLoadBalancers`, `compute:forwardingRules.insert`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// Of which API.
    pub api: Api,
    /// The API's name for it.
    pub name: String,
    /// Whether it changes anything.
    pub effect: Effect,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api, name, effect: _ } = self;
        let api = match api {
            Api::Elb => "elb",
            Api::Ec2 => "ec2",
            Api::Tagging => "tag",
            Api::Compute => "compute",
            Api::Other => "other",
        };
        write!(f, "{api}:{name}")
    }
}

/// A request, as far as anybody here understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Kind of call.
    pub kind: Kind,
    /// Scope of the rate limit: AWS's account and region, Google's project.
    pub scope: String,
    /// Names and values in it, in order.
    pub words: Vec<(String, String)>,
    /// All of it that decides the answer: what two equal reads share.
    pub text: String,
}

impl Call {
    /// Reads a request.
    pub fn read(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Self {
        let text = format!("{method} {uri} {}", String::from_utf8_lossy(body));
        if uri.path().contains("/compute/") {
            return compute(method, uri, body, text);
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scope, service) = credential(header("authorization"));
        let target = header("x-amz-target");
        let (api, name, words) = match (target.rsplit_once('.'), service.as_str()) {
            (Some((api, name)), _) => {
                let api = if api.starts_with("ResourceGroupsTagging") { Api::Tagging } else { Api::Other };
                (api, name.to_owned(), json_words(body))
            }
            (None, service) => {
                let api = match service {
                    "elasticloadbalancing" => Api::Elb,
                    "ec2" => Api::Ec2,
                    _ => Api::Other,
                };
                let words = form_words(&String::from_utf8_lossy(body));
                let action = words.iter().find(|(name, _)| name == "Action");
                let name =
                    action.map_or_else(|| format!("{method} {}", uri.path()), |(_, name)| name.clone());
                (api, name, words)
            }
        };
        let reads = ["Describe", "Get", "List"].iter().any(|verb| name.starts_with(verb));
        let effect = if reads { Effect::Read } else { Effect::Write };
        Self { kind: Kind { api, name, effect }, scope, words, text }
    }

    /// The value of a word of this name.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.words.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Account and region, and the service, of `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, …`.
fn credential(authorization: &str) -> (String, String) {
    let credential = authorization.split("Credential=").nth(1).unwrap_or_default();
    let mut parts = credential.split(['/', ',']);
    let (key, _date) = (parts.next().unwrap_or_default(), parts.next());
    let (region, service) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    (format!("{key}/{region}"), service.to_owned())
}

/// `projects/P/regions/R/forwardingRules[/NAME[/verb]]`, also `global/…`, `zones/Z/…`, `aggregated/…`.
fn compute(method: &Method, uri: &Uri, body: &[u8], text: String) -> Call {
    let path = uri.path().split("/projects/").nth(1).unwrap_or_default();
    let mut parts = path.split('/');
    let project = parts.next().unwrap_or_default().to_owned();
    let scope = parts.next().unwrap_or_default();
    if matches!(scope, "regions" | "zones") {
        parts.next();
    }
    let collection = parts.next().unwrap_or(scope);
    let (name, verb) = (parts.next(), parts.next());
    let verb = match (method.as_str(), name, verb) {
        (_, _, Some(verb)) => verb,
        ("GET", _, _) if scope == "aggregated" => "aggregatedList",
        ("GET", None, _) => "list",
        ("GET", Some(_), _) => "get",
        ("POST", _, _) => "insert",
        ("PATCH", _, _) => "patch",
        ("PUT", _, _) => "update",
        ("DELETE", _, _) => "delete",
        _ => "call",
    };
    let reads =
        ["get", "list", "aggregatedList", "listNetworkEndpoints", "getHealth", "wait"].contains(&verb);
    let effect = if reads { Effect::Read } else { Effect::Write };
    let mut words = form_words(uri.query().unwrap_or_default());
    words.extend(path.split('/').map(|part| ("path".to_owned(), part.to_owned())));
    words.extend(json_words(body));
    let kind = Kind { api: Api::Compute, name: format!("{collection}.{verb}"), effect };
    Call { kind, scope: project, words, text }
}

fn form_words(form: &str) -> Vec<(String, String)> {
    let url = Url::parse(&format!("http://localhost/?{form}"));
    url.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default()
}

fn json_words(body: &[u8]) -> Vec<(String, String)> {
    let mut words = Vec::new();
    if let Ok(value) = serde_json::from_slice(body) {
        collect("", &value, &mut words);
    }
    words
}

fn collect(name: &str, value: &Value, words: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => words.push((name.to_owned(), text.clone())),
        Value::Array(items) => items.iter().for_each(|item| collect(name, item, words)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| collect(name, value, words)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, uri: &str, headers: &[(&'static str, &str)], body: &str) -> Call {
        let headers = headers.iter().map(|(name, value)| {
            (axum::http::HeaderName::from_static(name), value.parse().expect("a header"))
        });
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        Call::read(&method, &uri.parse().expect("a URI"), &headers.collect(), body.as_bytes())
    }

    const SIGNED: (&str, &str) = (
        "authorization",
        "AWS4-HMAC-SHA256 Credential=AK/20261123/eu-west-1/elasticloadbalancing/aws4_request, SignedHeaders=host",
    );

    #[test]
    fn a_query_is_named_by_its_action_and_the_signatures_service() {
        let made = call("POST", "/", &[SIGNED], "Action=CreateListener&Port=80&Tags.member.1.Key=a%2Fb");
        assert_eq!(made.kind.to_string(), "elb:CreateListener");
        assert_eq!((made.kind.effect, made.scope.as_str()), (Effect::Write, "AK/eu-west-1"));
        assert_eq!(made.word("Tags.member.1.Key"), Some("a/b"));
        assert_eq!(call("POST", "/", &[SIGNED], "Action=DescribeTags").kind.effect, Effect::Read);
    }

    #[test]
    fn a_json_call_is_named_by_its_target() {
        let target = ("x-amz-target", "ResourceGroupsTaggingAPI_20170126.GetResources");
        let read = call("POST", "/", &[SIGNED, target], r#"{"TagFilters":[{"Key":"k","Values":["v"]}]}"#);
        assert_eq!(read.kind.to_string(), "tag:GetResources");
        assert_eq!(read.word("Values"), Some("v"));
    }

    #[test]
    fn a_call_of_compute_engine_is_named_by_collection_and_verb() {
        let table = [
            ("GET", "regions/r/forwardingRules?filter=x", "forwardingRules.list", Effect::Read),
            ("GET", "regions/r/forwardingRules/n", "forwardingRules.get", Effect::Read),
            ("POST", "global/firewalls", "firewalls.insert", Effect::Write),
            ("DELETE", "global/firewalls/n", "firewalls.delete", Effect::Write),
            ("GET", "aggregated/operations", "operations.aggregatedList", Effect::Read),
            (
                "POST",
                "zones/z/networkEndpointGroups/n/attachNetworkEndpoints",
                "networkEndpointGroups.attachNetworkEndpoints",
                Effect::Write,
            ),
            (
                "POST",
                "zones/z/networkEndpointGroups/n/listNetworkEndpoints",
                "networkEndpointGroups.listNetworkEndpoints",
                Effect::Read,
            ),
        ];
        for (method, path, name, effect) in table {
            let call = call(method, &format!("/compute/v1/projects/p/{path}"), &[], "");
            assert_eq!((call.kind.name.as_str(), call.kind.effect), (name, effect));
            assert_eq!(call.scope, "p");
        }
    }

    #[test]
    fn a_strange_request_is_a_call_too() {
        let strange = call("GET", "/favicon.ico", &[], "");
        assert_eq!(strange.kind.to_string(), "other:GET /favicon.ico");
    }
}
