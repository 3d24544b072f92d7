//! The results, as a table for people and as tab-separated values for programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{controller::Controller, phase::Phase};
use crate::cloud::{call::Effect, record::Counts};

/// One phase of one controller at one size.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The measured controller.
    pub controller: Controller,
    /// At how many Services.
    pub services: u32,
    /// Which part of its life.
    pub phase: Phase,
    /// Seconds; `None`: it was never done.
    pub wall: Option<f64>,
    /// Calls until it was quiet.
    pub counts: Counts,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    measured: Vec<Measured>,
    /// Lines `subject services phase metric value`.
    further: Vec<(String, u32, &'static str, String, f64)>,
    remarks: Vec<String>,
}

impl Report {
    /// Takes in a phase.
    pub fn add(&mut self, measured: Measured) {
        self.measured.push(measured);
    }

    /// A line under the table.
    pub fn remark(&mut self, remark: String) {
        self.remarks.push(remark);
    }

    /// Memory in MiB and CPU seconds of a controller when all Services had been made.
    pub fn footprint(&mut self, controller: Controller, services: u32, resident: f64, cpu: f64) {
        let name = controller.to_string();
        self.further.push((name.clone(), services, "create", "resident_mib".to_owned(), resident));
        self.further.push((name, services, "create", "cpu_s".to_owned(), cpu));
    }

    /// Things that are left in the account at the end.
    pub fn left(&mut self, controller: Controller, services: u32, things: usize) {
        let things = u32::try_from(things).map_or(f64::MAX, f64::from);
        self.further.push((controller.to_string(), services, "delete", "things_left".to_owned(), things));
    }

    /// The operator by itself, with so many Services: `subject` says with which provider.
    pub fn alone(
        &mut self,
        subject: &'static str,
        services: u32,
        phase: &'static str,
        lines: &[(&'static str, f64)],
    ) {
        for (metric, value) in lines {
            self.further.push((subject.to_owned(), services, phase, (*metric).to_owned(), *value));
        }
    }

    /// A restart of Portico before throttling, with so many load balancers: what was measured, and the calls of each kind.
    pub fn restart(
        &mut self,
        services: u32,
        phase: &'static str,
        lines: &[(&'static str, f64)],
        counts: &Counts,
    ) {
        let measured = lines.iter().map(|(metric, value)| ((*metric).to_owned(), *value));
        let kinds = counts.kinds.iter().map(|(kind, tally)| (kind.to_string(), number(tally.calls)));
        for (metric, value) in measured.chain(kinds) {
            self.further.push(("portico throttled restart".to_owned(), services, phase, metric, value));
        }
    }

    fn sizes(&self) -> BTreeSet<u32> {
        self.measured.iter().map(|measured| measured.services).collect()
    }

    fn find(&self, controller: Controller, services: u32, phase: Phase) -> Option<&Measured> {
        let is_it =
            |one: &&Measured| (one.controller, one.services, one.phase) == (controller, services, phase);
        self.measured.iter().find(is_it)
    }

    /// For each size a block of phases, a block of kinds of calls, and what else was measured.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for services in self.sizes() {
            self.phases(&mut text, services);
            self.kinds(&mut text, services);
        }
        for (subject, services, phase, metric, value) in &self.further {
            line(&mut text, format_args!("{subject} at {services}: {phase} {metric} {value:.2}"));
        }
        for remark in &self.remarks {
            line(&mut text, format_args!("* {remark}"));
        }
        text
    }

    fn phases(&self, text: &mut String, services: u32) {
        line(
            text,
            format_args!(
                "\n{services} Services: calls [reads + writes], a Service, and seconds; ÷: portico ÷ \
                 cloud-provider-aws\n{:<12} {:>20} {:>7} {:>8}   {:>20} {:>7} {:>8}   {:>6} {:>6}",
                "phase", "portico", "each", "s", "cloud-provider-aws", "each", "s", "÷calls", "÷s"
            ),
        );
        for phase in Phase::ALL {
            let [ours, theirs] = [Controller::Portico, Controller::CloudProviderAws]
                .map(|controller| self.find(controller, services, phase));
            if ours.or(theirs).is_none() {
                continue;
            }
            let calls = |one: Option<&Measured>| one.map(|one| number(one.counts.calls()));
            let wall = |one: Option<&Measured>| one.and_then(|one| one.wall);
            line(
                text,
                format_args!(
                    "{:<12} {}   {}   {:>6} {:>6}",
                    phase.to_string(),
                    cells(ours, services),
                    cells(theirs, services),
                    ratio(calls(ours), calls(theirs)),
                    ratio(wall(ours), wall(theirs)),
                ),
            );
        }
    }

    /// Calls of each kind a Service, in the phases in which there were any.
    fn kinds(&self, text: &mut String, services: u32) {
        for phase in Phase::ALL {
            let found: Vec<&Measured> = [Controller::Portico, Controller::CloudProviderAws]
                .into_iter()
                .filter_map(|controller| self.find(controller, services, phase))
                .collect();
            let mut kinds: BTreeMap<String, BTreeMap<Controller, u64>> = BTreeMap::new();
            for measured in &found {
                for (kind, tally) in &measured.counts.kinds {
                    kinds.entry(kind.to_string()).or_default().insert(measured.controller, tally.calls);
                }
            }
            if !kinds.is_empty() {
                line(text, format_args!("\n{phase} at {services}: calls a Service by kind"));
            }
            for (kind, calls) in kinds {
                let each = |controller| {
                    calls.get(&controller).map_or("-".to_owned(), |calls| {
                        format!("{:.2}", number(*calls) / f64::from(services.max(1)))
                    })
                };
                let (ours, theirs) = (each(Controller::Portico), each(Controller::CloudProviderAws));
                line(text, format_args!("  {kind:<44} {ours:>8} {theirs:>8}"));
            }
        }
    }

    /// [`TSV_HEADER`], then a line for each number.
    pub fn tsv(&self) -> String {
        let mut text = format!("{TSV_HEADER}\n");
        for Measured { controller, services, phase, wall, counts } in &self.measured {
            let start = format!("{controller}\t{services}\t{phase}");
            if let Some(wall) = wall {
                line(&mut text, format_args!("{start}\twall_s\t{wall:.3}"));
            }
            for (metric, effect) in [("reads", Effect::Read), ("writes", Effect::Write)] {
                line(&mut text, format_args!("{start}\t{metric}\t{}", counts.of(effect)));
            }
            for (kind, tally) in &counts.kinds {
                line(&mut text, format_args!("{start}\t{kind}\t{}", tally.calls));
            }
        }
        for (subject, services, phase, metric, value) in &self.further {
            line(&mut text, format_args!("{subject}\t{services}\t{phase}\t{metric}\t{value:.3}"));
        }
        text
    }
}

/// Columns of the TSV file.
pub const TSV_HEADER: &str = "subject\tservices\tphase\tmetric\tvalue";

fn cells(measured: Option<&Measured>, services: u32) -> String {
    let Some(Measured { wall, counts, .. }) = measured else {
        return format!("{:>20} {:>7} {:>8}", "-", "-", "-");
    };
    let calls = format!("{} + {}", counts.of(Effect::Read), counts.of(Effect::Write));
    let each = number(counts.calls()) / f64::from(services.max(1));
    let wall = wall.map_or("never".to_owned(), |wall| format!("{wall:.1}"));
    format!("{calls:>20} {each:>7.2} {wall:>8}")
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}", ours / theirs),
        _ => "-".to_owned(),
    }
}

/// A count as a number to divide; counts of a bench are far below what f64 holds exactly.
fn number(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{
        call::{Api, Kind},
        record::Tally,
    };

    fn mk_measured(controller: Controller, wall: Option<f64>, creates: u64) -> Measured {
        let kind = Kind { api: Api::Elb, name: "CreateListener".to_owned(), effect: Effect::Write };
        let tally = Tally { calls: creates, ..Tally::default() };
        let counts = Counts { kinds: [(kind, tally)].into(), ..Counts::default() };
        Measured { controller, services: 50, phase: Phase::Create, wall, counts }
    }

    #[test]
    fn a_line_has_both_sides_with_their_ratio_and_who_was_never_done_says_so() {
        let mut report = Report::default();
        report.add(mk_measured(Controller::Portico, Some(5.0), 100));
        report.add(mk_measured(Controller::CloudProviderAws, None, 400));
        let table = report.table();
        let line = table.lines().find(|line| line.starts_with("create  ")).expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words,
            ["create", "0", "+", "100", "2.00", "5.0", "0", "+", "400", "8.00", "never", "0.25", "-"]
        );
        assert!(report.tsv().contains("portico\t50\tcreate\telb:CreateListener\t100\n"), "{}", report.tsv());
        assert!(!report.tsv().contains("cloud-provider-aws\t50\tcreate\twall_s"), "{}", report.tsv());
    }
}
