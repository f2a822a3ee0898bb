//! What came of the cases, in three forms.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};
use specola_policy::cases::{Played, PlayedProbe, Status};

use crate::columns::Columns;
use crate::node::print_json;
use crate::printer::escape;

/// All cases that were played.
#[derive(Debug)]
pub(super) struct Report {
    cases: Vec<Played>,
    /// One list per case with one element per probe; none when the kernel was not asked.
    kernel: Option<Vec<Vec<KernelCheck>>>,
}

/// What the kernel said of one probe.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelCheck {
    /// Sides whose policy was asked.
    pub(super) asked: usize,
    pub(super) disagreements: Vec<String>,
    /// Why some of it was not run.
    pub(super) not_run: Option<&'static str>,
}

impl Report {
    pub(super) fn new(cases: Vec<Played>) -> Self {
        Self { cases, kernel: None }
    }

    pub(super) fn cases(&self) -> &[Played] {
        &self.cases
    }

    pub(super) fn set_kernel(&mut self, kernel: Vec<Vec<KernelCheck>>) {
        self.kernel = Some(kernel);
    }

    pub(super) fn has_failed(&self) -> bool {
        (0..self.cases.len()).any(|case| self.status(case) == Status::Failed)
    }

    /// A table of what failed, then the sums.
    pub(super) fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        let mut table = Columns::new(["STATUS", "CASE", "PROBES", "DETAIL"]);
        for (index, case) in self.cases.iter().enumerate() {
            let status = self.status(index);
            let probes = case.probes.len().to_string();
            let details = self.failures(index);
            let first = match (status, details.first()) {
                (Status::Skipped, _) => case.messages.join("; "),
                (_, Some(first)) => first.clone(),
                (_, None) => "-".to_owned(),
            };
            table.row([shown(status).to_owned(), escape(&case.id), probes, escape(&first)]);
            for detail in details.iter().skip(1) {
                table.row([String::new(), String::new(), String::new(), escape(detail)]);
            }
        }
        table.write(out)?;
        let [passed, failed, skipped] = self.summary();
        writeln!(out, "{passed} passed, {failed} failed, {skipped} skipped")?;
        let Some(kernel) = &self.kernel else {
            return Ok(());
        };
        let all = || kernel.iter().flatten();
        let asked: usize = all().map(|check| check.asked).sum();
        let wrong = all().filter(|check| !check.disagreements.is_empty()).count();
        writeln!(out, "datapath: {asked} decisions asked, {wrong} probes disagree")?;
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in all().filter_map(|check| check.not_run) {
            *reasons.entry(reason).or_default() += 1;
        }
        for (reason, probes) in reasons {
            writeln!(out, "not run in {probes} probes: {reason}")?;
        }
        Ok(())
    }

    pub(super) fn write_json(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let [passed, failed, skipped] = self.summary();
        let cases: Vec<Value> = (0..self.cases.len()).map(|index| self.case_json(index)).collect();
        let summary = json!({ "passed": passed, "failed": failed, "skipped": skipped });
        print_json(out, &json!({ "summary": summary, "cases": cases }))
    }

    pub(super) fn write_junit(&self, out: &mut impl Write) -> io::Result<()> {
        let [_, failed, skipped] = self.summary();
        let tests = self.cases.len();
        writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
        writeln!(
            out,
            "<testsuites tests=\"{tests}\" failures=\"{failed}\" skipped=\"{skipped}\">\n  <testsuite \
             name=\"specola policy test\" tests=\"{tests}\" failures=\"{failed}\" skipped=\"{skipped}\">"
        )?;
        for (index, case) in self.cases.iter().enumerate() {
            let feature = if case.feature.is_empty() { "policy" } else { &case.feature };
            write!(out, "    <testcase classname=\"{}\" name=\"{}\"", xml(feature), xml(&case.id))?;
            match self.status(index) {
                Status::Passed => writeln!(out, "/>")?,
                Status::Skipped => {
                    let reason = xml(&case.messages.join("; "));
                    writeln!(out, "><skipped message=\"{reason}\"/></testcase>")?;
                }
                Status::Failed => {
                    let details = self.failures(index);
                    let first = details.first().map_or("failed", String::as_str);
                    writeln!(
                        out,
                        "><failure message=\"{}\">{}</failure></testcase>",
                        xml(first),
                        xml(&details.join("\n"))
                    )?;
                }
            }
        }
        writeln!(out, "  </testsuite>\n</testsuites>")
    }

    fn case_json(&self, index: usize) -> Value {
        let Some(case) = self.cases.get(index) else {
            return Value::Null;
        };
        let mut probes: Vec<Value> = case
            .messages
            .iter()
            .map(|message| json!({ "status": shown(self.status(index)), "message": message }))
            .collect();
        for (place, probe) in case.probes.iter().enumerate() {
            let mut shown = probe_json(probe);
            if let Some(check) = self.check(index, place) {
                let disagrees = !check.disagreements.is_empty();
                shown["datapath"] = json!({
                    "decisions": check.asked,
                    "disagreements": check.disagreements,
                    "not_run": check.not_run,
                });
                if disagrees {
                    shown["status"] = "failed".into();
                }
            }
            probes.push(shown);
        }
        json!({ "id": case.id, "status": shown(self.status(index)), "probes": probes })
    }

    fn status(&self, index: usize) -> Status {
        let Some(case) = self.cases.get(index) else {
            return Status::Skipped;
        };
        let disagrees = (0..case.probes.len())
            .any(|probe| self.check(index, probe).is_some_and(|check| !check.disagreements.is_empty()));
        if disagrees { Status::Failed } else { case.status }
    }

    fn check(&self, case: usize, probe: usize) -> Option<&KernelCheck> {
        self.kernel.as_ref()?.get(case)?.get(probe)
    }

    /// Everything that is wrong with a case, one line each.
    fn failures(&self, index: usize) -> Vec<String> {
        let Some(case) = self.cases.get(index).filter(|case| case.status != Status::Skipped) else {
            return Vec::new();
        };
        let mut failures = case.messages.clone();
        for (place, probe) in case.probes.iter().enumerate() {
            let disagreements = self.check(index, place).map(|check| check.disagreements.as_slice());
            let kernel = disagreements.unwrap_or_default().iter().map(|cause| format!("datapath {cause}"));
            for cause in probe.failure.iter().cloned().chain(kernel) {
                failures.push(format!("{} -> {} {}: {cause}", probe.from, probe.to, probe.l4));
            }
        }
        failures
    }

    /// Passed, failed, skipped.
    fn summary(&self) -> [usize; 3] {
        let count = |wanted| (0..self.cases.len()).filter(|case| self.status(*case) == wanted).count();
        [Status::Passed, Status::Failed, Status::Skipped].map(count)
    }
}

fn probe_json(probe: &PlayedProbe) -> Value {
    json!({
        "from": probe.from,
        "to": probe.to,
        "l4": probe.l4,
        "status": if probe.failure.is_some() { "failed" } else { "passed" },
        "expect": probe.expect,
        "got": probe.got,
        "at": probe.side,
        "audited": probe.audited,
        "policies": probe.policies,
        "message": probe.failure,
    })
}

fn shown(status: Status) -> &'static str {
    match status {
        Status::Passed => "passed",
        Status::Failed => "failed",
        Status::Skipped => "skipped",
    }
}

/// Text in XML; what XML cannot hold becomes a question mark.
fn xml(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}
