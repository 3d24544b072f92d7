//! Results side by side: ginkgo's JSON reports in, a table for docs/conformance.md and the closing line out. Pure, apart from
//! reading the report. Source of the format: `types.Report` and `types.SpecReport` of github.com/onsi/ginkgo/v2.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    path::Path,
};

use anyhow::Context as _;
use regex::Regex;
use serde::Deserialize;

use super::{Proxy, unrunnable};

/// How a test went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TestResult {
    Passed,
    /// The first line of ginkgo's message.
    Failed(String),
    /// Why it could not run here.
    NotRunnable(String),
}

impl fmt::Display for TestResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed(_) => "**failed**",
            Self::NotRunnable(_) => "not runnable",
        })
    }
}

/// Results by test and proxy.
#[derive(Debug, Default)]
pub(super) struct Results {
    tests: BTreeMap<String, BTreeMap<Proxy, TestResult>>,
    proxies: Vec<Proxy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuiteReport {
    suite_config: SuiteConfig,
    spec_reports: Option<Vec<SpecReport>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuiteConfig {
    focus_strings: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SpecReport {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Failure,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

impl SpecReport {
    fn name(&self) -> String {
        let texts = self.container_hierarchy_texts.iter().flatten().map(String::as_str);
        texts.chain([self.leaf_node_text.as_str()]).collect::<Vec<_>>().join(" ")
    }

    /// `None`: the test was not selected.
    fn result(&self, name: &str, asked: &[Regex], unrunnable: &[(Regex, &str)]) -> Option<TestResult> {
        let line = self.failure.message.lines().next().unwrap_or_default().trim().to_owned();
        match self.state.as_str() {
            "passed" => Some(TestResult::Passed),
            "skipped" | "pending" if line.is_empty() => {
                let reason = unrunnable.iter().find(|(pattern, _)| pattern.is_match(name))?.1;
                let wanted = asked.iter().any(|focus| focus.is_match(name));
                wanted.then(|| TestResult::NotRunnable(reason.to_owned()))
            }
            "skipped" | "pending" => Some(TestResult::NotRunnable(line)),
            state if line.is_empty() => Some(TestResult::Failed(state.to_owned())),
            _ => Some(TestResult::Failed(line)),
        }
    }
}

impl Results {
    /// Takes in the report of a proxy's run.
    pub(super) fn read(&mut self, proxy: Proxy, report: &Path) -> anyhow::Result<()> {
        let text = fs::read(report).with_context(|| format!("reading {}", report.display()))?;
        self.take(proxy, &text).with_context(|| format!("{}: not a report of ginkgo", report.display()))
    }

    fn take(&mut self, proxy: Proxy, report: &[u8]) -> anyhow::Result<()> {
        let suites: Vec<SuiteReport> = serde_json::from_slice(report)?;
        let unrunnable = unrunnable::UNRUNNABLE.iter();
        let unrunnable: Vec<(Regex, &str)> = unrunnable
            .map(|(pattern, why)| Ok((Regex::new(pattern)?, *why)))
            .collect::<anyhow::Result<_>>()?;
        self.proxies.push(proxy);
        for SuiteReport { suite_config, spec_reports } in suites {
            let asked = suite_config.focus_strings.unwrap_or_default();
            let asked: Vec<Regex> = asked.iter().map(|focus| Regex::new(focus)).collect::<Result<_, _>>()?;
            for spec in spec_reports.into_iter().flatten().filter(|spec| spec.leaf_node_type == "It") {
                let name = spec.name();
                if let Some(result) = spec.result(&name, &asked, &unrunnable) {
                    self.tests.entry(name).or_default().insert(proxy, result);
                }
            }
        }
        Ok(())
    }

    /// A row a test, in Markdown.
    pub(super) fn table(&self) -> String {
        let mut text = String::from("| test |");
        for proxy in &self.proxies {
            let _written = write!(text, " {proxy} |");
        }
        let _written = writeln!(text, " |\n|---|{}---|", "---|".repeat(self.proxies.len()));
        for (name, results) in &self.tests {
            let _written =
                write!(text, "| {} |", name.trim_start_matches("[sig-network] ").replace('|', "\\|"));
            for proxy in &self.proxies {
                let result = results.get(proxy).map_or_else(|| "not run".to_owned(), ToString::to_string);
                let _written = write!(text, " {result} |");
            }
            let why = results.values().find_map(|result| match result {
                TestResult::NotRunnable(why) => Some(why.replace('|', "\\|")),
                TestResult::Passed | TestResult::Failed(_) => None,
            });
            let _written = writeln!(text, " {} |", why.unwrap_or_default());
        }
        text
    }

    /// The failed tests, a line each.
    pub(super) fn failures(&self) -> String {
        let mut text = String::new();
        for (name, results) in &self.tests {
            for (proxy, result) in results {
                if let TestResult::Failed(why) = result {
                    let _written = writeln!(text, "{proxy} failed: {name}\n    {why}");
                }
            }
        }
        text
    }

    /// `conformance: portico P passed, F failed; kube-proxy P passed, F failed`.
    pub(super) fn closing_line(&self) -> String {
        let count = |proxy: Proxy, is: fn(&TestResult) -> bool| {
            self.tests.values().filter_map(|results| results.get(&proxy)).filter(|it| is(it)).count()
        };
        let of = |proxy: &Proxy| {
            let passed = count(*proxy, |result| *result == TestResult::Passed);
            let failed = count(*proxy, |result| matches!(result, TestResult::Failed(_)));
            format!("{proxy} {passed} passed, {failed} failed")
        };
        format!("conformance: {}", self.proxies.iter().map(of).collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_spec(name: &str, state: &str, message: &str) -> serde_json::Value {
        json!({
            "ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeType": "It", "LeafNodeText": name,
            "State": state, "Failure": {"Message": message},
        })
    }

    fn mk_report(specs: &[serde_json::Value]) -> Vec<u8> {
        let config = json!({"FocusStrings": [r"\[sig-network\] Services"]});
        serde_json::to_vec(&json!([{"SuiteConfig": config, "SpecReports": specs}])).unwrap()
    }

    #[test]
    fn what_cannot_run_here_is_told_apart_from_what_nobody_asked_for() {
        let mut results = Results::default();
        let other = json!({
            "ContainerHierarchyTexts": ["[sig-apps] SCTP"], "LeafNodeType": "It", "LeafNodeText": "x", "State": "skipped",
        });
        let specs = [
            mk_spec("a", "passed", ""),
            mk_spec("b", "failed", "no answer\nat line 7"),
            mk_spec("c", "skipped", "Need at least 9 nodes"),
            mk_spec("over SCTP", "skipped", ""),
            mk_spec("not asked for", "skipped", ""),
            mk_spec("d", "timedout", ""),
            other,
        ];
        results.take(Proxy::Portico, &mk_report(&specs)).unwrap();
        results.take(Proxy::KubeProxy, &mk_report(&[mk_spec("b", "passed", "")])).unwrap();
        assert_eq!(
            results.closing_line(),
            "conformance: portico 1 passed, 2 failed; kube-proxy 1 passed, 0 failed"
        );
        assert_eq!(results.tests.len(), 5);
        assert!(results.failures().contains("portico failed: [sig-network] Services b\n    no answer"));
        let table = results.table();
        assert!(
            table.contains(
                "| Services over SCTP | not runnable | not run | this kernel has no SCTP sockets |"
            ),
            "{table}"
        );
    }
}
