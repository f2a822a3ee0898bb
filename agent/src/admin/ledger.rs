//! The ledger as the admin API shows it.

use specola_datapath::FoldBook;
use specola_flow_server::LedgerCounts;
use specola_proto::specola::v1 as pb;

/// The numbers, and whether they fit together. `in_hand`: records taken from the lanes that are being worked on.
pub(super) fn show(
    counts: &LedgerCounts,
    in_hand: u64,
    lanes: &[pb::LaneStatus],
    folds: &FoldBook,
) -> pb::Ledger {
    let equation =
        |name: &str, text: &str, holds| pb::Equation { name: name.to_owned(), text: text.to_owned(), holds };
    pb::Ledger {
        consumed: counts.consumed,
        in_hand,
        agent: counts.agent,
        agent_refused: counts.agent_refused,
        expanded: counts.expanded,
        kernel_lost: counts.kernel_lost,
        loss_records: counts.loss_records,
        rejected: counts.rejected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        lost_records: counts.lost_records,
        pushed: counts.pushed,
        held: counts.held,
        overwritten: counts.overwritten,
        lost_flows: counts.lost_flows,
        folded_reported: folds.reported,
        folded_waiting: folds.waiting,
        equations: vec![
            equation("lanes", LANES, lanes.iter().all(|lane| lane.balanced)),
            equation("folds", FOLDS, folds.is_balanced),
            equation("records", RECORDS, counts.records_balance()),
            equation("flows", FLOWS, counts.flows_balance()),
        ],
    }
}

const LANES: &str = "attempts = submitted + lost + folded, submitted = taken + waiting";
const FOLDS: &str = "folded = told by a later record + waiting for one";
const RECORDS: &str = "consumed + agent + expanded + loss records = pushed + rejected + lost records";
const FLOWS: &str = "pushed = held + overwritten + lost flows";
