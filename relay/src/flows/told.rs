//! What an answer says of itself: messages about nodes, and trailers.

use specola_proto::relay::NodeState;

use super::{FlowStream, NodeStream};
use crate::envelope::push_frame;
use crate::marks;

impl FlowStream {
    /// Writes what nodes did.
    pub(super) fn tell(&mut self, out: &mut Vec<u8>) {
        for id in self.merge.take_newly_skewed() {
            let (Some(node), Some(skew_ns)) = (self.nodes.get(id as usize), self.merge.skew_ns(id)) else {
                continue;
            };
            self.errors.entry(skew_message(skew_ns)).or_default().push(node.name.clone());
        }
        if self.states.is_empty() && self.errors.is_empty() {
            return;
        }
        let name = self.context.name.clone();
        for (state, names) in std::mem::take(&mut self.states) {
            push_frame(&marks::node_status(&name, state, names, String::new()), &[], out);
        }
        for (message, names) in std::mem::take(&mut self.errors) {
            push_frame(&marks::node_status(&name, NodeState::NodeError.into(), names, message), &[], out);
        }
    }

    /// What the answer covers, for the trailers.
    pub(crate) fn coverage(&self) -> Vec<(&'static str, String)> {
        let (mut missing, mut partial) = (Vec::new(), 0);
        for node in &self.nodes {
            match node.state {
                NodeStream::Failed => missing.push(node.name.as_str()),
                _ => partial += usize::from(!node.is_whole),
            }
        }
        let counts = self.merge.counts();
        let stopped_early = self.remaining == Some(0);
        let is_whole = missing.is_empty() && (partial == 0 || stopped_early) && counts.lost == 0;
        let mut trailers = vec![
            ("specola-coverage", if is_whole { "whole" } else { "part" }.to_owned()),
            ("specola-coverage-nodes", (self.nodes.len() - missing.len()).to_string()),
            ("specola-coverage-nodes-missing", missing.len().to_string()),
            ("specola-coverage-nodes-partial", partial.to_string()),
            ("specola-coverage-skewed", self.merge.skewed().to_string()),
            ("specola-coverage-late", counts.late.to_string()),
            ("specola-coverage-lost", counts.lost.to_string()),
        ];
        if !missing.is_empty() {
            missing.truncate(NAMED);
            trailers.push(("specola-coverage-missing", missing.join(",")));
        }
        trailers
    }
}

/// What is said of a node whose flows come so much later than those of others, ns.
fn skew_message(skew_ns: i64) -> String {
    let seconds = (skew_ns.unsigned_abs() + 500_000_000) / 1_000_000_000;
    let way = if skew_ns < 0 { "ahead of" } else { "behind" };
    format!(
        "the clock is about {seconds} s {way} other nodes': its flows are not in order of time, set its clock"
    )
}

/// Nodes that are named in a trailer.
const NAMED: usize = 50;
