//! docs/annotations.md, made from the tables that the operator and its providers read by.
//!
//! Owns: the page. Leaves to others: the tables.
//! Invariant: a key that is read is on the page, with what it may say; the test fails where the page is older than a table.

use portico_provider::{Capabilities, Field, Mutability};

use super::{ANNOTATIONS, AnnotationSpec};

const PROVIDERS: [(&str, Capabilities); 4] = [
    ("aws", portico_provider_aws::CAPABILITIES),
    ("gce", portico_provider_gce::CAPABILITIES),
    ("local", portico_provider_local::CAPABILITIES),
    ("bare-metal", portico_provider_bare_metal::CAPABILITIES),
];

const HEAD: &str = "\
# Annotations
Made from the tables that Portico reads by; `PORTICO_UPDATE=1 cargo test -p portico-operator the_page_of_annotations` writes it
anew. A value that does not parse is condition `portico.dev/Accepted` = `False` (or `portico.dev/Synced`) and an Event that name the key.
A key under `portico.dev/` or one of the provider's prefixes that nobody reads is told the same way, with the key that was most likely
meant, and stops nothing. An empty value is as good as none. A class can give each of them a default, force it, or say which values
it may have: [LoadBalancerClassParameters](providers.md#rules-of-a-class).

*A change*: `in place`; `replaces` makes another load balancer first, and needs `portico.dev/allow-replacement: \"true\"`;
`refused` is a key that is known and not honoured, and says what to do instead.
";

fn change(mutability: Mutability) -> &'static str {
    match mutability {
        Mutability::Mutable => "in place",
        Mutability::Replace => "replaces",
        Mutability::Immutable => "refused",
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The cost of a change at each provider that reads it.
fn takers(field: Option<Field>) -> Vec<(&'static str, Mutability)> {
    let Some(field) = field else { return Vec::new() };
    let costs = PROVIDERS.map(|(name, capabilities)| (name, capabilities.mutability(field)));
    costs.into_iter().filter(|(_, cost)| *cost != Mutability::Immutable).collect()
}

fn shared(AnnotationSpec { key, value, default, field }: &AnnotationSpec) -> String {
    let takers = takers(*field);
    let kinds: std::collections::BTreeSet<&str> = takers.iter().map(|(_, cost)| change(*cost)).collect();
    let (costs, who) = match (field, kinds.len()) {
        (None, _) => ("in place".to_owned(), "all".to_owned()),
        (Some(_), 0 | 1) => {
            let names: Vec<&str> = takers.iter().map(|(name, _)| *name).collect();
            (kinds.into_iter().collect(), names.join(", "))
        }
        (Some(_), _) => {
            let each: Vec<String> =
                takers.iter().map(|(name, cost)| format!("{}: {name}", change(*cost))).collect();
            (each.join("; "), takers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "))
        }
    };
    format!("| `{key}` | {} | {} | {costs} | {who} |", cell(value), cell(default))
}

fn own(name: &str, capabilities: &Capabilities) -> Vec<String> {
    let rows = capabilities.options.iter().map(|spec| {
        let family = if spec.key.ends_with('.') { "…" } else { "" };
        let default = if spec.default.is_empty() { "-" } else { spec.default };
        let costs = change(spec.mutability);
        format!("| `{}{family}` | {} | {} | {costs} | {name} |", spec.key, cell(spec.value), cell(default))
    });
    rows.collect()
}

fn page() -> String {
    let columns = "| key | value | default | a change | providers |\n|---|---|---|---|---|";
    let mut sections = vec![format!("{HEAD}\n## Every provider\n{columns}")];
    sections.extend(ANNOTATIONS.iter().map(shared));
    for (name, capabilities) in &PROVIDERS {
        let rows = own(name, capabilities);
        if !rows.is_empty() {
            sections.push(format!("\n## Provider `{name}`\n{columns}"));
            sections.extend(rows);
        }
    }
    sections.join("\n") + "\n"
}

#[test]
fn the_page_of_annotations_is_that_of_the_tables() {
    crate::testing::golden("docs/annotations.md", &page());
}

#[test]
fn every_key_a_provider_reads_is_under_a_known_prefix() {
    for (name, capabilities) in PROVIDERS {
        let ours = |key: &str| {
            key.starts_with(super::DOMAIN)
                || capabilities.option_prefixes.iter().any(|prefix| key.starts_with(prefix))
        };
        let watched = capabilities.options.iter().filter(|spec| ours(spec.key)).count();
        assert!(capabilities.options.is_empty() || watched > 0, "{name}: a misspelt key would be ignored");
    }
}
