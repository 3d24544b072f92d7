//! The results of a bench: a table for people and a TSV file for programs. Pure.

use std::fmt::{self, Write as _};

use super::{
    statistics::Summary,
    subject::{BASELINE, Subject},
};

/// First line of the TSV file; all benches share these columns.
pub const TSV_HEADER: &str = "subject\tservices\tmetric\tunit\tp50\tp99\tmin\tmax\tn";

/// The metrics of a proxy, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// EndpointSlice update accepted → first connection through the ClusterIP to the new endpoint.
    Program,
    /// The same while 100 other endpoint changes a second are made.
    ProgramChurn,
    /// The proxy's own share of a change: its watch's event → the kernel's answer.
    OwnShare,
    /// The same while 100 endpoint changes a second are made.
    OwnShareChurn,
    /// Start of the process → every sampled Service connects.
    ColdStart,
    /// Start of a process on a node whose rules are right → it says that it is well.
    Restart,
    /// Elements, chains and maps that such a start writes.
    RestartChanges,
    /// Bytes from the API server until a cold start has settled.
    WatchBytes,
    /// The same for one endpoint change, on average.
    ChangeBytes,
    /// Connections during the rollout of 1,000 endpoints.
    RolloutConnections,
    /// Those of them that failed.
    RolloutFailures,
    /// Resident memory, settled after a cold start.
    Resident,
    /// Peak resident memory of a process' life.
    ResidentPeak,
    /// CPU time of the proxy and its children, for a thousand endpoint changes.
    Cpu,
    /// New connections a second through Services' addresses.
    ConnectRate,
    /// The same straight to the endpoints, in the windows between.
    ConnectRateDirect,
    /// Rate through the Services' addresses ÷ rate straight, for each pair of neighbouring windows.
    ConnectRatio,
    /// Time of one connect through a ClusterIP.
    ConnectTime,
    /// Time of one connect straight to an endpoint.
    ConnectTimeDirect,
}

impl Metric {
    const ALL: [Self; 19] = [
        Self::Program,
        Self::ProgramChurn,
        Self::OwnShare,
        Self::OwnShareChurn,
        Self::ColdStart,
        Self::Restart,
        Self::RestartChanges,
        Self::WatchBytes,
        Self::ChangeBytes,
        Self::RolloutConnections,
        Self::RolloutFailures,
        Self::Resident,
        Self::ResidentPeak,
        Self::Cpu,
        Self::ConnectRate,
        Self::ConnectRateDirect,
        Self::ConnectRatio,
        Self::ConnectTime,
        Self::ConnectTimeDirect,
    ];

    /// Name in the TSV file, unit, and what the table calls it.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Program => {
                ("program", "ms", "EndpointSlice update accepted → first connection to the new endpoint")
            }
            Self::ProgramChurn => {
                ("program_churn", "ms", "the same, while 100 endpoint changes a second are made")
            }
            Self::OwnShare => (
                "own_share",
                "us",
                "the proxy's own share: watch event → kernel's answer, upper bounds of buckets",
            ),
            Self::OwnShareChurn => {
                ("own_share_churn", "us", "the same, while 100 endpoint changes a second are made")
            }
            Self::Restart => ("restart", "ms", "start of a process where the rules are right → it is well"),
            Self::RestartChanges => {
                ("restart_changes", "1", "elements, chains and maps that such a start writes")
            }
            Self::WatchBytes => {
                ("watch_bytes", "MB", "bytes from the API server until a cold start has settled")
            }
            Self::ChangeBytes => ("change_bytes", "B", "bytes from the API server for one endpoint change"),
            Self::RolloutConnections => {
                ("rollout_connections", "1", "connections while 1,000 endpoints are replaced in 10 s")
            }
            Self::RolloutFailures => ("rollout_failures", "1", "those of them that failed"),
            Self::ColdStart => ("cold_start", "ms", "start of the process → every sampled Service connects"),
            Self::Resident => ("rss", "MiB", "resident memory, settled after a cold start"),
            Self::ResidentPeak => ("rss_peak", "MiB", "largest resident memory of the process' life"),
            Self::Cpu => ("cpu", "s/1000", "CPU seconds, children included, for 1,000 endpoint changes"),
            Self::ConnectRate => ("connect_rate", "1/s", "new connections through ClusterIPs"),
            Self::ConnectRateDirect => {
                ("connect_rate_direct", "1/s", "new connections straight to the endpoints")
            }
            Self::ConnectRatio => {
                ("connect_ratio", "1", "rate through ClusterIPs ÷ rate straight, per pair of windows")
            }
            Self::ConnectTime => ("connect_time", "us", "one connect through a ClusterIP"),
            Self::ConnectTimeDirect => ("connect_time_direct", "us", "one connect straight to an endpoint"),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words().0)
    }
}

/// All samples of one metric of one subject at one size.
#[derive(Clone, Debug, PartialEq)]
struct Series {
    subject: Subject,
    services: u32,
    metric: Metric,
    /// In the metric's unit.
    samples: Vec<f64>,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
struct Row {
    subject: Subject,
    services: u32,
    metric: Metric,
    summary: Summary,
}

/// All that a run has measured so far, and what it could not measure, with the reason.
#[derive(Clone, Debug, Default)]
pub struct Report {
    series: Vec<Series>,
    remarks: Vec<String>,
}

impl Report {
    /// Adds samples of a metric to those that are there.
    pub fn add(
        &mut self,
        subject: Subject,
        services: u32,
        metric: Metric,
        samples: impl IntoIterator<Item = f64>,
    ) {
        let is_it =
            |one: &&mut Series| (one.subject, one.services, one.metric) == (subject, services, metric);
        match self.series.iter_mut().find(is_it) {
            Some(series) => series.samples.extend(samples),
            None => {
                self.series.push(Series {
                    subject,
                    services,
                    metric,
                    samples: samples.into_iter().collect(),
                });
            }
        }
    }

    /// Adds a line under the table.
    pub fn remark(&mut self, remark: String) {
        self.remarks.push(remark);
    }

    /// The summary of a metric that was measured.
    pub fn summary(&self, subject: Subject, services: u32, metric: Metric) -> Option<Summary> {
        let is_it = |row: &Row| (row.subject, row.services, row.metric) == (subject, services, metric);
        self.rows().find(is_it).map(|row| row.summary)
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        self.series.iter().filter_map(|Series { subject, services, metric, samples }| {
            let summary = Summary::of(samples.iter().copied())?;
            Some(Row { subject: *subject, services: *services, metric: *metric, summary })
        })
    }

    /// The TSV file's text: [`TSV_HEADER`], then a line for each row in the order of measuring.
    pub fn tsv(&self) -> String {
        let mut text = format!("{TSV_HEADER}\n");
        for Row { subject, services, metric, summary } in self.rows() {
            let Summary { p50, p99, min, max, n } = summary;
            let unit = metric.words().1;
            // Writing to a String cannot fail.
            let _infallible = writeln!(
                text,
                "{subject}\t{services}\t{metric}\t{unit}\t{p50:.3}\t{p99:.3}\t{min:.3}\t{max:.3}\t{n}"
            );
        }
        text
    }

    /// The readable table: a block for each metric, in it a line for each size and subject, with the ratio of its p50 to
    /// the baseline's at the same size.
    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        for metric in Metric::ALL {
            let mut rows: Vec<Row> = self.rows().filter(|row| row.metric == metric).collect();
            rows.sort_by_key(|row| row.services); // stable: subjects stay in their order
            if rows.is_empty() {
                continue;
            }
            let (name, unit, title) = metric.words();
            lines.push(format!("\n{name}: {title} [{unit}]"));
            lines.push(format!(
                "{:>9}  {:<20} {:>9} {:>9} {:>9} {:>9} {:>7}  ÷ {BASELINE}",
                "services", "subject", "p50", "p99", "min", "max", "n"
            ));
            lines.extend(rows.into_iter().map(|row| self.table_line(row)));
        }
        if !self.remarks.is_empty() {
            lines.push(String::new());
            lines.extend(self.remarks.iter().map(|remark| format!("* {remark}")));
        }
        lines.join("\n")
    }

    fn table_line(&self, row: Row) -> String {
        let Row { subject, services, metric, summary: Summary { p50, p99, min, max, n } } = row;
        let baseline =
            self.summary(BASELINE, services, metric).map(|baseline| baseline.p50).filter(|p50| *p50 > 0.0);
        let ratio = baseline.map_or_else(|| "-".to_owned(), |baseline| readable(p50 / baseline));
        let [p50, p99, min, max] = [p50, p99, min, max].map(readable);
        let subject = subject.to_string();
        format!("{services:>9}  {subject:<20} {p50:>9} {p99:>9} {min:>9} {max:>9} {n:>7}  {ratio}")
    }
}

/// About three significant digits.
fn readable(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_report() -> Report {
        let mut report = Report::default();
        report.add(Subject::Portico, 5000, Metric::Program, [3.0, 1.0]);
        report.add(Subject::KubeProxyNftables, 5000, Metric::Program, [2000.0]);
        report.add(Subject::Portico, 5000, Metric::Program, [2.0]);
        report.add(Subject::Portico, 0, Metric::ConnectRatio, [0.9]);
        report.add(Subject::Portico, 0, Metric::Cpu, []);
        report
    }

    #[test]
    fn the_tsv_has_the_header_and_one_full_line_for_each_row() {
        let text = mk_report().tsv();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "subject\tservices\tmetric\tunit\tp50\tp99\tmin\tmax\tn",
                "portico\t5000\tprogram\tms\t2.000\t3.000\t1.000\t3.000\t3",
                "kube-proxy-nftables\t5000\tprogram\tms\t2000.000\t2000.000\t2000.000\t2000.000\t1",
                "portico\t0\tconnect_ratio\t1\t0.900\t0.900\t0.900\t0.900\t1",
            ]
        );
        let columns = TSV_HEADER.split('\t').count();
        assert!(lines.iter().all(|line| line.split('\t').count() == columns), "{text}");
    }

    #[test]
    fn the_table_compares_with_the_baseline_of_the_same_size_and_has_a_dash_without_one() {
        let table = mk_report().table();
        let line =
            |start: &str| table.lines().find(|line| line.trim_start().starts_with(start)).map(str::to_owned);
        assert!(line("5000  portico").is_some_and(|line| line.ends_with("  0.0010")), "{table}");
        assert!(line("0  portico").is_some_and(|line| line.ends_with("  -")), "{table}");
    }

    #[test]
    fn a_subject_that_could_not_run_is_a_remark_under_the_table() {
        let mut report = mk_report();
        report.remark("kube-proxy-iptables: `iptables-restore` is not on PATH".to_owned());
        assert!(report.table().ends_with("* kube-proxy-iptables: `iptables-restore` is not on PATH"));
    }

    #[test]
    fn every_metric_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            Metric::ALL.iter().map(|metric| metric.words().0).collect();
        assert_eq!(names.len(), Metric::ALL.len());
    }
}
