//! The state of a node for people.

use std::io::{self, Write};

use specola_flow::DropReason;
use specola_proto::observer::ServerStatusResponse;
use specola_proto::specola::v1::{ConnectionCounts, DropCount, GetStatusResponse, LaneStatus, Ledger};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{Answer, Server};
use crate::columns::Columns;
use crate::printer::{binary_size, escape};

/// Unavailable nodes that are named.
const NAMED_NODES: usize = 10;

/// Prints everything that is known about a node.
pub(super) fn print(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    if let Some(server) = &answer.server {
        print_server(out, server)?;
    }
    if let Some(agent) = &answer.agent {
        print_agent(out, agent)?;
    }
    for error in &answer.errors {
        writeln!(out, "Error: {}", escape(error))?;
    }
    for note in &answer.notes {
        writeln!(out, "Note: {}", escape(note))?;
    }
    Ok(())
}

/// Prints whether the server serves.
///
/// # Errors
/// The output cannot be written.
pub(super) fn print_health(out: &mut impl Write, server: &Server) -> io::Result<()> {
    let health = match server.health {
        ServingStatus::Serving => "Ok".to_owned(),
        other => format!("Unavailable: {}", other.as_str_name()),
    };
    writeln!(out, "Healthcheck (via {}): {health}", escape(&server.target))
}

/// Prints what a flow server says of itself.
///
/// # Errors
/// The output cannot be written.
pub(super) fn print_server(out: &mut impl Write, server: &Server) -> io::Result<()> {
    print_health(out, server)?;
    let status = &server.status;
    let fill =
        ratio(status.num_flows, status.max_flows).map_or_else(String::new, |fill| format!(" ({fill:.2}%)"));
    writeln!(out, "Current/Max Flows: {}/{}{fill}", grouped(status.num_flows), grouped(status.max_flows))?;
    writeln!(out, "Flows/s: {}", flows_rate(status))?;
    print_relay(out, status)
}

fn print_relay(out: &mut impl Write, status: &ServerStatusResponse) -> io::Result<()> {
    let Some(connected) = status.num_connected_nodes else { return Ok(()) };
    let unavailable = status.num_unavailable_nodes;
    let total = unavailable.map(|unavailable| format!("/{}", u64::from(connected) + u64::from(unavailable)));
    writeln!(out, "Connected Nodes: {connected}{}", total.unwrap_or_default())?;
    let Some(unavailable) = unavailable.filter(|unavailable| *unavailable > 0) else { return Ok(()) };
    writeln!(out, "Unavailable Nodes: {unavailable}")?;
    let mut names: Vec<_> = status.unavailable_nodes.iter().map(|name| escape(name)).collect();
    names.sort();
    names.truncate(NAMED_NODES);
    for name in &names {
        writeln!(out, "  - {name}")?;
    }
    let unnamed = usize::try_from(unavailable).unwrap_or(usize::MAX).saturating_sub(names.len());
    if unnamed > 0 { writeln!(out, "  - and {unnamed} more...") } else { Ok(()) }
}

fn print_agent(out: &mut impl Write, agent: &GetStatusResponse) -> io::Result<()> {
    let state = if agent.ready { "ready" } else { "not ready" };
    let (node, cluster) = (escape(&agent.node_name), escape(&agent.cluster_name));
    let (version, uptime) = (escape(&agent.version), duration(agent.uptime_ns));
    writeln!(out, "Agent: {state}, node {node} of cluster {cluster}, version {version}, up {uptime}")?;
    let (ready, total) = (agent.endpoints_ready, agent.endpoints_total);
    writeln!(out, "Endpoints: {ready}/{total} ready")?;
    writeln!(out, "Policies: {} at revision {}", agent.policies, agent.policy_revision)?;
    writeln!(out, "Identities: {}, ipcache entries: {}", agent.identities, agent.ipcache_entries)?;
    if !agent.attach_mode.is_empty() {
        writeln!(out, "Programs attached by: {}", escape(&agent.attach_mode))?;
    }
    print_flows(out, agent)?;
    for refused in &agent.refused {
        for error in &refused.errors {
            writeln!(out, "Refused: {}: {}", escape(&refused.source), escape(error))?;
        }
    }
    for warning in &agent.warnings {
        writeln!(out, "Warning: {}", escape(warning))?;
    }
    if !agent.lanes.is_empty() {
        writeln!(out)?;
        lanes(&agent.lanes).write(out)?;
    }
    if let Some(ledger) = &agent.ledger {
        writeln!(out)?;
        print_ledger(out, ledger, &agent.lanes)?;
    }
    if let Some(connections) = &agent.connections {
        writeln!(out)?;
        print_connections(out, connections)?;
    }
    let packets: Vec<_> = agent.drops.iter().filter(|count| count.packets > 0).collect();
    if !packets.is_empty() {
        writeln!(out)?;
        packet_counts(&packets).write(out)?;
    }
    Ok(())
}

fn print_flows(out: &mut impl Write, agent: &GetStatusResponse) -> io::Result<()> {
    let Some(flows) = &agent.flows else { return Ok(()) };
    let (seen, held, capacity) = (grouped(flows.seen), grouped(flows.held), grouped(flows.capacity));
    writeln!(
        out,
        "Flows: {seen} seen, {held} of {capacity} held, {} overwritten",
        grouped(flows.overwritten)
    )?;
    let mut rejected: Vec<_> = flows.rejected.iter().filter(|(_, count)| **count > 0).collect();
    rejected.sort();
    for (reason, count) in rejected {
        writeln!(out, "Rejected records: {} ({})", grouped(*count), escape(reason))?;
    }
    Ok(())
}

/// Each equation with its numbers in place of the names.
fn print_ledger(out: &mut impl Write, ledger: &Ledger, lanes: &[LaneStatus]) -> io::Result<()> {
    let rejected = ledger.rejected.values().sum();
    for equation in &ledger.equations {
        let verdict = if equation.holds { "holds" } else { "DOES NOT HOLD" };
        writeln!(out, "Ledger: {} {verdict}: {}", escape(&equation.name), escape(&equation.text))?;
        let (left, right): (&[_], &[_]) = match equation.name.as_str() {
            "records" => (
                &[ledger.consumed, ledger.agent, ledger.expanded, ledger.loss_records],
                &[ledger.pushed, rejected, ledger.lost_records],
            ),
            "folds" => {
                let folded: u64 = lanes.iter().map(|lane| lane.folded).sum();
                let (reported, waiting) = (grouped(ledger.folded_reported), grouped(ledger.folded_waiting));
                writeln!(out, "  {} = {reported} + {waiting}", grouped(folded))?;
                continue;
            }
            "flows" => (&[ledger.pushed], &[ledger.held, ledger.overwritten, ledger.lost_flows]),
            _ => continue,
        };
        writeln!(out, "  {} = {}", sum(left), sum(right))?;
    }
    if ledger.in_hand + ledger.kernel_lost + ledger.agent_refused > 0 {
        let (in_hand, lost) = (grouped(ledger.in_hand), grouped(ledger.kernel_lost));
        let refused = grouped(ledger.agent_refused);
        writeln!(out, "  in hand {in_hand}, lost in full lanes {lost}, refused agent events {refused}")?;
    }
    Ok(())
}

fn print_connections(out: &mut impl Write, counts: &ConnectionCounts) -> io::Result<()> {
    let ConnectionCounts { created, removed, present, evicted } = *counts;
    let (created, removed, present) = (grouped(created), grouped(removed), grouped(present));
    let evicted_text = grouped(evicted);
    writeln!(
        out,
        "Connections: {created} created, {removed} removed, {present} present, {evicted_text} evicted"
    )?;
    if evicted > 0 {
        writeln!(
            out,
            "  what evicted ones carried since their last trace, at most one interval's, is in no flow;"
        )?;
        writeln!(out, "  --conntrack-tcp-entries and --conntrack-other-entries give more room")?;
    }
    Ok(())
}

fn sum(terms: &[u64]) -> String {
    terms.iter().map(|term| grouped(*term)).collect::<Vec<_>>().join(" + ")
}

fn lanes(lanes: &[LaneStatus]) -> Columns {
    let mut table = Columns::new(["LANE", "ATTEMPTS", "SUBMITTED", "LOST", "FOLDED", "TAKEN", "WAITING"]);
    for lane in lanes {
        let counts =
            [lane.attempts, lane.submitted, lane.reserve_failed, lane.folded, lane.taken, lane.waiting];
        table.row([escape(&lane.name)].into_iter().chain(counts.map(grouped)));
    }
    table
}

fn packet_counts(counts: &[&DropCount]) -> Columns {
    let mut table = Columns::new(["DIRECTION", "PACKETS", "BYTES", "WHAT"]);
    for count in counts {
        let what = match (count.reason, u8::try_from(count.reason)) {
            (0, _) => "forwarded".to_owned(),
            (_, Ok(reason)) => format!("dropped: {}", DropReason(reason)),
            (reason, Err(_)) => format!("dropped: {reason}"),
        };
        table.row([escape(&count.direction), grouped(count.packets), binary_size(count.bytes), what]);
    }
    table
}

/// Flows per second: those of the last moments, else the mean since the start.
pub(super) fn flows_rate(status: &ServerStatusResponse) -> String {
    if status.flows_rate > 0.0 {
        return format!("{:.2}", status.flows_rate);
    }
    if status.uptime_ns == 0 {
        return "N/A".to_owned();
    }
    // Hundredths of flows per second, without the rounding of floats.
    let hundredths = u128::from(status.seen_flows) * 100_000_000_000 / u128::from(status.uptime_ns);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[expect(clippy::cast_precision_loss, reason = "a percentage with two digits needs no more")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

/// `8,190`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1h2m3s`, as Go writes it.
pub(super) fn duration(nanos: u64) -> String {
    let seconds = nanos / 1_000_000_000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}
