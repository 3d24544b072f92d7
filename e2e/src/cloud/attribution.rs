//! Which Service a call is about.
//!
//! Owns: learning names, ARNs and UIDs from calls that make things, and finding them in later calls. Leaves to others:
//! reading requests (`call`). Invariant: what is about no single Service (a listing of everything) has none.

use std::collections::BTreeMap;

use super::call::{Api, Call, Effect};

/// Tags and fields that name the Service `namespace/name`; ours and the AWS cloud provider's.
const SERVICE_TAGS: [&str; 2] = ["portico.dev/service", "kubernetes.io/service-name"];
/// The field of a description that names it, on Compute Engine.
const SERVICE_MARK: &str = "networking.gke.io/service-name";
/// The tag with its UID, which later reads filter by.
const UID_TAG: &str = "portico.dev/service-uid";

/// The Service of each resource that a call created.
#[derive(Debug, Default)]
pub(super) struct Attribution {
    things: BTreeMap<String, String>,
}

impl Attribution {
    /// The Service of a call, if it is about one.
    pub(super) fn service(&self, call: &Call) -> Option<String> {
        named(call).or_else(|| call.words.iter().find_map(|(_, word)| self.service_of(word)))
    }

    /// The Service of a thing, or of the digest within a name or a filter of names.
    fn service_of(&self, word: &str) -> Option<String> {
        let whole = self.things.get(word);
        let part = || word.split(|c: char| !c.is_ascii_alphanumeric()).find_map(|part| self.digest(part));
        whole.or_else(part).cloned()
    }

    fn digest(&self, part: &str) -> Option<&String> {
        if is_digest(part) { self.things.get(part) } else { None }
    }

    /// Takes in what a call that makes something says of it, and the answer.
    pub(super) fn learn(&mut self, call: &Call, answer: &str) {
        let Some(service) = named(call).filter(|_| call.kind.effect == Effect::Write) else { return };
        let mut learn = |thing: &str| {
            self.things.entry(thing.to_owned()).or_insert_with(|| service.clone());
        };
        tag(call, &[UID_TAG]).into_iter().for_each(&mut learn);
        for name in ["Name", "GroupName", "name"] {
            call.word(name).into_iter().for_each(&mut learn);
        }
        match call.kind.api {
            Api::Compute => {
                let name = call.word("name").unwrap_or_default();
                name.split('-').filter(|part| is_digest(part)).for_each(learn);
            }
            Api::Elb => ids(answer, "arn:aws").for_each(learn),
            Api::Ec2 => ids(answer, "sg-").for_each(learn),
            Api::Tagging | Api::Other => {}
        }
    }
}

/// Ten hexadecimal digits: what Portico's names on Compute Engine have for the Service.
fn is_digest(part: &str) -> bool {
    part.len() == 10 && part.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The Service that the request itself names.
fn named(call: &Call) -> Option<String> {
    let described = || {
        let mark: serde_json::Value = serde_json::from_str(call.word("description")?).ok()?;
        mark.get(SERVICE_MARK)?.as_str().map(str::to_owned)
    };
    tag(call, &SERVICE_TAGS).map(str::to_owned).or_else(described)
}

/// The value of a tag `…N.Key`, `…N.Value`.
fn tag<'a>(call: &'a Call, keys: &[&str]) -> Option<&'a str> {
    call.words.iter().find_map(|(name, key)| {
        let place = name.strip_suffix(".Key").filter(|_| keys.contains(&key.as_str()))?;
        call.word(&format!("{place}.Value"))
    })
}

/// The words of an answer that begin with `start`, up to markup or a quote.
fn ids<'a>(answer: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    answer.match_indices(start).map(|(at, _)| {
        let rest = &answer[at..];
        rest.split(['<', '"', '&', ' ']).next().unwrap_or(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::call::Kind;

    fn mk_call(api: Api, effect: Effect, words: &[(&str, &str)]) -> Call {
        let words = words.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let kind = Kind { api, name: "X".to_owned(), effect };
        Call { kind, scope: String::new(), words: words.collect(), text: String::new() }
    }

    #[test]
    fn what_was_made_for_a_service_is_known_by_name_arn_and_uid_afterwards() {
        let mut attribution = Attribution::default();
        let tags = [
            ("Name", "p-shop-web-0"),
            ("Tags.member.1.Key", "portico.dev/service-uid"),
            ("Tags.member.1.Value", "uid-1"),
            ("Tags.member.2.Key", "portico.dev/service"),
            ("Tags.member.2.Value", "shop/web"),
        ];
        let create = mk_call(Api::Elb, Effect::Write, &tags);
        assert_eq!(attribution.service(&create).as_deref(), Some("shop/web"));
        attribution.learn(&create, "<Arn>arn:aws:elasticloadbalancing:r:1:loadbalancer/net/p/1</Arn>");
        for word in ["p-shop-web-0", "uid-1", "arn:aws:elasticloadbalancing:r:1:loadbalancer/net/p/1"] {
            let read = mk_call(Api::Elb, Effect::Read, &[("any", word)]);
            assert_eq!(attribution.service(&read).as_deref(), Some("shop/web"), "{word}");
        }
        assert_eq!(attribution.service(&mk_call(Api::Tagging, Effect::Read, &[("Values", "uid-2")])), None);
    }

    #[test]
    fn on_compute_engine_a_filter_is_known_by_the_digest_in_the_names() {
        let mut attribution = Attribution::default();
        let mark = r#"{"networking.gke.io/service-name":"shop/web"}"#;
        let words = [("name", "portico-00000001-shop-web-00aa11bb22-hc"), ("description", mark)];
        attribution.learn(&mk_call(Api::Compute, Effect::Write, &words), "{}");
        let filter = [("filter", r#"name eq "portico-00000001-.*-00aa11bb22-.*""#)];
        let list = mk_call(Api::Compute, Effect::Read, &filter);
        assert_eq!(attribution.service(&list).as_deref(), Some("shop/web"));
    }
}
