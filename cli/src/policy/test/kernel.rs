//! The same probes through the kernel programs.

use specola_agent::{KernelAnswer, KernelTrial};
use specola_policy::cases::{Answer, Played, PlayedProbe};
use specola_policy::eval::Verdict;

use super::report::{KernelCheck, Report};

/// Asks the kernel what each side of each probe says, and notes what differs from the rules.
pub(super) fn check(report: &mut Report) -> anyhow::Result<()> {
    let cases = report.cases();
    let checks = KernelTrial::run(|trial| cases.iter().map(|case| check_case(trial, case)).collect())?;
    report.set_kernel(checks);
    Ok(())
}

fn check_case(trial: &mut KernelTrial, case: &Played) -> anyhow::Result<Vec<KernelCheck>> {
    let mut checks = vec![KernelCheck::default(); case.probes.len()];
    // Every policy goes to the kernel once.
    for (index, policy) in case.policies.iter().enumerate() {
        trial.realize(policy, case.audit_mode)?;
        for (probe, check) in case.probes.iter().zip(&mut checks) {
            for (question, answer) in probe.answers.iter().filter(|(_, answer)| answer.policy == index) {
                let kernel = trial.ask(question.packet)?;
                if kernel.drop_reason == UNKNOWN_L4 {
                    check.not_run = Some("VRRP and IGMP: the kernel programs track no connections of them");
                    continue;
                }
                check.asked += 1;
                if let Some(difference) = difference(answer, &kernel, case.audit_mode) {
                    check.disagreements.push(format!("{}: {difference}", question.side));
                }
            }
        }
    }
    for (probe, check) in case.probes.iter().zip(&mut checks) {
        check.not_run = check.not_run.or_else(|| not_run(probe));
    }
    Ok(checks)
}

/// What of a probe the kernel programs do not decide.
fn not_run(probe: &PlayedProbe) -> Option<&'static str> {
    let redirected = probe.answers.iter().any(|(_, answer)| answer.verdict == Verdict::Redirect);
    (probe.has_request && redirected).then_some("L7 content: the proxy judges the request")
}

fn difference(answer: &Answer, kernel: &KernelAnswer, audit_mode: bool) -> Option<String> {
    let refusal = match answer.verdict {
        Verdict::Allow => 0,
        Verdict::Redirect => NO_PROXY,
        Verdict::AuthRequired => AUTH_REQUIRED,
        Verdict::Deny => DENIED,
        Verdict::DefaultDeny => DEFAULT_DENIED,
    };
    let audited = answer.audited || (audit_mode && !answer.verdict.passes());
    let expected = if audited { 0 } else { refusal };
    if (kernel.drop_reason, kernel.audited) != (expected, audited) {
        return Some(format!(
            "expected drop reason {expected} (audited {audited}), the kernel says {} (audited {})",
            kernel.drop_reason, kernel.audited
        ));
    }
    let names = kernel.origins.object_names();
    (names != answer.policies).then(|| {
        let (wanted, got) = (answer.policies.join(", "), names.join(", "));
        format!("decided by {wanted}, the kernel's record names {got}")
    })
}

/// Drop reasons of the kernel programs.
const DEFAULT_DENIED: u8 = 133;
const UNKNOWN_L4: u8 = 137;
const NO_PROXY: u8 = 180;
const DENIED: u8 = 181;
const AUTH_REQUIRED: u8 = 189;
