//! What the flows of a capture come to.

use std::collections::BTreeMap;
use std::io::{self, Write};

use specola_agent::IngestReport;
use specola_proto::flow::{DropReason, Flow, Policy, Verdict};
use specola_proto::observer::GetFlowsResponse;
use specola_proto::observer::get_flows_response::ResponseTypes;

use crate::printer::{escape, flow_ends};

/// Counts of flows.
#[derive(Debug, Default)]
pub(super) struct Summary {
    verdicts: BTreeMap<&'static str, u64>,
    /// By reason and the policies behind it.
    drops: BTreeMap<(String, String), u64>,
    /// By source, destination and port; how many passed, how many were denied.
    pairs: BTreeMap<String, [u64; 2]>,
    /// Flows of pairs beyond [`MAX_PAIRS`].
    other_pairs: u64,
}

/// Pairs that are counted one by one.
const MAX_PAIRS: usize = 65_536;
/// Pairs that are shown.
const SHOWN_PAIRS: usize = 20;
/// `event_type.type` of a drop: a policy verdict with its own flow comes before it.
const DROP: i32 = 1;
const POLICY_VERDICT: i32 = 5;

impl Summary {
    pub(super) fn add(&mut self, answer: &GetFlowsResponse) {
        let Some(ResponseTypes::Flow(flow)) = &answer.response_types else { return };
        let verdict = Verdict::try_from(flow.verdict).map_or("UNKNOWN", |verdict| verdict.as_str_name());
        let event = flow.event_type.as_ref().map_or(0, |event| event.r#type);
        *self.verdicts.entry(verdict).or_default() += 1;
        if event == DROP {
            let reason = DropReason::try_from(flow.drop_reason_desc)
                .map_or_else(|unknown| unknown.0.to_string(), |reason| reason.as_str_name().to_owned());
            *self.drops.entry((reason, policies(flow))).or_default() += 1;
        }
        if event == POLICY_VERDICT {
            return;
        }
        let pair = flow_ends(flow);
        if !self.pairs.contains_key(&pair) && self.pairs.len() >= MAX_PAIRS {
            self.other_pairs += 1;
            return;
        }
        self.pairs.entry(pair).or_default()[usize::from(event == DROP)] += 1;
    }

    pub(super) fn write(&self, report: &IngestReport, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "packets      {}", report.packets)?;
        writeln!(out, "left out     {}", report.damaged.values().sum::<u64>())?;
        writeln!(out, "connections  {}", report.connections.created)?;
        writeln!(out, "flows        {}", report.flows)?;
        for (verdict, count) in &self.verdicts {
            writeln!(out, "  {verdict:<11}{count}")?;
        }
        if !self.drops.is_empty() {
            writeln!(out, "\ndropped packets by reason and policies")?;
        }
        let mut drops: Vec<_> = self.drops.iter().collect();
        drops.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for ((reason, policies), count) in drops {
            writeln!(out, "{count:>9}  {reason}{}", escape(policies))?;
        }
        let mut pairs: Vec<_> = self.pairs.iter().collect();
        pairs.sort_by_key(|(_, [passed, dropped])| std::cmp::Reverse(passed + dropped));
        if !pairs.is_empty() {
            writeln!(out, "\n   passed   dropped  flows from and to")?;
        }
        let hidden: u64 =
            pairs.iter().skip(SHOWN_PAIRS).map(|(_, [a, b])| a + b).sum::<u64>() + self.other_pairs;
        for (pair, [passed, dropped]) in pairs.into_iter().take(SHOWN_PAIRS) {
            writeln!(out, "{passed:>9} {dropped:>9}  {pair}")?;
        }
        if hidden > 0 {
            writeln!(out, "{hidden:>9} flows of other pairs")?;
        }
        Ok(())
    }
}

/// The policies that denied, as ` by a, b`.
fn policies(flow: &Flow) -> String {
    let name = |policy: &Policy| {
        if policy.namespace.is_empty() {
            policy.name.clone()
        } else {
            format!("{}/{}", policy.namespace, policy.name)
        }
    };
    let names: Vec<String> = flow.egress_denied_by.iter().chain(&flow.ingress_denied_by).map(name).collect();
    if names.is_empty() { String::new() } else { format!(" by {}", names.join(", ")) }
}
