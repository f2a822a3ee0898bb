//! The verdict and who decided it as text.

use specola_flow::DropReason;
use specola_proto::flow::{Flow, Policy, Verdict};
use specola_proto::specola::v1::FlowExtension;

use super::kind::is_policy_verdict;
use crate::color::{Color, Paint};
use crate::printer::{Style, escape};

/// `FORWARDED`, `DENIED BY p1 (CiliumNetworkPolicy), p2 (NetworkPolicy)`, `DENIED BY default deny of p1 (...)`.
pub(super) fn text(flow: &Flow, extension: Option<&FlowExtension>, style: &Style, paint: Paint) -> String {
    let verdict = Verdict::try_from(flow.verdict);
    let name = match verdict {
        Ok(Verdict::Forwarded | Verdict::Redirected) if is_policy_verdict(flow) => "ALLOWED".to_owned(),
        Ok(Verdict::Dropped | Verdict::Error) if is_policy_verdict(flow) => "DENIED".to_owned(),
        Ok(Verdict::Audit) if is_policy_verdict(flow) => "AUDITED".to_owned(),
        Ok(verdict) => verdict.as_str_name().to_owned(),
        Err(unknown) => unknown.0.to_string(),
    };
    let color = match verdict {
        Ok(Verdict::Forwarded | Verdict::Redirected) => Color::Good,
        Ok(Verdict::Dropped | Verdict::Error) => Color::Bad,
        Ok(Verdict::Audit | Verdict::Traced | Verdict::Translated) => Color::Notable,
        _ => return name,
    };
    let name = paint.color(color, &name);
    match by(flow, extension, style.extras).filter(|_| style.policy_names) {
        Some(policies) => format!("{name} BY {policies}"),
        None => name,
    }
}

fn by(flow: &Flow, extension: Option<&FlowExtension>, extras: bool) -> Option<String> {
    let denied: Vec<_> = flow.egress_denied_by.iter().chain(&flow.ingress_denied_by).collect();
    if !denied.is_empty() {
        let by_default = extension.is_some_and(|extension| extension.default_deny)
            || flow.drop_reason_desc == i32::from(DropReason::POLICY_DENIED.0);
        let prefix = if by_default && extras { "default deny of " } else { "" };
        return Some(format!("{prefix}{}", joined(&denied)));
    }
    let allowed: Vec<_> = flow.egress_allowed_by.iter().chain(&flow.ingress_allowed_by).collect();
    (!allowed.is_empty()).then(|| joined(&allowed))
}

/// `name (Kind)` of each, without repeats.
fn joined(policies: &[&Policy]) -> String {
    let mut names: Vec<String> = Vec::with_capacity(policies.len());
    for policy in policies {
        let name = if policy.name.is_empty() { policy.labels.join(",") } else { policy.name.clone() };
        let name = if policy.kind.is_empty() { name } else { format!("{name} ({})", policy.kind) };
        let name = escape(&name);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}
