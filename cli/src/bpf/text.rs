//! The dumps as tables.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use specola_agent::bpf::{
    AddressRow, ConnectionEnd, ConnectionRow, ConnectionTotals, EndpointRow, LaneRow, NamedCookie,
    NamedIdentity, PacketRow, PolicyRow, ProgramRow,
};
use specola_flow::DropReason;

use crate::columns::Columns;
use crate::endpoint::{origin_text, port_text, protocol_text};
use crate::printer::{binary_size, escape};

pub(super) fn policy(rows: &[PolicyRow]) -> Columns {
    let mut table = Columns::new([
        "ENDPOINT",
        "POD",
        "DIRECTION",
        "PEER",
        "PROTOCOL",
        "PORT",
        "ACTION",
        "PRECEDENCE",
        "COOKIE",
        "RULES",
    ]);
    for row in rows {
        let audit = if row.audit { " (audit)" } else { "" };
        let proxy = if row.proxy_port == 0 { String::new() } else { format!(" to port {}", row.proxy_port) };
        table.row([
            row.endpoint.to_string(),
            or_dash(row.pod.as_deref()),
            row.direction.to_owned(),
            if row.identity.id == 0 { "any".to_owned() } else { identity(&row.identity) },
            protocol_text(row.protocol.into()),
            port_text(row.first_port.into(), row.last_port.into()),
            format!("{}{proxy}{audit}", row.action),
            row.precedence.to_string(),
            row.cookie.id.to_string(),
            rules(&row.cookie),
        ]);
    }
    table
}

pub(super) fn connections(rows: &[ConnectionRow]) -> Columns {
    let mut table = Columns::new([
        "PROTOCOL",
        "INITIATOR",
        "RESPONDER",
        "STATE",
        "SENT",
        "RECEIVED",
        "AGE",
        "IDLE",
        "EXPIRES",
        "EGRESS",
        "INGRESS",
    ]);
    for row in rows {
        let mid = if row.mid_stream { " (mid-stream)" } else { "" };
        table.row([
            protocol_text(row.protocol.into()),
            end(&row.initiator),
            end(&row.responder),
            format!("{}{mid}", row.state),
            traffic(&row.initiator),
            traffic(&row.responder),
            duration(row.age_ms),
            duration(row.idle_ms),
            if row.expires_in_ms == 0 { "over".to_owned() } else { duration(row.expires_in_ms) },
            verdict(&row.initiator),
            verdict(&row.responder),
        ]);
    }
    table
}

pub(super) fn addresses(rows: &[AddressRow]) -> Columns {
    let mut table = Columns::new(["PREFIX", "IDENTITY", "ENDPOINT", "POD", "NODE"]);
    for row in rows {
        let node = row.node.map(|node| node.to_string());
        let node = if row.local_node { Some("this one".to_owned()) } else { node };
        table.row([
            row.prefix.to_string(),
            identity(&row.identity),
            row.endpoint.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            or_dash(row.pod.as_deref()),
            or_dash(node.as_deref()),
        ]);
    }
    table
}

pub(super) fn endpoints(rows: &[EndpointRow]) -> Columns {
    let mut table = Columns::new([
        "SLOT",
        "ENDPOINT",
        "POD",
        "IDENTITY",
        "INTERFACE",
        "IPS",
        "MAC",
        "STATE",
        "REVISION",
        "EPOCH",
        "TRIE",
        "ENTRIES",
    ]);
    for row in rows {
        let ips: Vec<_> = row.ips.iter().map(IpAddr::to_string).collect();
        let state = match (row.ready, row.audit) {
            (false, _) => "closed",
            (true, false) => "ready",
            (true, true) => "audit",
        };
        let step = if row.in_step { "" } else { " (updating)" };
        table.row([
            row.slot.to_string(),
            row.endpoint.to_string(),
            or_dash(row.pod.as_deref()),
            identity(&row.identity),
            interface(row.ifindex, row.interface.as_deref()),
            ips.join(","),
            row.mac.clone(),
            state.to_owned(),
            row.revision.to_string(),
            row.epoch.to_string(),
            format!("{}{step}", row.active),
            row.entries.to_string(),
        ]);
    }
    table
}

pub(super) fn packets(rows: &[PacketRow]) -> Columns {
    let mut table = Columns::new(["DIRECTION", "FATE", "PACKETS", "BYTES"]);
    for row in rows {
        let fate = match row.reason {
            0 => "forwarded".to_owned(),
            reason => DropReason(reason).to_string(),
        };
        table.row([row.direction.to_owned(), fate, row.packets.to_string(), row.bytes.to_string()]);
    }
    table
}

pub(super) fn lanes(rows: &[LaneRow]) -> Columns {
    let mut table = Columns::new(["LANE", "ATTEMPTS", "SUBMITTED", "LOST", "FOLDED", "WAITING", "SIZE"]);
    for row in rows {
        table.row([
            row.lane.to_owned(),
            row.attempts.to_string(),
            row.submitted.to_string(),
            row.lost.to_string(),
            row.folded.to_string(),
            binary_size(row.waiting_bytes),
            binary_size(row.size_bytes),
        ]);
    }
    table
}

pub(super) fn connection_totals(totals: &ConnectionTotals) -> Columns {
    let mut table = Columns::new(["CONNECTIONS CREATED", "REMOVED", "PRESENT", "EVICTED"]);
    let ConnectionTotals { created, removed, present, evicted } = *totals;
    table.row([created, removed, present, evicted].map(|count| count.to_string()));
    table
}

pub(super) fn programs(rows: &[ProgramRow]) -> Columns {
    let mut table = Columns::new(["ID", "NAME", "HOOKED AT", "TAG", "LOADED", "CODE", "VERIFIED", "MEMORY"]);
    for row in rows {
        let hooked = |hook: &specola_agent::bpf::Hooked| {
            format!("{} {} ({})", interface(hook.ifindex, hook.interface.as_deref()), hook.hook, hook.by)
        };
        let hooks: Vec<_> = row.hooks.iter().map(hooked).collect();
        let verified = row.verified_instructions.map(|count| format!("{count} instructions"));
        table.row([
            row.id.to_string(),
            escape(&row.name),
            or_dash(Some(hooks.join(", ").as_str()).filter(|text| !text.is_empty())),
            row.tag.clone(),
            row.loaded_at.map_or_else(|| "-".to_owned(), moment),
            if row.jitted_bytes == 0 {
                "interpreted".to_owned()
            } else {
                binary_size(row.jitted_bytes.into())
            },
            or_dash(verified.as_deref()),
            binary_size(row.memory_bytes.into()),
        ]);
    }
    table
}

/// `258 k8s:app=web`; of many labels the first few.
fn identity(identity: &NamedIdentity) -> String {
    let shown: Vec<_> =
        identity.labels.iter().filter(|label| !label.contains("io.cilium.k8s")).take(LABELS).collect();
    let more = if shown.len() == LABELS && identity.labels.len() > LABELS { ",.." } else { "" };
    let labels: Vec<_> = shown.into_iter().map(|label| escape(label)).collect();
    format!("{} {}{more}", identity.id, labels.join(",")).trim_end().to_owned()
}

fn rules(cookie: &NamedCookie) -> String {
    let origins: Vec<_> = cookie.origins.iter().map(origin_text).collect();
    or_dash(Some(origins.join(", ").as_str()).filter(|text| !text.is_empty()))
}

fn end(end: &ConnectionEnd) -> String {
    let address = SocketAddr::new(end.address, end.port);
    match &end.pod {
        Some(pod) => format!("{address} ({})", escape(pod)),
        None => address.to_string(),
    }
}

fn traffic(end: &ConnectionEnd) -> String {
    format!("{} / {}", end.packets, binary_size(end.bytes))
}

fn verdict(end: &ConnectionEnd) -> String {
    let Some(verdict) = end.verdict else { return "-".to_owned() };
    let reason = end.drop_reason.map(|reason| format!(" ({})", DropReason(reason))).unwrap_or_default();
    let rules = end.cookie.as_ref().map(rules).filter(|rules| rules != "-");
    let by = rules.map(|rules| format!(" by {rules}")).unwrap_or_default();
    format!("{verdict}{reason}{by}")
}

fn interface(ifindex: u32, name: Option<&str>) -> String {
    name.map_or_else(|| format!("{ifindex} (gone)"), escape)
}

/// `3h07m`, `12.5s`.
fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{:.1}s", Duration::from_millis(milliseconds).as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

fn moment(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}

fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), escape)
}

/// How many labels a table shows.
const LABELS: usize = 3;
